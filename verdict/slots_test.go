// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"errors"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

func TestVerdictString(t *testing.T) {
	for v, want := range map[Verdict]string{
		None: "none", Trusted: "trusted", Untrusted: "untrusted", Late: "late", Killed: "killed",
		Closed: "closed", Unasked: "unasked", Unwaited: "unwaited", Unwaited + 1: "verdict 8", 255: "verdict 255",
	} {
		if got := v.String(); got != want {
			t.Errorf("Verdict(%d) is %q, want %q", v, got, want)
		}
	}
}

func TestSlotsDecide(t *testing.T) {
	const slots = 4
	const top = 1<<56 - 1 // the highest ticket that fits
	for name, c := range map[string]struct {
		word    uint64
		slot    uint32
		ticket  uint64
		v       Verdict
		outcome string
		err     error
		after   uint64
	}{
		"the first decision":     {5 << 8, 1, 5, Trusted, "won", nil, 5<<8 | 1},
		"the highest slot":       {5 << 8, slots - 1, 5, Closed, "won", nil, 5<<8 | 5},
		"the highest ticket":     {top << 8, 1, top, Untrusted, "won", nil, top<<8 | 2},
		"the second decision":    {5<<8 | 3, 1, 5, Trusted, "already decided: late", nil, 5<<8 | 3},
		"the same once more":     {5<<8 | 2, 1, 5, Untrusted, "already decided: untrusted", nil, 5<<8 | 2},
		"a wait that is over":    {6 << 8, 1, 5, Trusted, "another wait", nil, 6 << 8},
		"over, and next decided": {6<<8 | 1, 1, 5, Trusted, "another wait", nil, 6<<8 | 1},
		"a ticket too long":      {5 << 8, 1, 1<<56 | 5, Trusted, "another wait", nil, 5 << 8},
		"slot 0":                 {5 << 8, 0, 5, Trusted, "", ErrSlot, 5 << 8},
		"one slot too high":      {5 << 8, slots, 5, Trusted, "", ErrSlot, 5 << 8},
		"a slot far too high":    {5 << 8, math.MaxUint32, 5, Trusted, "", ErrSlot, 5 << 8},
		"no decision":            {5 << 8, 1, 5, None, "", ErrVerdict, 5 << 8},
		"an unknown decision":    {5 << 8, 1, 5, Unwaited + 1, "", ErrVerdict, 5 << 8},
	} {
		t.Run(name, func(t *testing.T) {
			all := make([]bpf.Slot, slots)
			for i := range all {
				all[i].Word = c.word
			}
			s := NewSlots(all)
			outcome, err := s.Decide(c.slot, c.ticket, c.v)
			if !errors.Is(err, c.err) || err == nil && outcome.String() != c.outcome {
				t.Errorf("outcome %q, error %v", outcome, err)
			}
			for i := range all {
				want := c.word
				if uint32(i) == c.slot {
					want = c.after
				}
				if all[i].Word != want {
					t.Errorf("slot %d has the word %#x, want %#x", i, all[i].Word, want)
				}
			}
		})
	}
}

func TestSlotsLoad(t *testing.T) {
	s := NewSlots([]bpf.Slot{{}, {Word: 7<<8 | uint64(Late)}, {Word: math.MaxUint64}})
	if ticket, v, err := s.Load(1); ticket != 7 || v != Late || err != nil {
		t.Errorf("slot 1: ticket %d, %s, %v", ticket, v, err)
	}
	if ticket, v, err := s.Load(2); ticket != 1<<56-1 || v != 255 || err != nil {
		t.Errorf("slot 2: ticket %d, %s, %v", ticket, v, err)
	}
	for _, slot := range []uint32{0, 3, math.MaxUint32} {
		if _, _, err := s.Load(slot); !errors.Is(err, ErrSlot) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
}

// TestSlotsRace lets many decide about each of many waits.
func TestSlotsRace(t *testing.T) {
	const waits, deciders = 2000, 4
	s := NewSlots(make([]bpf.Slot, 2))
	for ticket := uint64(1); ticket <= waits; ticket++ {
		atomic.StoreUint64(&s.all[1].Word, ticket<<verdictBits)
		var won atomic.Uint32
		var all sync.WaitGroup
		outcomes := [deciders]Outcome{}
		for i := range deciders {
			all.Go(func() {
				outcomes[i], _ = s.Decide(1, ticket, Trusted+Verdict(i))
				if outcomes[i].Won {
					won.Add(1)
				}
			})
		}
		all.Wait()
		_, stands, _ := s.Load(1)
		if won.Load() != 1 || !outcomes[stands-Trusted].Won {
			t.Fatalf("%s stands, outcomes %v", stands, outcomes)
		}
		for i, o := range outcomes {
			if !o.Won && o.Earlier != stands {
				t.Fatalf("decider %d learned %q, but %s stands", i, o, stands)
			}
		}
	}
}

// TestMapSlots decides in shared memory, and looks at it from the other side.
func TestMapSlots(t *testing.T) {
	const entries = 100
	fd, err := unix.MemfdCreate("slots", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "slots")
	defer file.Close()
	if err := file.Truncate(int64(2 * os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	s, err := mapSlots(fd, entries)
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != entries {
		t.Errorf("%d slots, want %d", s.Len(), entries)
	}
	if outcome, err := s.Decide(entries-1, 0, Killed); !outcome.Won || err != nil {
		t.Errorf("%s, %v", outcome, err)
	}
	var b [1]byte
	if _, err := file.ReadAt(b[:], (entries-1)*int64(unsafe.Sizeof(bpf.Slot{}))); err != nil || Verdict(b[0]) != Killed {
		t.Errorf("the file has %d, %v", b[0], err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Load(1); !errors.Is(err, ErrSlot) {
		t.Errorf("after it was closed: %v", err)
	}
	if _, err := mapSlots(-1, entries); !errors.Is(err, unix.EBADF) {
		t.Errorf("map nothing: %v", err)
	}
}

func TestSlotsDoNotAllocate(t *testing.T) {
	s := NewSlots(make([]bpf.Slot, 2))
	if n := testing.AllocsPerRun(100, func() {
		_, _, _ = s.Load(1)
		_, _ = s.Decide(1, 0, Trusted)
		_, _ = s.Decide(2, 0, Trusted)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestDistrust: only the task that is meant becomes untrusted, and stays so.
func TestDistrust(t *testing.T) {
	all := make([]bpf.Slot, 3)
	s := NewSlots(all)
	for _, step := range []struct {
		before uint64
		tnum   uint64
		done   bool
		after  uint64
	}{
		{7<<8 | 1, 7, true, 7<<8 | 3},
		{7<<8 | 3, 7, true, 7<<8 | 3},
		{8<<8 | 1, 7, false, 8<<8 | 1},
		{0, 7, false, 0},
	} {
		all[2].Trust = step.before
		if done, err := s.Distrust(2, step.tnum); done != step.done || err != nil || all[2].Trust != step.after {
			t.Errorf("%+v: %t, %v, %#x", step, done, err, all[2].Trust)
		}
	}
	for _, slot := range []uint32{0, 3} {
		if _, err := s.Distrust(slot, 0); !errors.Is(err, ErrSlot) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
}
