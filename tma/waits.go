// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"sync"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// waiting is the latest event that a task waited with.
type waiting struct {
	slot   uint32
	ticket uint64
	pid    uint32
	number uint64
	owed   uint64 // replies that the agent still has to give about earlier events
	done   bool   // it has its reply
}

// waits knows who waits for the agent, by task number. It never has more tasks than there
// are slots: a slot belongs to one task until that exits.
//
// A reply need not say which event of a task it is about. It is then about the oldest one
// that has none, since a task does one thing after the other; so a verdict that comes after
// its deadline is not taken for one about the next event.
//
// Its lock is held for a few instructions; who deals with an agent by lines of text pays for
// system calls and other processes as well. Any goroutine.
type waits struct {
	mu     sync.Mutex
	tasks  map[uint64]*waiting
	owners map[uint32]uint64 // the task number of the last task in a slot
	async  []asyncEvent      // the latest events with which nobody waited; nil: there was none
	closed bool

	decide      Decide
	decideAsync DecideAsync

	decided, late uint64 // replies that had an effect, and that had none
}

func newWaits() waits {
	return waits{tasks: make(map[uint64]*waiting), owners: make(map[uint32]uint64)}
}

// add notes that a task waits; the result is that of a Judge.
func (w *waits) add(tnum uint64, now waiting) verdict.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return verdict.Closed
	}
	if owner := w.owners[now.slot]; owner != tnum {
		delete(w.tasks, owner)
		w.owners[now.slot] = tnum
	}
	if before, ok := w.tasks[tnum]; ok {
		if now.owed = before.owed; !before.done {
			now.owed++
		}
		*before = now
	} else {
		w.tasks[tnum] = &now
	}
	return verdict.None
}

// reply does what a reply says. One about an event that waits no longer, or never did, and
// one about an unknown task has no effect and is counted as late. The error is ErrReply.
func (w *waits) reply(r control.Release) error {
	won, err := w.apply(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case won:
		w.decided++
	case err == nil:
		w.late++
	}
	return err
}

// apply does what a reply says, and says whether that had an effect.
func (w *waits) apply(r control.Release) (bool, error) {
	if e, ok, err := w.findAsync(r); ok || err != nil {
		if err != nil {
			return false, err
		}
		outcome, distrusted, err := w.decideAsync(e.slot, e.ticket, e.tnum, r.Verdict)
		return outcome.Won || distrusted, err
	}
	slot, ticket, err := w.find(r)
	if err != nil || slot == 0 {
		return false, err
	}
	outcome, err := w.decide(slot, ticket, r.Verdict)
	return outcome.Won, err
}

// find returns the slot and ticket of the event that a reply is about; slot 0: of none that
// waits.
func (w *waits) find(r control.Release) (slot uint32, ticket uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.tasks[r.TNum]
	switch {
	case !ok || w.closed:
		return 0, 0, nil
	case r.Number != 0 && r.Number != t.number:
		return 0, 0, nil
	case r.Number == 0 && t.owed > 0:
		t.owed--
		return 0, 0, nil
	case t.done:
		return 0, 0, nil
	case r.PID != t.pid:
		return 0, 0, wrongPid(r, t.pid)
	}
	t.done = true
	return t.slot, t.ticket, nil
}

// close decides Closed about all who wait, and from now on about all who come.
func (w *waits) close() {
	w.mu.Lock()
	tasks, decide := w.tasks, w.decide
	w.closed, w.tasks, w.owners = true, nil, nil
	w.mu.Unlock()
	for _, t := range tasks {
		if !t.done {
			// Who has been decided about meanwhile stays so.
			_, _ = decide(t.slot, t.ticket, verdict.Closed)
		}
	}
}

func (w *waits) stats() (decided, late uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.decided, w.late
}
