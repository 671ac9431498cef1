// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLedger(t *testing.T) {
	type step struct {
		number uint64
		err    error
	}
	for _, test := range []struct {
		name      string
		earlier   uint64
		steps     []step
		last      uint64
		delivered uint64
		lost      uint64
		missing   []Range
	}{
		{name: "nothing"},
		{name: "in order", steps: []step{{1, nil}, {2, nil}, {3, nil}}, delivered: 3},
		{name: "two CPUs cross", steps: []step{{2, nil}, {1, nil}, {4, nil}, {3, nil}}, delivered: 4},
		{name: "reversed", steps: []step{{4, nil}, {3, nil}, {2, nil}, {1, nil}}, delivered: 4},
		{name: "zero", steps: []step{{0, ErrNumber}}},
		{name: "duplicate in the prefix", steps: []step{{1, nil}, {1, ErrDuplicate}}, delivered: 1},
		{name: "duplicate in the window", steps: []step{{3, nil}, {3, ErrDuplicate}},
			delivered: 1, missing: []Range{{1, 2}}},
		{name: "first missing", steps: []step{{2, nil}}, delivered: 1, missing: []Range{{1, 1}}},
		{name: "last missing", steps: []step{{1, nil}}, last: 3,
			delivered: 1, missing: []Range{{2, 3}}},
		{name: "all missing", last: 9, missing: []Range{{1, 9}}},
		{name: "holes and end", steps: []step{{1, nil}, {3, nil}, {6, nil}}, last: 7,
			delivered: 3, missing: []Range{{2, 2}, {4, 5}, {7, 7}}},
		{name: "successor", earlier: 10, steps: []step{{11, nil}, {10, ErrDuplicate}}, delivered: 11},
		{name: "successor, hole", earlier: 10, steps: []step{{12, nil}},
			delivered: 11, missing: []Range{{11, 11}}},
		{name: "window full", steps: []step{{64, nil}}, delivered: 1, missing: []Range{{1, 63}}},
		{name: "window over by one", steps: []step{{65, ErrGap}},
			delivered: 1, lost: 1, missing: []Range{{1, 64}}},
		{name: "window slides over seen ones", steps: []step{{2, nil}, {4, nil}, {68, ErrGap}},
			delivered: 3, lost: 2, missing: []Range{{1, 1}, {3, 3}, {5, 67}}},
		{name: "far away", steps: []step{{1, nil}, {3, nil}, {1 << 40, ErrGap}, {1<<40 - 1, nil}},
			delivered: 4, lost: 1<<40 - 66, missing: []Range{{2, 2}, {4, 1<<40 - 2}}},
		{name: "lost ones come late", steps: []step{{68, ErrGap}, {2, ErrLate}, {2, ErrDuplicate},
			{1, ErrLate}, {4, ErrLate}, {3, ErrLate}}, delivered: 5, missing: []Range{{5, 67}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := NewLedger(64, test.earlier)
			for _, step := range test.steps {
				if err := l.Saw(step.number); !errors.Is(err, step.err) {
					t.Fatalf("Saw(%d) = %v, want %v", step.number, err, step.err)
				} else if err != nil && !strings.Contains(err.Error(), fmt.Sprint("number ", step.number)) {
					t.Errorf("%q does not name number %d", err, step.number)
				}
			}
			if l.delivered != test.delivered || l.lost != test.lost {
				t.Errorf("delivered %d, lost %d, want %d, %d",
					l.delivered, l.lost, test.delivered, test.lost)
			}
			if diff := cmp.Diff(test.missing, l.Missing(test.last)); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
}

// TestResume: what is unread is still to come, and nothing else.
func TestResume(t *testing.T) {
	for _, test := range []struct {
		last      uint64
		unread    []uint64
		delivered uint64
		missing   []Range
	}{
		{0, nil, 0, nil},
		{9, nil, 9, nil},
		{9, []uint64{9, 8}, 7, []Range{{8, 9}}},
		// 7 and 9 were read, out of order; 10 has come since.
		{9, []uint64{6, 8, 10}, 7, []Range{{6, 6}, {8, 8}}},
		{2, []uint64{1, 2}, 0, []Range{{1, 2}}},
	} {
		l := Resume(64, test.last, test.unread)
		if got := l.Balance(0, nil).Delivered; got != test.delivered {
			t.Errorf("%d, unread %d: %d count as delivered, want %d", test.last, test.unread, got, test.delivered)
		}
		if diff := cmp.Diff(test.missing, l.Missing(test.last)); diff != "" {
			t.Errorf("%d, unread %d: missing (-want +got):\n%s", test.last, test.unread, diff)
		}
		for _, number := range test.unread {
			if err := l.Saw(number); err != nil {
				t.Errorf("%d, unread %d: Saw(%d) = %v", test.last, test.unread, number, err)
			}
		}
		if left := l.Missing(test.last); left != nil {
			t.Errorf("%d, unread %d: missing at the end: %v", test.last, test.unread, left)
		}
	}
}

func TestLedgerGapText(t *testing.T) {
	l := NewLedger(64, 0)
	check(t, l.Saw(2))
	err := l.Saw(69)
	want := "book record number 69: give up 4 numbers between 1 and 5: numbers are lost"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// Losses without end take no memory without end, and are counted all the same.
func TestLedgerListBounded(t *testing.T) {
	l := NewLedger(64, 0)
	const count = 10_000
	for number := uint64(2); number <= 2*count; number += 2 {
		_ = l.Saw(number)
	}
	_ = l.Saw(2*count + 64)
	if l.lost != count {
		t.Errorf("lost %d, want %d", l.lost, count)
	}
	if len(l.gaps) > maxGaps {
		t.Errorf("%d ranges listed", len(l.gaps))
	}
	if err := l.Balance(2*count+64, []Refusal{{"describe", 63}}).Err(); err != nil {
		t.Error(err)
	}
}

func TestNewLedgerWindow(t *testing.T) {
	for window, want := range map[int]uint64{
		-1: DefaultWindow, 0: DefaultWindow, 1: 64, 64: 64, 65: 128, 100_000: 1 << 17,
	} {
		if got := NewLedger(window, 0).size; got != want {
			t.Errorf("window %d: size %d, want %d", window, got, want)
		}
	}
}

func TestMagazineWindow(t *testing.T) {
	_, m := newMagazineFor(t, 1<<16)
	for smallest, want := range map[int]int{160: 2 << 16 / 168, 153: 2 << 16 / 168, 0: 2 << 16 / 8} {
		if got := m.Window(smallest); got != want {
			t.Errorf("Window(%d) = %d, want %d", smallest, got, want)
		}
	}
}

func TestBalance(t *testing.T) {
	full := []Refusal{{"magazine_full", 0}, {"no_buffer", 0}, {"describe", 0}}
	some := []Refusal{{"magazine_full", 2}, {"no_buffer", 0}, {"describe", 1}}
	for _, test := range []struct {
		name    string
		seen    []uint64
		raised  uint64
		refused []Refusal
		text    string
		err     string
	}{
		{"nothing", nil, 0, nil, "0 events raised: 0 delivered, 0 refused", ""},
		{"one", []uint64{1}, 1, full, "1 event raised: 1 delivered, 0 refused", ""},
		{"all", []uint64{1, 2, 3}, 3, full, "3 events raised: 3 delivered, 0 refused", ""},
		{"refused", []uint64{2, 1}, 5, some,
			"5 events raised: 2 delivered, 3 refused (magazine_full 2, describe 1)", ""},
		{"lost", []uint64{1, 65, 66}, 6, some,
			"6 events raised: 3 delivered, 3 refused (magazine_full 2, describe 1), " +
				"1 lost (gap 1), 1 too many, missing numbers 2-64",
			"balance 6 events raised with 3 delivered + 3 refused (magazine_full 2, describe 1) + " +
				"1 lost (gap 1) = 7, missing numbers 2-64: ledger does not balance"},
		{"missing", []uint64{1, 3}, 7, some,
			"7 events raised: 2 delivered, 3 refused (magazine_full 2, describe 1), " +
				"2 unaccounted for, missing numbers 2 4",
			"balance 7 events raised with 2 delivered + 3 refused (magazine_full 2, describe 1) + " +
				"0 lost = 5, missing numbers 2 4: ledger does not balance"},
		{"too many", []uint64{1, 2}, 1, nil,
			"1 event raised: 2 delivered, 0 refused, 1 too many",
			"balance 1 event raised with 2 delivered + 0 refused + 0 lost = 2: ledger does not balance"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := NewLedger(64, 0)
			for _, number := range test.seen {
				_ = l.Saw(number)
			}
			b := l.Balance(test.raised, test.refused)
			if got := b.String(); got != test.text {
				t.Errorf("String:\ngot  %s\nwant %s", got, test.text)
			}
			err := b.Err()
			if (err != nil) != (test.err != "") || err != nil && err.Error() != test.err {
				t.Errorf("Err:\ngot  %v\nwant %s", err, test.err)
			}
			if err != nil && !errors.Is(err, ErrUnbalanced) {
				t.Error("is not ErrUnbalanced")
			}
		})
	}
}

// Lost numbers are accounted for: with a name, so the account balances.
func TestBalanceWithLoss(t *testing.T) {
	l := NewLedger(64, 0)
	for number := uint64(2); number <= 66; number++ {
		_ = l.Saw(number)
	}
	b := l.Balance(66, nil)
	check(t, b.Err())
	want := "66 events raised: 65 delivered, 0 refused, 1 lost (gap 1), missing numbers 1"
	if b.String() != want {
		t.Errorf("got %s", b)
	}
}

func TestBalanceNamesFewRanges(t *testing.T) {
	l := NewLedger(64, 0)
	for number := uint64(2); number <= 40; number += 2 {
		check(t, l.Saw(number))
	}
	if text := l.Balance(40, nil).String(); !strings.HasSuffix(text, " 13 15 and 12 ranges more") {
		t.Error(text)
	}
}

// model is the ledger written down without any thought of time and space.
type model struct {
	window          uint64
	top             uint64
	delivered, lost map[uint64]bool
}

func (m *model) saw(number uint64) error {
	switch {
	case number == 0:
		return ErrNumber
	case m.delivered[number]:
		return ErrDuplicate
	case m.lost[number]:
		delete(m.lost, number)
		m.delivered[number] = true
		return ErrLate
	}
	m.delivered[number] = true
	m.top = max(m.top, number)
	var err error
	for n := uint64(1); n+m.window <= m.top; n++ {
		if !m.delivered[n] && !m.lost[n] {
			m.lost[n] = true
			err = ErrGap
		}
	}
	return err
}

func (m *model) missing(last uint64) (missing []Range) {
	for n := uint64(1); n <= max(last, m.top); n++ {
		switch {
		case m.delivered[n]:
		case len(missing) > 0 && missing[len(missing)-1].Last == n-1:
			missing[len(missing)-1].Last = n
		default:
			missing = append(missing, Range{n, n})
		}
	}
	return missing
}

// FuzzLedger compares with the model. Input: 16-bit distances from the number of
// the step before.
func FuzzLedger(f *testing.F) {
	encode := func(distances ...int16) (data []byte) {
		for _, d := range distances {
			data = binary.LittleEndian.AppendUint16(data, uint16(d))
		}
		return data
	}
	f.Add(encode(1, 1, 1, 1))
	f.Add(encode(2, -1, 2, 1, -1, 0))
	f.Add(encode(64, 1, 1, -65, 200, -199, 1, 1, 3))
	f.Add(encode(65, -64, 1, 1, 100, -1, -1, -1))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := NewLedger(64, 0)
		m := model{window: 64, delivered: map[uint64]bool{}, lost: map[uint64]bool{}}
		number := int64(0)
		for ; len(data) >= 2 && m.top < 1500; data = data[2:] {
			distance := int64(int16(binary.LittleEndian.Uint16(data))) % 300
			number = max(0, number+distance)
			got, want := l.Saw(uint64(number)), m.saw(uint64(number))
			if !errors.Is(got, want) || want == nil && got != nil {
				t.Fatalf("Saw(%d) = %v, want %v", number, got, want)
			}
		}
		if l.delivered != uint64(len(m.delivered)) || l.lost != uint64(len(m.lost)) {
			t.Fatalf("delivered %d, lost %d, want %d, %d",
				l.delivered, l.lost, len(m.delivered), len(m.lost))
		}
		if diff := cmp.Diff(m.missing(m.top+5), l.Missing(m.top+5)); diff != "" {
			t.Fatalf("missing (-want +got):\n%s", diff)
		}
	})
}

