// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// race lets functions run at the same moment, so many times, or until the test has failed.
func race(t *testing.T, rounds int, before func(), functions ...func()) {
	const over = -1
	var round atomic.Int64
	var done, all sync.WaitGroup
	for _, f := range functions {
		all.Go(func() {
			for i := range int64(rounds) {
				for round.Load() != i+1 {
					if round.Load() == over {
						return
					}
					runtime.Gosched()
				}
				f()
				done.Done()
			}
		})
	}
	for range rounds {
		if before(); t.Failed() {
			break
		}
		done.Add(len(functions))
		round.Add(1)
		done.Wait()
	}
	if t.Failed() {
		round.Store(over)
	}
	all.Wait()
}

// TestWaitEnd: of all who end a wait, one has to answer.
func TestWaitEnd(t *testing.T) {
	waits := make([]wait, 1000)
	var unique, ended uint64
	end := func() {
		n := uint64(0)
		for i := range waits {
			if waits[i].end(unique) {
				n++
			}
		}
		atomic.AddUint64(&ended, n)
	}
	race(t, 50, func() {
		if want := unique / 2 * uint64(len(waits)); ended != want {
			t.Errorf("%d waits ended, there were %d", ended, want)
		}
		unique += 2
		for i := range waits {
			waits[i].begin(1, unique, 1)
		}
	}, end, end)
}

// TestWaitGet: who looks at a wait while others begin and end sees one, or none.
func TestWaitGet(t *testing.T) {
	var w wait
	var unique uint64
	begin := func() {
		for range 20 {
			unique += 2
			w.begin(3*unique, unique, uint32(5*unique))
			w.end(unique)
		}
	}
	get := func() {
		for range 20 {
			if unique, ticket, tid, ok := w.get(); ok && (ticket != 3*unique || tid != uint32(5*unique)) {
				t.Errorf("request %d has ticket %d and thread %d", unique, ticket, tid)
			}
		}
	}
	race(t, 3000, func() {}, begin, get)
}

// TestForget: whoever sleeps is in the set, also if the watcher forgets the slot just then.
func TestForget(t *testing.T) {
	g, err := New(testConfig(2))
	if err != nil {
		t.Fatal(err)
	}
	var unique uint64
	sleep := func() {
		g.waits[1].begin(1, unique, 1)
		g.asleep.add(1)
	}
	forgot := false
	forget := func() { forgot = g.forget(1) }
	race(t, 1000, func() {
		if unique != 0 && !slices.Contains(slices.Collect(g.asleep.all()), 1) {
			t.Errorf("request %d sleeps and is not in the set; forgotten: %t", unique, forgot)
		}
		g.waits[1].end(unique)
		unique += 2
		g.asleep.add(1)
	}, sleep, forget)
}

// TestCloseWhileForgetting: Close ends the wait of whoever sleeps, also of who begins to while the watcher forgets the slot: it has
// taken the slot out of the set and not put it back yet. What tick and forget do is done here step by step.
func TestCloseWhileForgetting(t *testing.T) {
	c := testConfig(2)
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	g.reply = func(int, uint64, unix.Errno) unix.Errno { return 0 }
	g.mu.Lock()
	g.asleep.remove(1)
	g.waits[1].begin(begin(c.Slots, 1), 2, 1)
	closed := make(chan struct{})
	go func() {
		g.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(100 * time.Millisecond): // it waits for the watcher
	}
	g.asleep.add(1)
	g.mu.Unlock()
	<-closed
	expectVerdict(t, c.Slots, 1, Closed)
	if g.waits[1].unique.Load() != 0 {
		t.Error("nobody has answered")
	}
}

// TestRest: the watcher does not rest if somebody went to sleep since it looked.
func TestRest(t *testing.T) {
	g, err := New(testConfig(2))
	if err != nil {
		t.Fatal(err)
	}
	if !g.rest() || !g.idle.Load() {
		t.Error("nobody sleeps, and the watcher does not rest")
	}
	g.asleep.add(1)
	if g.rest() || g.idle.Load() {
		t.Error("somebody sleeps, and the watcher rests")
	}
}

func TestSlotSet(t *testing.T) {
	s := newSlotSet(130)
	want := []uint32{0, 63, 64, 129}
	for _, slot := range want {
		if !s.add(slot) || s.add(slot) {
			t.Errorf("slot %d was added before, or was not added", slot)
		}
	}
	if got := slices.Collect(s.all()); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	s.remove(63)
	s.remove(63)
	if got, want := slices.Collect(s.all()), []uint32{0, 64, 129}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for slot := range s.all() { // and stops when it is told to
		if slot != 0 {
			t.Errorf("went on to %d", slot)
		}
		break
	}
}
