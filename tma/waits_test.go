// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// host has slots in which tasks wait, as the kernel half has them.
type host struct {
	t     *testing.T
	all   []bpf.Slot
	slots *verdict.Slots
	waits *Waits
}

func newHost(t *testing.T, slots int) *host {
	h := &host{t: t, all: make([]bpf.Slot, slots), waits: NewWaits(nil, nil)}
	h.slots = verdict.NewSlots(h.all)
	h.waits.decide, h.waits.decideAsync = h.slots.Decide, h.slots.DecideAsync
	return h
}

// begin lets the task with so many waits in its slot wait once more.
func (h *host) begin(tnum uint64, slot uint32, ticket, number uint64) verdict.Verdict {
	atomic.StoreUint64(&h.all[slot].Word, ticket<<8) // as the kernel half does it, beside whoever decides about the wait before
	return h.waits.add(tnum, waiting{slot: slot, ticket: ticket, pid: uint32(tnum) + 100, number: number})
}

// reply lets the agent reply about a task; number 0: without.
func (h *host) reply(v verdict.Verdict, tnum, number uint64) {
	h.t.Helper()
	if err := h.waits.Reply(control.Release{Verdict: v, PID: uint32(tnum) + 100, TNum: tnum, Number: number}); err != nil {
		h.t.Error(err)
	}
}

// want compares the latest wait in a slot, and the counters.
func (h *host) want(slot uint32, want verdict.Verdict, decided, late uint64) {
	h.t.Helper()
	_, v, err := h.slots.Load(slot)
	if got := h.waits.Stats(); err != nil || v != want || got != (Stats{decided, late}) {
		h.t.Errorf("slot %d: %v, %v; %+v; want %v, %d, %d", slot, v, err, got, want, decided, late)
	}
}

func TestWaitsReply(t *testing.T) {
	h := newHost(t, 8)
	if v := h.begin(1, 3, 1, 10); v != verdict.None {
		t.Errorf("decided in Judge: %v", v)
	}
	h.begin(2, 4, 9, 11)
	h.reply(verdict.Untrusted, 2, 0)
	h.want(3, verdict.None, 1, 0)
	h.want(4, verdict.Untrusted, 1, 0)
	h.reply(verdict.Trusted, 1, 0)
	h.want(3, verdict.Trusted, 2, 0)

	h.reply(verdict.Untrusted, 1, 0)
	h.want(3, verdict.Trusted, 2, 1) // twice
	h.reply(verdict.Untrusted, 7, 0)
	h.want(3, verdict.Trusted, 2, 2) // an unknown task
}

// TestWaitsLateReply: a reply that comes after its event is over is not applied to the next
// event of the task.
func TestWaitsLateReply(t *testing.T) {
	h := newHost(t, 8)
	h.begin(1, 3, 1, 10)
	if _, err := h.slots.Decide(3, 1, verdict.Late); err != nil {
		t.Fatal(err)
	}
	h.begin(1, 3, 2, 11)
	if _, err := h.slots.Decide(3, 2, verdict.Late); err != nil {
		t.Fatal(err)
	}
	h.begin(1, 3, 3, 12)
	h.reply(verdict.Trusted, 1, 0) // about 10
	h.want(3, verdict.None, 0, 1)
	h.reply(verdict.Trusted, 1, 0) // about 11
	h.want(3, verdict.None, 0, 2)
	h.reply(verdict.Untrusted, 1, 0) // about 12
	h.want(3, verdict.Untrusted, 1, 2)

	h.begin(1, 3, 4, 13)
	if _, err := h.slots.Decide(3, 4, verdict.Killed); err != nil {
		t.Fatal(err)
	}
	h.reply(verdict.Trusted, 1, 0) // about 13, before there is another one
	h.want(3, verdict.Killed, 1, 3)
	h.begin(1, 3, 5, 14)
	h.reply(verdict.Trusted, 1, 0)
	h.want(3, verdict.Trusted, 2, 3)
}

// TestWaitsNumber: a reply with a number is about that event alone.
func TestWaitsNumber(t *testing.T) {
	h := newHost(t, 8)
	h.begin(1, 3, 1, 10)
	h.reply(verdict.Trusted, 1, 9) // of a hook that does not wait, for example
	h.want(3, verdict.None, 0, 1)
	if _, err := h.slots.Decide(3, 1, verdict.Late); err != nil {
		t.Fatal(err)
	}
	h.begin(1, 3, 2, 11)
	h.reply(verdict.Untrusted, 1, 11)
	h.want(3, verdict.Untrusted, 1, 1)
	h.reply(verdict.Trusted, 1, 10)
	h.want(3, verdict.Untrusted, 1, 2)
}

