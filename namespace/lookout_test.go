// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestLookout: it watches when it is called, is not called again meanwhile, and the more often
// it was called in vain, the more calls it misses.
func TestLookout(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	synctest.Test(t, func(t *testing.T) {
		var watched []time.Duration
		seen, inTime := 1, true
		l := newLookout(func(patience time.Duration) (int, bool) {
			watched = append(watched, patience)
			time.Sleep(time.Second)
			return seen, inTime
		})
		defer l.end()
		// called calls until it watches, and returns how many calls that took.
		called := func() (calls int) {
			before := len(watched)
			for len(watched) == before && calls < 1000 {
				l.call()
				calls++
				synctest.Wait()
			}
			for range 100 {
				l.call() // it looks already
			}
			time.Sleep(2 * time.Second)
			synctest.Wait() // without it the race detector sees no order between the two
			return calls
		}
		for i, test := range []struct {
			seen   int
			inTime bool
			want   int // calls
		}{
			{1, true, 1}, {5, true, 1}, {0, true, 1}, // in vain: the next one is missed
			{0, true, 2}, {2, false, 4}, {0, true, 8}, {0, true, 16}, {0, true, 32}, {0, true, 64}, {0, true, 65},
			{1, true, 65}, {1, true, 1},
		} {
			seen, inTime = test.seen, test.inTime
			if got := called(); got != test.want {
				t.Errorf("%d: watched after %d calls, want %d", i, got, test.want)
			}
			if len(watched) != i+1 {
				t.Fatalf("%d: watched %d times", i, len(watched))
			}
		}
		for _, patience := range watched {
			if patience != leastPatience { // no time passes here until it watches
				t.Errorf("watched for %v", patience)
			}
		}
	})
}

// TestNoLookout: where only one thread runs at a time it would keep all others from running.
func TestNoLookout(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l := newLookout(nil)
	if l != nil {
		t.Fatal("there is one")
	}
	l.call()
	l.end()
}
