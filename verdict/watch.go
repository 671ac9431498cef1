// SPDX-License-Identifier: Apache-2.0

package verdict

import "time"

const (
	// tickEvery is how often the watcher looks at the tasks that sleep. A deadly signal
	// after another one is noticed so late; more often would cost an idle machine more.
	tickEvery = 10 * time.Millisecond
	// glanceEvery is how often it looks for deadly signals of a task that the kernel said
	// nothing about. Nothing should be found: the kernel tells of the first signal to each
	// request (fs/fuse/dev.c, request_wait_answer). It tells of no later one.
	glanceEvery = time.Second
)

// watch looks after the tasks that sleep, until over is closed.
func (g *Gate) watch(over <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-over:
			return
		case <-timer.C:
		case <-g.rouse:
		}
		now := time.Since(g.start)
		sleeping := g.tick(now)
		if !g.hangs(now) && g.broken.Load() == 0 {
			g.config.Beat(sleeping)
		}
		next := tickEvery
		if sleeping == 0 && g.rest() {
			next = g.config.BeatEvery
		}
		timer.Reset(next)
	}
}

// hangs says whether the loop is in Look for longer than a task may sleep. The deadline
// ends the waits that the loop has noted; those behind, which it has not read, have none.
func (g *Gate) hangs(now time.Duration) bool {
	if unique := g.looking.Load(); unique == 0 || unique != g.lookSeen {
		g.lookSeen, g.lookSince = unique, now
		return false
	}
	return now-g.lookSince >= g.config.Deadline
}

// rest lets the watcher sleep until the next beat, unless a task went to sleep since the
// watcher looked.
func (g *Gate) rest() bool {
	g.idle.Store(true)
	for range g.asleep.all() {
		g.idle.Store(false)
		return false
	}
	return true
}

// wakeWatcher lets the watcher look at once.
func (g *Gate) wakeWatcher() {
	select {
	case g.rouse <- struct{}{}:
	default: // it is about to look
	}
}

// tick looks at each task that sleeps, ends the waits that have to end and returns how
// many tasks slept. now counts from g.start.
func (g *Gate) tick(now time.Duration) (sleeping int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for slot := range g.asleep.all() {
		w := &g.waits[slot]
		unique, ticket, tid, ok := w.get()
		if !ok {
			if !g.forget(slot) {
				sleeping++
			}
			continue
		}
		sleeping++
		if g.slots.undecided(slot, ticket) {
			v := g.overdue(w, unique, tid, now)
			if v == None {
				continue
			}
			if outcome, _ := g.slots.Decide(slot, ticket, v); outcome.Won {
				g.count(v)
			}
		}
		g.wake(w, unique) // whoever decided: not all who do so know who sleeps
	}
	return sleeping
}

// forget takes a slot in which nobody sleeps out of the set, and says whether nobody does.
// Whoever begins to sleep writes the wait and then looks at the set, so that either this
// is seen here, or the slot comes back into the set.
func (g *Gate) forget(slot uint32) bool {
	g.asleep.remove(slot)
	if g.waits[slot].unique.Load() == 0 {
		return true
	}
	g.asleep.add(slot)
	return false
}

// overdue returns the verdict that has to end a wait now, or None. With g.mu held.
func (g *Gate) overdue(w *wait, unique uint64, tid uint32, now time.Duration) Verdict {
	w.stamp(unique, now)
	if now-w.since >= g.config.Deadline {
		return Late
	}
	if w.signaled.Load() != unique && now-w.looked < glanceEvery {
		return None
	}
	w.looked = now
	if tid != 0 && dying(g.status(tid)) {
		return Killed
	}
	return None
}

func (g *Gate) count(v Verdict) {
	if v == Late {
		g.late.Add(1)
	} else {
		g.killed.Add(1)
	}
}

// interrupt marks the task whose request a signal interrupted: any signal, and the kernel
// tells of no later one. So the watcher looks at the signals of this task at once, and
// again with each tick.
func (g *Gate) interrupt(unique uint64) {
	g.interrupted.Add(1)
	for slot := range g.asleep.all() {
		if w := &g.waits[slot]; w.unique.Load() == unique {
			w.signaled.Store(unique)
			g.wakeWatcher()
			return
		}
	}
}
