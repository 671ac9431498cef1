// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strconv"
	"sync"
)

// DefaultWindow is the window of a Ledger if nothing else is asked for: numbers
// out of order by less than this are waited for. On a kernel without preemption
// a number can be overtaken by one record of each other CPU and each context
// nested on it (task, soft interrupt, interrupt, NMI); 4096 is enough for 1024
// CPUs and takes 512 bytes. With preemption only Magazine.Window is certain.
const DefaultWindow = 4096

// maxGaps bounds the list of lost ranges. Losses should not happen at all; when
// one number in two is missing the list would grow for ever. What does not fit
// is still counted.
const maxGaps = 1024

// Range is a range of record numbers, both ends included.
type Range struct {
	First, Last uint64
}

// Count returns how many numbers are in the range.
func (r Range) Count() uint64 { return r.Last - r.First + 1 }

// String returns "5" or "5-9".
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.FormatUint(r.First, 10)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Ledger proves that the records of one namespace are complete. The kernel half
// numbers them 1, 2, 3 and so on after their reservation succeeded; the ledger
// holds that each number is seen once, in whatever order.
//
// One goroutine books, that which reads; all methods may be called from any. Make it
// with NewLedger.
type Ledger struct {
	mu     sync.Mutex // of all below; nobody holds it for long
	done   uint64     // each number up to here is delivered or declared lost
	top    uint64     // highest number seen, at least done
	window []uint64   // one bit for each number in (done, done+size] seen already
	size   uint64     // of the window, in numbers; a power of two

	gaps      []Range // numbers declared lost, rising
	delivered uint64
	lost      uint64
	nameless  uint64 // records without a number that could be read
}

// NewLedger returns a ledger that waits for numbers out of order by less than
// window, rounded up to a power of two and at least 64; 0 or less means
// DefaultWindow. Numbers up to earlier were delivered by an earlier reader of the
// same namespace and count as delivered; 0 for a new namespace.
func NewLedger(window int, earlier uint64) *Ledger {
	if window <= 0 {
		window = DefaultWindow
	}
	size := max(uint64(64), 1<<bits.Len64(uint64(window-1)))
	return &Ledger{
		done: earlier, top: earlier, window: make([]uint64, size/64), size: size, delivered: earlier,
	}
}

// Resume returns a ledger for who reads on where an earlier reader of the same namespace has
// stopped. Of the numbers up to last all count as delivered but those that are unread. The
// window is that of NewLedger.
func Resume(window int, last uint64, unread []uint64) *Ledger {
	first := last + 1
	left := make(map[uint64]bool, len(unread))
	for _, number := range unread {
		first = min(first, number)
		left[number] = true
	}
	l := NewLedger(window, first-1)
	for number := first; number <= last; number++ {
		if !left[number] {
			_ = l.Saw(number) // each for the first time
		}
	}
	return l
}

// Saw books the number of a record that was delivered. In order it takes a few
// nanoseconds; it allocates only when numbers are lost.
//
// ErrGap: the number is booked, and numbers that are further behind than the
// window were declared lost; the text says how many. ErrLate: the number is booked
// and no longer lost; the window is too small. ErrDuplicate and ErrNumber (number
// 0): nothing was booked. When more than 1024 ranges were lost, a late number may
// be taken for a duplicate.
func (l *Ledger) Saw(number uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number == l.done+1 && l.top == l.done {
		l.done, l.top = number, number
		l.delivered++
		return nil
	}
	if number == 0 {
		return fmt.Errorf("book record number 0: %w", ErrNumber)
	}
	if number <= l.done {
		return l.sawSettled(number)
	}
	var err error
	if number-l.done > l.size {
		err = l.settle(number, number-l.size)
	}
	if l.has(number) {
		return fmt.Errorf("book record number %d: %w", number, ErrDuplicate)
	}
	l.window[number%l.size/64] |= 1 << (number % 64)
	l.top = max(l.top, number)
	l.delivered++
	for l.done < l.top && l.take(l.done+1) {
		l.done++
	}
	return err
}

// SawNameless books a record whose number cannot be read. That number stays missing,
// and the account knows that so many may.
func (l *Ledger) SawNameless() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nameless++
}

// has says whether a number in the window was seen.
func (l *Ledger) has(number uint64) bool {
	return l.window[number%l.size/64]&(1<<(number%64)) != 0
}

// take clears the bit of a number and says whether it was set.
func (l *Ledger) take(number uint64) bool {
	seen := l.has(number)
	l.window[number%l.size/64] &^= 1 << (number % 64)
	return seen
}

// settle moves the window on so that it begins after number to: what is missing
// up to there is lost. It looks at each number of the window once, however far it
// moves: everything above top is missing.
func (l *Ledger) settle(number, to uint64) error {
	before := l.lost
	first, last := uint64(0), uint64(0)
	for l.done < to {
		missing := Range{l.done + 1, l.done + 1}
		switch {
		case l.done >= l.top:
			missing.Last = to
		case l.take(l.done + 1):
			l.done++
			continue
		default: // top was seen, so this ends before it
			for missing.Last < to && !l.has(missing.Last+1) {
				missing.Last++
			}
		}
		if first == 0 {
			first = missing.First
		}
		last = missing.Last
		l.lose(missing)
		l.done = missing.Last
	}
	if first == 0 {
		return nil
	}
	return fmt.Errorf("book record number %d: give up %d numbers between %d and %d: %w",
		number, l.lost-before, first, last, ErrGap)
}

// lose declares a range lost that is above all others.
func (l *Ledger) lose(r Range) {
	l.lost += r.Count()
	if n := len(l.gaps); n > 0 && l.gaps[n-1].Last+1 == r.First {
		l.gaps[n-1].Last = r.Last
		return
	}
	if len(l.gaps) < maxGaps {
		l.gaps = append(l.gaps, r)
	}
}

// sawSettled books a number at or below done: one that was lost and comes late,
// or a duplicate.
func (l *Ledger) sawSettled(number uint64) error {
	i := sort.Search(len(l.gaps), func(i int) bool { return l.gaps[i].Last >= number })
	if i == len(l.gaps) || l.gaps[i].First > number {
		return fmt.Errorf("book record number %d: %w", number, ErrDuplicate)
	}
	below, above := Range{l.gaps[i].First, number - 1}, Range{number + 1, l.gaps[i].Last}
	switch {
	case below.Count() == 0 && above.Count() == 0:
		l.gaps = slices.Delete(l.gaps, i, i+1)
	case below.Count() == 0:
		l.gaps[i] = above
	default:
		l.gaps[i] = below
		if above.Count() > 0 && len(l.gaps) < maxGaps {
			l.gaps = slices.Insert(l.gaps, i+1, above)
		}
	}
	l.lost--
	l.delivered++
	return fmt.Errorf("book record number %d: %w", number, ErrLate)
}

// Missing returns the numbers that were not delivered, rising: those declared lost
// and those that may still come, up to last, the last number that the kernel half
// gave. With a last of 0 it goes up to the highest number seen. Of the numbers
// declared lost it knows the first 1024 ranges.
func (l *Ledger) Missing(last uint64) []Range {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing(last)
}

func (l *Ledger) missing(last uint64) []Range {
	missing := slices.Clone(l.gaps)
	add := func(r Range) {
		if n := len(missing); n > 0 && missing[n-1].Last+1 == r.First {
			missing[n-1].Last = r.Last
		} else {
			missing = append(missing, r)
		}
	}
	for number := l.done + 1; number < l.top; number++ {
		if !l.has(number) {
			add(Range{number, number})
		}
	}
	if last > l.top {
		add(Range{l.top + 1, last})
	}
	return missing
}
