// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

// waitName names a wait.
type waitName struct {
	slot   uint32
	ticket uint64
}

// simulator lets tasks wait as the kernel half does it, and many decide about them at once.
type simulator struct {
	t *testing.T
	*Gate
	k        *kernel
	slots    chan uint32   // those without an owner
	magazine chan waitName // records that nobody has read
	hours    atomic.Int64  // a clock that runs fast
	dying    []atomic.Bool // by slot; its number is the thread's, too
	asked    atomic.Uint64

	mu      sync.Mutex
	winners map[waitName]Verdict // what those who won decided
	learned map[waitName]Verdict // what the tasks found in their slots
}

// TestSimulator: whatever happens at once, each wait is decided once, each task learns the
// verdict about its own wait, and each request is answered once (the kernel sees to that).
func TestSimulator(t *testing.T) {
	const slots, tasks, waits, deciders = 70, 40, 200, 3
	s := &simulator{
		t: t, slots: make(chan uint32, slots), magazine: make(chan waitName, tasks),
		dying:   make([]atomic.Bool, slots),
		winners: make(map[waitName]Verdict), learned: make(map[waitName]Verdict),
	}
	for slot := uint32(1); slot < slots; slot += 3 { // fewer than tasks: they change hands
		s.slots <- slot
	}
	c := testConfig(slots)
	made := make(chan struct{})
	c.Look = func() {
		<-made
		s.drain(rand.New(rand.NewPCG(1, s.asked.Load())))
	}
	s.Gate, s.k = serve(t, c)
	s.status = s.threadStatus
	close(made)

	var waiting, deciding sync.WaitGroup
	for i := range uint64(tasks) {
		waiting.Go(func() { s.task(rand.New(rand.NewPCG(2, i)), waits) })
	}
	for i := range uint64(deciders) {
		deciding.Go(func() {
			random := rand.New(rand.NewPCG(3, i))
			for w := range s.magazine {
				s.judge(random, w)
			}
		})
	}
	waiting.Wait()
	close(s.magazine)
	deciding.Wait()
	s.balance(tasks * waits)
}

// task waits so many times, now in this slot and now in that.
func (s *simulator) task(random *rand.Rand, waits int) {
	for waits > 0 {
		slot := <-s.slots
		for range min(waits, 1+random.IntN(10)) {
			s.wait(random, slot)
			waits--
		}
		s.slots <- slot
	}
}

// wait is one event of a task.
func (s *simulator) wait(random *rand.Rand, slot uint32) {
	w := waitName{slot, begin(s.Gate.slots, slot)}
	fate := random.IntN(10)
	if fate >= 2 { // else nobody judges it in time
		s.magazine <- w
	}
	if random.IntN(2) == 0 {
		runtime.Gosched()
	}
	if fate == 9 { // the gate cannot be used
		s.decide(s.Gate.slots.Decide, w, Unasked)
		s.learn(w)
		return
	}
	s.asked.Add(1)
	s.dying[slot].Store(fate == 0)
	unique, answered := s.k.ask(slot, slot)
	if fate == 0 || random.IntN(4) == 0 { // a signal, deadly or not
		s.k.tell(fuse.OpInterrupt, fusetest.Uint64s(unique))
	}
	if fate == 1 { // it waits too long
		<-s.k.request(fuse.OpFlush, gateNode, nil) // now it sleeps
		for range 2 {
			s.tick(time.Duration(s.hours.Add(1)) * time.Hour)
		}
	}
	if got := <-answered; got != (fusetest.Answer{}) {
		s.t.Errorf("%v: answered with %v", w, got)
	}
	s.learn(w)
}

// learn is what a task does when it is awake again.
func (s *simulator) learn(w waitName) {
	ticket, v, err := s.Gate.slots.Load(w.slot)
	if ticket != w.ticket || v == None || err != nil {
		s.t.Errorf("%v: awake with ticket %d, %s, %v", w, ticket, v, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learned[w] = v
}

// judge is what an agent does, and what it should not do.
func (s *simulator) judge(random *rand.Rand, w waitName) {
	v := Trusted + Verdict(random.IntN(2))
	switch random.IntN(3) {
	case 0: // about the wait before, which is over
		if outcome, err := s.Decide(w.slot, w.ticket-1, v); outcome.Won || err != nil {
			s.t.Errorf("%v: decided about the wait before: %s, %v", w, outcome, err)
		}
	case 1: // in such a hurry that the first to come wins
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.decide(s.Decide, w, Trusted)
		}()
		s.decide(s.Decide, w, Untrusted)
		<-done
		return
	}
	s.decide(s.Decide, w, v)
	if outcome, err := s.Decide(w.slot, w.ticket, v); outcome.Won || err != nil {
		s.t.Errorf("%v: decided twice: %s, %v", w, outcome, err)
	}
}

// decide books who won.
func (s *simulator) decide(decide func(uint32, uint64, Verdict) (Outcome, error), w waitName, v Verdict) {
	outcome, err := decide(w.slot, w.ticket, v)
	if err != nil {
		s.t.Errorf("%v: %v", w, err)
	}
	if !outcome.Won {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.winners[w]; ok {
		s.t.Errorf("%v: both %s and %s won", w, before, v)
	}
	s.winners[w] = v
}

// drain judges what is in the magazine, without waiting for more.
func (s *simulator) drain(random *rand.Rand) {
	for {
		select {
		case w, ok := <-s.magazine:
			if !ok {
				return
			}
			s.judge(random, w)
		default:
			return
		}
	}
}

func (s *simulator) threadStatus(tid uint32) ([]byte, error) {
	pending := bit(unix.SIGUSR1)
	if s.dying[tid].Load() {
		pending |= bit(unix.SIGKILL)
	}
	return []byte(status(pending, 0, 0, 0, 0, 0)), nil
}

// balance compares what was decided with what was learned.
func (s *simulator) balance(waits int) {
	if len(s.learned) != waits {
		s.t.Errorf("%d waits of %d", len(s.learned), waits)
	}
	count := make(map[Verdict]uint64)
	for w, v := range s.learned {
		count[v]++
		// Those that the watcher decided, it booked itself.
		if winner, ok := s.winners[w]; ok != (v != Late && v != Killed) || ok && winner != v {
			s.t.Errorf("%v: learned %s, the winner decided %s", w, v, winner)
		}
	}
	got := s.Stats()
	if got.Asked != s.asked.Load() || got.Late != count[Late] || got.Killed != count[Killed] || got.Bad+got.Gone != 0 {
		s.t.Errorf("%+v, but %d asked, and learned was %v", got, s.asked.Load(), count)
	}
	for v := Trusted; v <= Unasked; v++ {
		if count[v] == 0 && v != Closed {
			s.t.Errorf("nothing was %s: %v", v, count)
		}
	}
	s.t.Logf("%+v, learned %v", got, count)
}
