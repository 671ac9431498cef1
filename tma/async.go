// SPDX-License-Identifier: Apache-2.0

package tma

import "github.com/tsem-bpf/tsem-bpf/control"

// asyncKept is how many events back a reply about an async_event may reach: 2.6 MB, far more
// than lie in the pipe of an agent.
const asyncKept = 1 << 16

// asyncEvent is an event with which nobody waits, and about which an agent may reply.
type asyncEvent struct {
	number, tnum, ticket uint64
	slot, pid            uint32
}

// addAsync notes an event with which nobody waits. The numbers of a namespace have no gaps,
// so each stays until asyncKept more events have come.
func (w *Waits) addAsync(e asyncEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.async == nil {
		w.async = make([]asyncEvent, asyncKept)
	}
	w.async[e.number%asyncKept] = e
}

// asyncOf returns the event that a reply is about if nobody waits with that, until it has been found; else nil. With mu held.
func (w *Waits) asyncOf(r control.Release) *asyncEvent {
	if r.Number == 0 || w.async == nil {
		return nil
	}
	if e := &w.async[r.Number%asyncKept]; e.number == r.Number && e.tnum == r.TNum {
		return e
	}
	return nil
}

// findAsync returns the event that a reply is about, once, if nobody waits with that. The
// error is ErrReply.
func (w *Waits) findAsync(r control.Release) (e asyncEvent, ok bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.asyncOf(r)
	switch {
	case kept == nil:
		return asyncEvent{}, false, nil
	case kept.pid != r.PID:
		return asyncEvent{}, false, wrongPid(r, kept.pid)
	}
	e, *kept = *kept, asyncEvent{}
	return e, true, nil
}
