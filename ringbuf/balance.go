// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"fmt"
	"strings"
)

// Refusal is a reason why the kernel half could not put events into the magazine,
// and how many events it cost.
type Refusal struct {
	Name  string // for example "magazine_full"
	Count uint64
}

// Balance is the account of a namespace: every event that was raised is delivered,
// refused for a reason that has a name, or lost. It is a snapshot without
// connection to the Ledger; a value like any other.
type Balance struct {
	Raised    uint64    // events counted by the kernel half when they began
	Delivered uint64    // records seen by the ledger
	Lost      uint64    // numbers that the ledger declared lost
	Nameless  uint64    // records whose number could not be read: so many may be missing
	Refused   []Refusal // by reason; these have no number
	Missing   []Range   // numbers that did not come, lost ones included
}

// Balance draws up the account. raised and refused come from the counters of the
// kernel half. While events are under way they are ahead of the ledger; the account
// is meant for when no task is modeled any more and the magazine is drained. Any
// goroutine.
func (l *Ledger) Balance(raised uint64, refused []Refusal) Balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := Balance{Raised: raised, Delivered: l.delivered, Lost: l.lost, Nameless: l.nameless, Refused: refused}
	numbered := uint64(0) // what is not refused got a number
	if sum := b.refused(); sum < raised {
		numbered = raised - sum
	}
	b.Missing = l.missing(numbered)
	return b
}

func (b *Balance) refused() (sum uint64) {
	for _, r := range b.Refused {
		sum += r.Count
	}
	return sum
}

// Err returns nil if the account balances: raised is the sum of delivered, refused
// and lost, but for as many as came without a number. Otherwise the error is
// ErrUnbalanced with every term in its text. Lost numbers are no error here, they are
// accounted for; look at Lost.
func (b Balance) Err() error {
	sum := b.Delivered + b.refused() + b.Lost
	if sum <= b.Raised && b.Raised-sum <= b.Nameless {
		return nil
	}
	return fmt.Errorf("balance %s raised with %d delivered + %s + %s = %d%s: %w",
		events(b.Raised), b.Delivered, b.refusedText(), b.lostText(), sum, b.missingText(),
		ErrUnbalanced)
}

// String returns the account in one line: "12 events raised: 12 delivered, 0
// refused". Reasons stand behind their sum, "3 refused (magazine_full 2, describe
// 1)"; losses and what does not balance stand there only if there are any.
func (b Balance) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s raised: %d delivered, %s", events(b.Raised), b.Delivered, b.refusedText())
	if b.Lost > 0 {
		s.WriteString(", " + b.lostText())
	}
	switch sum := b.Delivered + b.refused() + b.Lost; {
	case sum < b.Raised:
		nameless := min(b.Raised-sum, b.Nameless)
		if nameless > 0 {
			fmt.Fprintf(&s, ", %d without a number that could be read", nameless)
		}
		if left := b.Raised - sum - nameless; left > 0 {
			fmt.Fprintf(&s, ", %d unaccounted for", left)
		}
	case sum > b.Raised:
		fmt.Fprintf(&s, ", %d too many", sum-b.Raised)
	}
	s.WriteString(b.missingText())
	return s.String()
}

func events(n uint64) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", n)
}

// refusedText leaves out reasons that did not happen.
func (b *Balance) refusedText() string {
	var reasons []string
	for _, r := range b.Refused {
		if r.Count > 0 {
			reasons = append(reasons, fmt.Sprintf("%s %d", r.Name, r.Count))
		}
	}
	text := fmt.Sprintf("%d refused", b.refused())
	if len(reasons) > 0 {
		text += " (" + strings.Join(reasons, ", ") + ")"
	}
	return text
}

func (b *Balance) lostText() string {
	if b.Lost == 0 {
		return "0 lost"
	}
	return fmt.Sprintf("%d lost (gap %d)", b.Lost, b.Lost)
}

// missingText names the first few ranges: enough to look for them, and still a line.
func (b *Balance) missingText() string {
	const shown = 8
	if len(b.Missing) == 0 {
		return ""
	}
	var ranges []string
	for _, r := range b.Missing[:min(shown, len(b.Missing))] {
		ranges = append(ranges, r.String())
	}
	text := ", missing numbers " + strings.Join(ranges, " ")
	if more := len(b.Missing) - shown; more > 0 {
		text += fmt.Sprintf(" and %d ranges more", more)
	}
	return text
}