// Any order in which no number is displaced by the window is complete, in silence.
func TestLedgerShuffled(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := make([]uint64, 100_000)
	for i := range numbers {
		numbers[i] = uint64(i + 1)
	}
	for block := range slices.Chunk(numbers, 256) {
		rng.Shuffle(len(block), func(i, j int) { block[i], block[j] = block[j], block[i] })
	}
	l := NewLedger(256, 0)
	for _, number := range numbers {
		check(t, l.Saw(number))
	}
	if missing := l.Missing(100_000); l.delivered != 100_000 || missing != nil {
		t.Errorf("delivered %d, missing %v", l.delivered, missing)
	}
}

func TestLedgerDoesNotAllocate(t *testing.T) {
	l := NewLedger(0, 0)
	number := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		number += 2
		_, _, _ = l.Saw(number), l.Saw(number-1), l.Saw(number+1)
		number++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLedger(b *testing.B) {
	l := NewLedger(0, 0)
	number := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		number++
		_ = l.Saw(number)
	}
}

// TestAskedMeanwhile: the account may be drawn up while records are booked; the race
// detector watches.
func TestAskedMeanwhile(t *testing.T) {
	const records = 10_000
	l := NewLedger(64, 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint64(records) {
			if err := l.Saw((i ^ 1) + 1); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if b := l.Balance(records, nil); b.Delivered > records || b.Lost > 0 {
			t.Fatalf("the account is %v", b)
		}
	}
}

// TestNameless: a record whose number cannot be read is accounted for, one that did not
// come is not.
func TestNameless(t *testing.T) {
	l := NewLedger(64, 0)
	for _, number := range []uint64{1, 3} {
		if err := l.Saw(number); err != nil {
			t.Fatal(err)
		}
	}
	l.SawNameless()
	if b := l.Balance(3, nil); b.Err() != nil ||
		b.String() != "3 events raised: 2 delivered, 0 refused, 1 without a number that could be read, missing numbers 2" {
		t.Errorf("%v: %v", b, b.Err())
	}
	if b := l.Balance(4, nil); !errors.Is(b.Err(), ErrUnbalanced) ||
		b.String() != "4 events raised: 2 delivered, 0 refused, 1 without a number that could be read, 1 unaccounted for, missing numbers 2 4" {
		t.Errorf("%v: %v", b, b.Err())
	}
	// When its number is given up it is lost, by name, and not counted twice.
	if err := l.Saw(70); !errors.Is(err, ErrGap) {
		t.Errorf("number 70: %v", err)
	}
	if b := l.Balance(70, nil); b.Lost == 0 || b.Delivered+b.Lost > b.Raised {
		t.Errorf("%v", b)
	}
}