// pass lets the task do something that does not wait.
func (h *host) pass(tnum uint64, slot uint32, ticket, number uint64) {
	h.all[slot].Word = ticket<<8 | uint64(verdict.Unasked)
	h.all[slot].Trust = tnum << 8
	h.waits.addAsync(asyncEvent{number: number, tnum: tnum, ticket: ticket, slot: slot, pid: uint32(tnum) + 100})
}

// TestWaitsAsync: a reply about an event that did not wait is applied to that event if it is
// in time, and else to its task, once.
func TestWaitsAsync(t *testing.T) {
	h := newHost(t, 8)
	h.pass(1, 3, 1, 10)
	h.reply(verdict.Trusted, 1, 10)
	h.want(3, verdict.Unasked, 0, 1)
	h.reply(verdict.Untrusted, 1, 10) // it has its reply
	h.want(3, verdict.Unasked, 0, 2)

	h.pass(1, 3, 2, 11)
	h.all[3].Word = 2 << 8 // it still looks
	h.reply(verdict.Untrusted, 1, 11)
	h.want(3, verdict.Untrusted, 1, 2)
	if h.all[3].Trust != 1<<8 {
		t.Error("the task finds the verdict itself")
	}

	h.pass(1, 3, 3, 12)
	h.begin(1, 3, 4, 13) // waits already with the next event
	h.reply(verdict.Untrusted, 1, 12)
	h.want(3, verdict.None, 2, 2)
	if h.all[3].Trust != 1<<8|bpf.Untrusted {
		t.Error("the task is still trusted")
	}
	h.reply(verdict.Trusted, 1, 13)
	h.want(3, verdict.Trusted, 3, 2)

	h.pass(1, 3, 5, 14)
	err := h.waits.Reply(control.Release{Verdict: verdict.Untrusted, PID: 5, TNum: 1, Number: 14})
	if want := `not a reply: "untrusted pid=5 tnum=1", but task 1 has pid 101`; !errors.Is(err, ErrReply) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	h.pass(2, 4, 1, 14+asyncKept) // takes its place
	h.reply(verdict.Untrusted, 1, 14)
	h.want(3, verdict.Unasked, 3, 3)
}

func TestWaitsForeignPid(t *testing.T) {
	h := newHost(t, 8)
	h.begin(1, 3, 1, 10)
	err := h.waits.Reply(control.Release{Verdict: verdict.Trusted, PID: 5, TNum: 1})
	const want = `not a reply: "trusted pid=5 tnum=1", but task 1 has pid 101`
	if !errors.Is(err, ErrReply) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	h.want(3, verdict.None, 0, 0)
}

// TestWaitsPid: without a task number a reply is about the last task with that pid.
func TestWaitsPid(t *testing.T) {
	h := newHost(t, 8)
	release := func(v verdict.Verdict, pid uint32, known bool) {
		t.Helper()
		r := control.Release{Verdict: v, PID: pid}
		if got := h.waits.Knows(r); got != known {
			t.Errorf("pid %d is known: %v", pid, got)
		}
		if err := h.waits.Reply(r); err != nil {
			t.Error(err)
		}
	}
	h.begin(1, 3, 1, 10)
	release(verdict.Trusted, 102, false)
	h.want(3, verdict.None, 0, 1)
	release(verdict.Trusted, 101, true)
	h.want(3, verdict.Trusted, 1, 1)
	h.waits.add(1, waiting{slot: 3, ticket: 2, pid: 55}) // after an exec
	h.all[3].Word = 2 << 8
	release(verdict.Trusted, 101, false)
	release(verdict.Untrusted, 55, true)
	h.want(3, verdict.Untrusted, 2, 2)
	h.all[3].Word = 3 << 8
	h.waits.add(9, waiting{slot: 3, ticket: 3, pid: 55}) // another task, with the pid and the slot of the first
	release(verdict.Trusted, 55, true)
	h.want(3, verdict.Trusted, 3, 2)
	h.begin(10, 3, 4, 13)
	release(verdict.Trusted, 55, false)
	h.want(3, verdict.None, 3, 3)
}

