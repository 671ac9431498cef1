// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// TestUnrunnable: a program that a keeper runs and that is not pinned is named, and no other.
func TestUnrunnable(t *testing.T) {
	for _, tier := range []Tier{TierSleep, TierPoll, TierExport} {
		e := newEngine(&Support{Tier: tier})
		for _, name := range runnable {
			if name != probeProgram && (name != gateProgram || tier == TierSleep) {
				e.programs[name] = new(ebpf.Program)
			}
		}
		if missing := e.unrunnable(); missing != "" {
			t.Errorf("tier %s: nothing is missing, but %s", tier, missing)
		}
		for name, program := range e.programs {
			e.programs[name] = nil
			if missing := e.unrunnable(); missing != name {
				t.Errorf("tier %s: %s is missing, not %s", tier, name, missing)
			}
			e.programs[name] = program
		}
	}
}

// TestAboutGone: a kernel half that goes away while somebody looks at it is none, and not one that is broken.
func TestAboutGone(t *testing.T) {
	p := &pins{root: t.TempDir()}
	if _, err := p.about(); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrPins) {
		t.Error(err)
	}
}

// TestAboutForeign: that a kernel half is there to stay is known of another version, too.
func TestAboutForeign(t *testing.T) {
	p := &pins{root: t.TempDir(), version: "this"}
	for _, test := range []struct {
		text  string
		err   error
		stays bool
	}{
		{`{"Version": "this", "Stays": true, "Support": {}, "Inner": {"magazines": {}, "creations": {}}}`, nil, true},
		{`{"Version": "other", "Stays": true, "Support": {}, "Later": 1}`, ErrForeign, true},
		{`{"Version": "other", "Support": {}}`, ErrForeign, false},
		{`{"Version": "other", "Stays": true}`, ErrForeign, true},
		{`{"Version": "other", "Stays": true, "Support": {"hooks": "all"}, "Inner": []}`, ErrForeign, true},
		{`{"Version": "this", "Stays": true}`, ErrPins, false},
		{`{"Version": "this", "Stays": true, "Support": {"hooks": "all"}, "Inner": {"magazines": {}, "creations": {}}}`, ErrPins, false},
		{`{"Version": 1, "Stays": true, "Support": {}}`, ErrPins, false},
		{`{"Version": "other"`, ErrPins, false},
	} {
		a, err := p.parse([]byte(test.text))
		if !errors.Is(err, test.err) || (a == nil) != (test.err == ErrPins) || a != nil && a.Stays != test.stays {
			t.Errorf("%s: %+v, %v", test.text, a, err)
		}
	}
}

// TestAboutWrong: what a kernel half cannot say of itself is refused, for all who would use it.
func TestAboutWrong(t *testing.T) {
	p := &pins{root: t.TempDir(), version: "this"}
	for text, want := range map[string]string{
		`"Support": {"hooks": [{"name": "x", "ordinal": 127, "present": true}]}, "Inner": {"magazines": {}, "creations": {}}`: "",
		`"Support": {"hooks": [{"name": "x", "ordinal": 128, "present": true}]}, "Inner": {"magazines": {}, "creations": {}}`: "says that hook x has the ordinal 128; the highest is 127",
		`"Support": {}, "Inner": {"magazines": {}}`: "does not say what the maps in creations are",
		`"Support": {}`: "does not say what the maps in magazines are",
	} {
		a, err := p.parse([]byte(`{"Version": "this", ` + text + `}`))
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrPins) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
		if err == nil {
			e := newEngine(a.Support)
			for name, m := range a.Inner {
				e.inner[name] = &ebpf.MapSpec{Type: m.Type}
			}
			e.support.later(allEvents)
			e.MapSpecOf("magazines").MaxEntries, e.MapSpecOf("creations").MaxEntries = 1, 1
		}
	}
}

// TestNoneThere: where nothing can be pinned there is no kernel half, to remove or to end a namespace of.
func TestNoneThere(t *testing.T) {
	p := &pins{root: t.TempDir()}
	for what, err := range map[string]error{"remove": remove(p, false), "remove by force": remove(p, true), "end a namespace": endNamespace(p, 1)} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if left, err := os.ReadDir(p.root); len(left) > 0 || err != nil {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestLock: who waits for the lock waits as long as others have their turns, however many they are, and
// not for one that keeps it. Who has given up keeps nobody from it.
func TestLock(t *testing.T) {
	p := &pins{root: t.TempDir()}
	if err := os.Chtimes(p.root, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	held, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	if turn, err := p.turn(); err != nil || !turn.After(time.Unix(1, 0)) {
		t.Errorf("the last turn was at %v, %v", turn, err)
	}
	turns := []int64{1, 2, 3, 3}
	looks := make(chan time.Time, len(turns))
	for range turns {
		looks <- time.Time{}
	}
	var looked int
	_, err = p.lockUnless(looks, func() (time.Time, error) {
		looked++
		return time.Unix(turns[looked-1], 0), nil
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), p.root) || looked != len(turns) {
		t.Errorf("after %d looks: %v", looked, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
