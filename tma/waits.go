// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"sync"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/event"
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

// Waits knows who waits for an agent, by task number. It never has more tasks than there
// are slots: a slot belongs to one task until that exits.
//
// A reply need not say which event of a task it is about. It is then about the oldest one
// that has none, since a task does one thing after the other; so a verdict that comes after
// its deadline is not taken for one about the next event.
//
// Its lock is held for a few instructions; who deals with an agent by lines of text pays for
// system calls and other processes as well. Any goroutine.
type Waits struct {
	replies sync.WaitGroup // that are under way

	mu     sync.Mutex
	tasks  map[uint64]*waiting
	owners map[uint32]uint64 // the task number of the last task in a slot
	pids   map[uint32]uint64 // the task number of the last task of a pid
	async  []asyncEvent      // the latest events with which nobody waited; nil: there was none
	closed bool

	decide      Decide
	decideAsync DecideAsync

	stats Stats
}

// NewWaits returns one in which nobody waits. What is decided goes to the two functions.
func NewWaits(decide Decide, decideAsync DecideAsync) *Waits {
	w := &Waits{decide: decide, decideAsync: decideAsync}
	w.Reopen()
	return w
}

// Judge is a namespace.Judge: the agent decides later, unless there is none any more. It does no
// I/O.
func (w *Waits) Judge(r *event.Record) verdict.Verdict {
	if r.Kind() == event.KindAsync {
		w.addAsync(asyncEvent{r.Number(), r.Tnum(), r.Ticket(), r.Slot(), r.TID()})
		return verdict.None
	}
	return w.add(r.Tnum(), waiting{slot: r.Slot(), ticket: r.Ticket(), pid: r.TID(), number: r.Number()})
}

// add notes that a task waits; the result is that of a Judge.
func (w *Waits) add(tnum uint64, now waiting) verdict.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return verdict.Closed
	}
	if owner := w.owners[now.slot]; owner != tnum {
		w.forget(owner)
		w.owners[now.slot] = tnum
	}
	if before, ok := w.tasks[tnum]; ok {
		w.forgetPid(before.pid, tnum) // an exec gives a thread the pid of its process
		if now.owed = before.owed; !before.done {
			now.owed++
		}
		*before = now
	} else {
		w.tasks[tnum] = &now
	}
	w.pids[now.pid] = tnum
	return verdict.None
}

// forget forgets a task that has exited.
func (w *Waits) forget(tnum uint64) {
	if t, ok := w.tasks[tnum]; ok {
		w.forgetPid(t.pid, tnum)
	}
	delete(w.tasks, tnum)
}

// forgetPid forgets that a pid is that of a task. It may be another one's by now.
func (w *Waits) forgetPid(pid uint32, tnum uint64) {
	if w.pids[pid] == tnum {
		delete(w.pids, pid)
	}
}

// Knows says whether a reply is about a task that waits or has waited, and may be there still, or about an event with which
// nobody waits and which has no reply. What is not known may be in a moment: Miss is for a reply about that.
func (w *Waits) Knows(r control.Release) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.tasks[w.taskOf(r)]
	return ok || !w.closed && w.asyncOf(r) != nil
}

// Miss counts a reply about what is not known as late.
func (w *Waits) Miss() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Late++
}

// taskOf returns the number of the task that a reply is about: without one it is the last that
// has waited with its pid. 0: there is none.
func (w *Waits) taskOf(r control.Release) uint64 {
	if r.TNum != 0 {
		return r.TNum
	}
	return w.pids[r.PID]
}

// Reply does what a reply says. One about an event that waits no longer, or never did, and
// one about an unknown task has no effect and is counted as late. The error is ErrReply.
func (w *Waits) Reply(r control.Release) error {
	w.mu.Lock()
	if w.closed {
		w.stats.Late++
		w.mu.Unlock()
		return nil
	}
	w.replies.Add(1)
	w.mu.Unlock()
	defer w.replies.Done()
	won, err := w.apply(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case won:
		w.stats.Decided++
	case err == nil:
		w.stats.Late++
	}
	return err
}

// apply does what a reply says, and says whether that had an effect.
func (w *Waits) apply(r control.Release) (bool, error) {
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
func (w *Waits) find(r control.Release) (slot uint32, ticket uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.tasks[w.taskOf(r)]
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

// Close decides Closed about all who wait, and from now on about all who come. When it returns, every
// reply that has had an effect is counted, and none has one any more.
func (w *Waits) Close() {
	w.mu.Lock()
	tasks, decide := w.tasks, w.decide
	w.closed, w.tasks, w.owners, w.pids = true, nil, nil, nil
	w.mu.Unlock()
	for _, t := range tasks {
		if !t.done {
			// Who has been decided about meanwhile stays so.
			_, _ = decide(t.slot, t.ticket, verdict.Closed)
		}
	}
	w.replies.Wait()
}

// Reopen undoes Close: who comes from now on waits for the agent. Nobody else calls either of them meanwhile.
func (w *Waits) Reopen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = false
	w.tasks, w.owners, w.pids = make(map[uint64]*waiting), make(map[uint32]uint64), make(map[uint32]uint64)
}

// Stats returns how the replies are counted.
func (w *Waits) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}