// TestWaitsPidTaken: the pid that a task had before an exec can be another task's by now.
func TestWaitsPidTaken(t *testing.T) {
	h := newHost(t, 8)
	h.begin(1, 3, 1, 10)
	h.all[4].Word = 1 << 8
	h.waits.add(2, waiting{slot: 4, ticket: 1, pid: 101})
	h.waits.add(1, waiting{slot: 3, ticket: 2, pid: 55})
	if err := h.waits.Reply(control.Release{Verdict: verdict.Trusted, PID: 101}); err != nil {
		t.Error(err)
	}
	h.want(4, verdict.Trusted, 1, 0)
}

// TestWaitsClose: who waits is decided, once, and nobody waits from then on.
func TestWaitsClose(t *testing.T) {
	h := newHost(t, 8)
	h.begin(1, 3, 1, 10)
	h.begin(2, 4, 1, 11)
	h.begin(3, 5, 1, 12)
	h.reply(verdict.Trusted, 2, 0)
	if _, err := h.slots.Decide(5, 1, verdict.Late); err != nil {
		t.Fatal(err)
	}
	h.waits.Close()
	h.want(3, verdict.Closed, 1, 0)
	h.want(4, verdict.Trusted, 1, 0)
	h.want(5, verdict.Late, 1, 0)
	if v := h.begin(1, 3, 2, 13); v != verdict.Closed {
		t.Errorf("afterwards: %v", v)
	}
	h.reply(verdict.Trusted, 1, 0)
	h.want(3, verdict.None, 1, 1)
	h.waits.Close()
}

// TestWaitsBounded: tasks that are gone make room for those that have their slots.
func TestWaitsBounded(t *testing.T) {
	h := newHost(t, 8)
	for tnum := uint64(1); tnum <= 1000; tnum++ {
		h.begin(tnum, uint32(tnum%7+1), tnum, tnum)
	}
	if len(h.waits.tasks) != 7 || len(h.waits.owners) != 7 || len(h.waits.pids) != 7 {
		t.Errorf("%d tasks, %d slots, %d pids", len(h.waits.tasks), len(h.waits.owners), len(h.waits.pids))
	}
	h.reply(verdict.Trusted, 1, 0)
	h.reply(verdict.Trusted, 1000, 0)
	h.want(1000%7+1, verdict.Trusted, 1, 1)
}

// TestWaitsRace: of an agent, a deadline and a failure that decide at the same time each
// event gets one verdict, and the counters say how many were the agent's.
func TestWaitsRace(t *testing.T) {
	const tasks, events = 20, 200
	h := newHost(t, tasks+1)
	var mu sync.Mutex
	won := make(map[string]int)
	h.waits.decide = func(slot uint32, ticket uint64, v verdict.Verdict) (verdict.Outcome, error) {
		outcome, err := h.slots.Decide(slot, ticket, v)
		if outcome.Won {
			mu.Lock()
			defer mu.Unlock()
			won[v.String()]++
		}
		return outcome, err
	}
	var all sync.WaitGroup
	for tnum := uint64(1); tnum <= tasks; tnum++ {
		all.Go(func() {
			for ticket := uint64(1); ticket <= events; ticket++ {
				if tnum == 7 && ticket == events/2 {
					h.waits.Close()
				}
				slot := uint32(tnum)
				if h.begin(tnum, slot, ticket, ticket) != verdict.None {
					_, _ = h.waits.decide(slot, ticket, verdict.Closed)
					continue
				}
				both := []func(){
					func() { _, _ = h.waits.decide(slot, ticket, verdict.Late) },
					func() { h.reply(verdict.Trusted, tnum, 0) },
				}
				if rand.IntN(2) == 0 {
					slices.Reverse(both)
				}
				var two sync.WaitGroup
				for _, decide := range both {
					two.Go(decide)
				}
				two.Wait()
			}
		})
	}
	all.Wait()
	got := h.waits.Stats()
	if uint64(won["trusted"]) != got.Decided || won["closed"] == 0 || won["trusted"]+won["late"]+won["closed"] != tasks*events {
		t.Errorf("%+v; won: %d trusted, %d late, %d closed", got, won["trusted"], won["late"], won["closed"])
	}
}
