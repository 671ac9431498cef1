// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// TestDecisionBuckets: each time is in the bucket that ends with it or after it, and begins before.
func TestDecisionBuckets(t *testing.T) {
	for took, want := range map[time.Duration]float64{
		0: 0x1p-20, 1: 0x1p-20, 953: 0x1p-20, 955: 0x1p-19, time.Microsecond: 0x1p-19, 100 * time.Microsecond: 0x1p-13,
		time.Second / 2: 0.5, time.Second/2 + 1: 1, time.Second: 1, 10 * time.Second: 16, 16 * time.Second: 16,
		16*time.Second + 1: 32, MaxDeadline: 512, 512 * time.Second: 512, time.Hour: 512,
	} {
		if got := math.Ldexp(1, LeastDecision+decisionBucket(took)); got != want {
			t.Errorf("%v is in the bucket that ends with %v, want %v", took, got, want)
		}
	}
}

// TestDecisionTimes: they count from the event on; one of the future, as a clock that was read too
// late makes it, took no time.
func TestDecisionTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDecisions()
		now := uint64(d.suspend.Load()) // as long as no time passes here
		time.Sleep(2 * time.Second)
		for _, event := range []uint64{now, now + uint64(time.Second), now + uint64(3*time.Second)} {
			d.add(event)
		}
		got := d.times()
		var want DecisionTimes
		for _, took := range []time.Duration{2 * time.Second, time.Second, 0} {
			want.Buckets[decisionBucket(took)]++
			want.Sum += took
		}
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}
