// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// What can be wrong with a decision, for errors.Is.
var (
	// ErrMap: the map is no verdict map.
	ErrMap = errors.New("not a verdict map")
	// ErrSlot: there is no slot of that number; 0 is none.
	ErrSlot = errors.New("no such slot")
	// ErrVerdict: nobody can decide that.
	ErrVerdict = errors.New("not a verdict")
)

// Verdict is what was decided about an event: the low byte of a slot's word.
type Verdict uint8

// The values of enum tsem_verdict in bpf/state.h.
const (
	None      = Verdict(bpf.VerdictNone)      // nobody has decided yet: the event waits
	Trusted   = Verdict(bpf.VerdictTrusted)   // by the agent
	Untrusted = Verdict(bpf.VerdictUntrusted) // by the agent
	Late      = Verdict(bpf.VerdictLate)      // the deadline passed
	Killed    = Verdict(bpf.VerdictKilled)    // the task is about to die
	Closed    = Verdict(bpf.VerdictClosed)    // the namespace ends, or its agent failed
	Unasked   = Verdict(bpf.VerdictUnasked)   // by the kernel half: the gate could not be used
	Unwaited  = Verdict(bpf.VerdictUnwaited)  // by the kernel half: the hook could not wait for it
)

var verdicts = [bpf.VerdictMax]string{
	None: "none", Trusted: "trusted", Untrusted: "untrusted", Late: "late", Killed: "killed", Closed: "closed",
	Unasked: "unasked", Unwaited: "unwaited",
}

// String returns the verdict in lower case, "verdict 9" if there is none of that value.
func (v Verdict) String() string {
	if int(v) < len(verdicts) {
		return verdicts[v]
	}
	return "verdict " + strconv.Itoa(int(v))
}

// Outcome says what became of a decision.
type Outcome struct {
	// Won: this decision stands, and nobody can change it any more.
	Won bool
	// Earlier is what stands if somebody else decided first. None, with Won false: the
	// slot has another wait, so that the one in question is over, or not yet begun.
	Earlier Verdict
}

// String returns "won", "already decided: late", or "another wait".
func (o Outcome) String() string {
	switch {
	case o.Won:
		return "won"
	case o.Earlier != None:
		return "already decided: " + o.Earlier.String()
	}
	return "another wait"
}

// verdictBits are the bits of a slot's word below the ticket.
const verdictBits = 8

// trustBits are the bits of a slot's trust below the task number.
const trustBits = 8

// Slots is the verdict map. A wait is named by its slot and its ticket, for ever: the
// ticket counts the waits in its slot and is never set back, whoever owns the slot. All
// methods but Close may be called from any goroutine; none allocates memory.
type Slots struct {
	all    []bpf.Slot
	memory []byte // nil: somebody else's
}

// MapSlots maps the map `slots` of the kernel half. The map is only borrowed: its owner
// may close it, because the mapping keeps the memory alive. ErrMap: it is another map.
func MapSlots(m *ebpf.Map) (*Slots, error) {
	if m.Type() != ebpf.Array || m.ValueSize() != uint32(unsafe.Sizeof(bpf.Slot{})) || m.Flags()&unix.BPF_F_MMAPABLE == 0 {
		return nil, fmt.Errorf("map the verdicts: %s with values of %d bytes and flags %#x: %w",
			m.Type(), m.ValueSize(), m.Flags(), ErrMap)
	}
	return mapSlots(m.FD(), int(m.MaxEntries()))
}

// mapSlots maps so many slots of a file.
func mapSlots(fd, entries int) (*Slots, error) {
	page := os.Getpagesize()
	size := (entries*int(unsafe.Sizeof(bpf.Slot{})) + page - 1) / page * page
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d slots of the verdict map: %w", entries, err)
	}
	all := unsafe.Slice((*bpf.Slot)(unsafe.Pointer(unsafe.SliceData(memory))), entries)
	return &Slots{all: all, memory: memory}, nil
}

// NewSlots returns a verdict map in memory of its own, for tests.
func NewSlots(all []bpf.Slot) *Slots { return &Slots{all: all} }

// Len returns the number of slots, that of slot 0 included, which is never used.
func (s *Slots) Len() int { return len(s.all) }

// Close gives the mapping back. Whoever uses the Slots later, or meanwhile, crashes.
func (s *Slots) Close() error {
	memory := s.memory
	s.all, s.memory = nil, nil
	if memory == nil {
		return nil
	}
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the verdict map: %w", err)
	}
	return nil
}

// Load returns the ticket of the latest wait in a slot, and what was decided about it.
// ErrSlot: there is no such slot.
func (s *Slots) Load(slot uint32) (ticket uint64, v Verdict, err error) {
	if !s.has(slot) {
		return 0, None, ErrSlot
	}
	ticket, v = split(atomic.LoadUint64(&s.all[slot].Word))
	return ticket, v, nil
}

