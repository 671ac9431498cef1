// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// at returns clocks that stand: rested is how long ago the file of req was changed.
func at(req Request, rested time.Duration) (clocks, Request) {
	const offset = 1 << 60
	boot := uint64(int64(req.CtimeSec)*1e9+int64(req.CtimeNsec)+int64(rested)) - offset
	req.Time = boot
	return func() (uint64, int64) { return boot, offset }, req
}

// The digest of a file is exact, and kept, only if the file had rested for longer than
// its change time may be late.
func TestUnsettled(t *testing.T) {
	req := record(t, write(t, "file", "content"))
	for rested, exact := range map[time.Duration]bool{
		-time.Second: false, 0: false, settled: false, settled + 1: true, time.Hour: true,
	} {
		clocks, req := at(req, rested)
		c := cacheAt(t, unix.Read, clocks)
		state := Unsettled
		if exact {
			state = Exact
		}
		want(t, c, req, state, "content")
		if _, kept := c.Kept(&req); kept != exact {
			t.Errorf("rested %v: kept %v, want %v", rested, kept, exact)
		}
		if s := c.Stats(); (s.Unsettled == 1) == exact || (s.Exact == 1) != exact {
			t.Errorf("rested %v: counters are %+v", rested, s)
		}
	}
}

// What is kept is exact only for events at which the file had rested; and what is joined
// is judged for each event by itself.
func TestEachEventByItself(t *testing.T) {
	clocks, req := at(record(t, write(t, "file", "content")), time.Hour)
	c := cacheAt(t, unix.Read, clocks)
	want(t, c, req, Exact, "content")
	early := req
	early.Time -= uint64(time.Hour)
	if _, kept := c.Kept(&early); kept {
		t.Error("a kept digest is exact for an event right after the change")
	}
	want(t, c, early, Unsettled, "content")
	future := req
	future.Time += uint64(time.Hour)
	want(t, c, future, Exact, "content")
}

// A clock that is set back while a file is read makes the file younger.
func TestClockSetBack(t *testing.T) {
	clocks, req := at(record(t, write(t, "file", "content")), time.Hour)
	set := int64(0)
	c := cacheAt(t, func(fd int, p []byte) (int, error) {
		set = int64(time.Hour)
		return unix.Read(fd, p)
	}, func() (uint64, int64) {
		boot, offset := clocks()
		return boot, offset - set
	})
	want(t, c, req, Unsettled, "content")
}

// Change times of whole seconds are not precise, and those of no clock prove nothing.
func TestPrecision(t *testing.T) {
	const second, offset = 1_000_000_000, 7
	r := reading{begin: 100 * second, offset: offset}
	for _, test := range []struct {
		c     content
		event uint64
		want  bool
	}{
		{content{0, 98, 999_999_999}, 100 * second, true},
		{content{0, 99, 7}, 100 * second, false},
		{content{0, 99, 6}, 100 * second, true},
		{content{0, 97, 0}, 99 * second, false},
		{content{0, 98, 0}, 100 * second, false},
		{content{0, 97, 0}, 100 * second, true},
		{content{0, 96, 0}, 99 * second, true},
		{content{0, 98, 500_000_000}, 101 * second, true},
		{content{0, 99, 500_000_000}, 101 * second, false}, // not long before the reading had begun
		{content{0, lastSecond, 1}, 100 * second, false},
		{content{0, 1 << 63, 1}, 100 * second, false},
	} {
		if got := r.proves(test.c, test.event); got != test.want {
			t.Errorf("change at %d.%09d, event at %d: %v, want %v", test.c.sec, test.c.nsec, test.event, got, test.want)
		}
	}
}

// The clocks of this host are those of its files.
func TestSystemClocks(t *testing.T) {
	clocks := systemClocks()
	req := record(t, write(t, "file", "content"))
	_, offset := clocks()
	r := reading{0, offset}
	boot := uint64(now(unix.CLOCK_BOOTTIME))
	if rested := r.rested(req.content(), boot); rested < 0 || rested > enough {
		t.Errorf("a file that was written just now has rested for %v", rested)
	}
}

func TestBootShift(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0,
		"monotonic           0         0\nboottime            0         0\n": 0,
		"monotonic          55         9\nboottime      7777777         5\n": 7777777_000_000_005,
		"monotonic           0         0\nboottime          -2 500000000\n":  -1_500_000_000,
		"boottime\nboottime 1\nsomething 1 1\n":                              0,
	} {
		if got := bootShift(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
