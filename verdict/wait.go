// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"iter"
	"math/bits"
	"sync/atomic"
	"time"
)

// wait is the wait in one slot, as the gate sees it: a request that was read and not yet
// answered. It fills a cache line, as the slot does.
//
// The loop alone begins a wait, and whoever swaps unique to 0 ends it: nobody else answers
// that request. The kernel uses no unique number twice, so the swap cannot hit another.
type wait struct {
	ticket   atomic.Uint64 // written while unique is 0
	unique   atomic.Uint64 // of the request; 0: nobody sleeps here
	signaled atomic.Uint64 // the unique number of a request that a signal interrupted
	tid      atomic.Uint32 // written while unique is 0; 0: not visible from here
	_        [4]byte

	// Guarded by Gate.mu: for which request the times are, and they, since Gate.start.
	seen   uint64
	since  time.Duration
	looked time.Duration // when the thread's signals were looked at
	_      [8]byte
}

// begin notes that a thread sleeps. The order is what end and get rely on.
func (w *wait) begin(ticket, unique uint64, tid uint32) {
	w.ticket.Store(ticket)
	w.tid.Store(tid)
	w.unique.Store(unique)
}

// end takes a wait and says whether it is the caller who has to answer.
func (w *wait) end(unique uint64) bool { return w.unique.CompareAndSwap(unique, 0) }

// get returns whose the wait is. ok: all three belong together.
func (w *wait) get() (unique, ticket uint64, tid uint32, ok bool) {
	unique = w.unique.Load()
	ticket, tid = w.ticket.Load(), w.tid.Load()
	return unique, ticket, tid, unique != 0 && w.unique.Load() == unique
}

// stamp sets the times of a wait that is seen for the first time.
func (w *wait) stamp(unique uint64, now time.Duration) {
	if w.seen != unique {
		w.seen, w.since, w.looked = unique, now, now
	}
}

// slotSet is a set of slots, one bit for each: whoever looks after the waits need not
// look at all slots there are. Any goroutine.
type slotSet []atomic.Uint64

func newSlotSet(slots int) slotSet { return make(slotSet, (slots+63)/64) }

// add says whether the slot was not in the set before. If it was, that costs no more
// than a look.
func (s slotSet) add(slot uint32) bool {
	word, bit := &s[slot/64], uint64(1)<<(slot%64)
	return word.Load()&bit == 0 && word.Or(bit)&bit == 0
}

func (s slotSet) remove(slot uint32) { s[slot/64].And(^(uint64(1) << (slot % 64))) }

// all returns the slots, rising. What changes meanwhile may be seen or not.
func (s slotSet) all() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for i := range s {
			for word := s[i].Load(); word != 0; word &= word - 1 {
				if !yield(uint32(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}