// Time returns the time of the latest event in a slot: CLOCK_BOOTTIME, ns; 0 if there is no such
// slot. It is that of a ticket as long as the task has drawn no other one.
func (s *Slots) Time(slot uint32) uint64 {
	if !s.has(slot) {
		return 0
	}
	return atomic.LoadUint64(&s.all[slot].Time)
}

// Decide decides about one wait, once: of all who decide, the kernel half included,
// exactly one wins. ErrSlot: there is no such slot. ErrVerdict: v is None, or no verdict.
//
// It wakes nobody; Gate.Decide does.
func (s *Slots) Decide(slot uint32, ticket uint64, v Verdict) (Outcome, error) {
	if !s.has(slot) {
		return Outcome{}, ErrSlot
	}
	if v == None || int(v) >= len(verdicts) {
		return Outcome{}, ErrVerdict
	}
	word := &s.all[slot].Word
	for {
		now := atomic.LoadUint64(word)
		switch current, earlier := split(now); {
		case current != ticket:
			return Outcome{}, nil
		case earlier != None:
			return Outcome{Earlier: earlier}, nil
		case atomic.CompareAndSwapUint64(word, now, now|uint64(v)):
			return Outcome{Won: true}, nil
		}
	}
}

// Distrust makes the owner of a slot untrusted, if it still is the task with this number,
// and says whether it is. That lasts until the task exits; its children inherit it.
// ErrSlot: there is no such slot.
func (s *Slots) Distrust(slot uint32, tnum uint64) (bool, error) {
	if !s.has(slot) {
		return false, ErrSlot
	}
	trust := &s.all[slot].Trust
	for {
		now := atomic.LoadUint64(trust)
		if now>>trustBits != tnum {
			return false, nil
		}
		if now&bpf.Untrusted != 0 || atomic.CompareAndSwapUint64(trust, now, now|bpf.Untrusted) {
			return true, nil
		}
	}
}

// DecideAsync decides about the event of a hook that cannot sleep. Mostly it comes too late
// for the event itself; then Untrusted makes the task untrusted, so that it hits the next one.
// distrusted says whether that was done. The rest is that of Decide.
func (s *Slots) DecideAsync(slot uint32, ticket, tnum uint64, v Verdict) (outcome Outcome, distrusted bool, err error) {
	outcome, err = s.Decide(slot, ticket, v)
	if err != nil || outcome.Won || v != Untrusted {
		return outcome, false, err
	}
	distrusted, err = s.Distrust(slot, tnum)
	return outcome, distrusted, err
}

// Wait is an event whose verdict is still to come, as its slot tells.
type Wait struct {
	Slot      uint32
	Ticket    uint64
	Namespace uint64
	TID       uint32 // in the initial pid namespace
	Tnum      uint64
	Hook      uint16
	Since     uint64 // the time of the event: CLOCK_BOOTTIME, ns
}

// Waits returns the events that wait, by slot. Of what changes meanwhile some may be in it.
func (s *Slots) Waits() []Wait {
	var all []Wait
	for i := 1; i < len(s.all); i++ {
		if ticket, v := split(atomic.LoadUint64(&s.all[i].Word)); v != None || ticket == 0 {
			continue
		}
		if w, ok := s.latest(uint32(i)); ok && s.undecided(w.Slot, w.Ticket) {
			all = append(all, w)
		}
	}
	return all
}

// IndexOf returns the index of the namespace of the first task whose latest event is such,
// whether it waits or is over. It is false if there is none.
func (s *Slots) IndexOf(is func(w Wait) bool) (index uint32, found bool) {
	for i := 1; i < len(s.all); i++ {
		if atomic.LoadUint64(&s.all[i].Owner) == 0 {
			continue
		}
		if w, ok := s.latest(uint32(i)); ok && is(w) {
			return uint32(s.all[i].NsIndex), true
		}
	}
	return 0, false
}

// latest returns the latest event of a slot; it is false if that changed meanwhile.
func (s *Slots) latest(slot uint32) (Wait, bool) {
	one := &s.all[slot]
	ticket, _ := split(atomic.LoadUint64(&one.Word))
	w := Wait{
		Slot: slot, Ticket: ticket, Namespace: atomic.LoadUint64(&one.Namespace), TID: atomic.LoadUint32(&one.Tid),
		Tnum: atomic.LoadUint64(&one.Trust) >> trustBits, Hook: one.Hook, Since: atomic.LoadUint64(&one.Time),
	}
	again, _ := split(atomic.LoadUint64(&one.Word))
	return w, again == ticket
}

// undecided says whether a wait goes on.
func (s *Slots) undecided(slot uint32, ticket uint64) bool {
	now, v, err := s.Load(slot)
	return err == nil && now == ticket && v == None
}

func (s *Slots) has(slot uint32) bool { return slot != 0 && uint64(slot) < uint64(len(s.all)) }

func split(word uint64) (ticket uint64, v Verdict) {
	return word >> verdictBits, Verdict(word & (1<<verdictBits - 1))
}
