// SPDX-License-Identifier: Apache-2.0

package verdict

import "time"

// Waiting is a task that sleeps in a gate.
type Waiting struct {
	Slot   uint32
	Ticket uint64
	TID    uint32    // in the pid namespace of who mounted the gate; 0: not visible there
	Since  time.Time // when the watcher saw it first, at most 10 ms after it went to sleep
}

// Pending returns the tasks that sleep, by slot. Any goroutine.
func (g *Gate) Pending() []Waiting {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Waiting
	now := time.Since(g.start)
	for slot := range g.asleep.all() {
		w := &g.waits[slot]
		if unique, ticket, tid, ok := w.get(); ok {
			w.stamp(unique, now)
			all = append(all, Waiting{slot, ticket, tid, g.start.Add(w.since)})
		}
	}
	return all
}
