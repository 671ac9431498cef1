// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A balance is what a tsem-bpf said at its end about the events of its namespace.
type balance struct {
	raised, delivered, refused uint64
	line                       string // with what happened beside
}

var accountLine = regexp.MustCompile(`tsem-bpf: (?:the host: )?(\d+) events? raised: (\d+) delivered, (\d+) refused.*`)

// typesLine is which types of events were refused, in such an account.
var typesLine = regexp.MustCompile(`refused by type \([^)]*\)`)

// sumOf adds up the numbers in a text.
func sumOf(t *testing.T, text string) (sum uint64) {
	t.Helper()
	for _, number := range regexp.MustCompile(` \d+`).FindAllString(text, -1) {
		n, err := strconv.ParseUint(number[1:], 10, 64)
		check(t, err)
		sum += n
	}
	return sum
}

// accounted reads the accounts in what so many tsem-bpf have said, in the order in which they ended. Each has to
// balance: what is lost or unaccounted for is neither delivered nor refused.
func accounted(t *testing.T, said string, count int) (all []balance) {
	t.Helper()
	for _, found := range accountLine.FindAllStringSubmatch(said, -1) {
		b := balance{line: found[0]}
		for i, term := range []*uint64{&b.raised, &b.delivered, &b.refused} {
			n, err := strconv.ParseUint(found[i+1], 10, 64)
			check(t, err)
			*term = n
		}
		if b.raised != b.delivered+b.refused || b.refused != sumOf(t, typesLine.FindString(b.line)) {
			t.Errorf("the account does not balance: %s", b.line)
		}
		all = append(all, b)
	}
	if len(all) != count {
		t.Fatalf("%d accounts, want %d: %s", len(all), count, said)
	}
	return all
}

// balances is accounted for a tsem-bpf that may have failed before it made a namespace.
func balances(t *testing.T, said string) {
	t.Helper()
	accounted(t, said, strings.Count(said, " raised: "))
}

// records reads those that a tsem-bpf wrote, each of which has to be valid, and has to have the number of one
// event that was delivered.
func (b balance) records(t *testing.T, text string) (o observation) {
	t.Helper()
	o.totals.Balance.Delivered = b.delivered
	o.decode(t, text)
	return o
}

// complete reads the records that tsem-bpf wrote to a file each, in the order in which they ended and
// said their accounts: every event that was raised must be there.
func complete(t *testing.T, said string, paths ...string) (all []observation) {
	t.Helper()
	for i, b := range accounted(t, said, len(paths)) {
		if b.refused != 0 {
			t.Errorf("events were refused: %s", b.line)
		}
		text, err := os.ReadFile(paths[i])
		check(t, err)
		all = append(all, b.records(t, string(text)))
	}
	return all
}
