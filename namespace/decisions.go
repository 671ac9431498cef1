// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"math/bits"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// LeastDecision and the number of buckets make the bounds of DecisionTimes: powers of two, in
	// seconds, from 2^-20, a microsecond, to 2^9, which is more than MaxDeadline.
	LeastDecision   = -20
	DecisionBuckets = 30
)

// DecisionTimes says how long events waited until this process decided about them, from the event in
// its hook on: those that a Judge decided, or Namespace.Decide. What the deadline or the end of a
// task has decided is not among them.
type DecisionTimes struct {
	// Buckets count the events that took no longer than 2^(LeastDecision+index) seconds, and
	// longer than the bound before; the last one also what took longer than its bound.
	Buckets [DecisionBuckets]uint64
	Sum     time.Duration
}

// decisions counts them. Any goroutine.
type decisions struct {
	buckets [DecisionBuckets]atomic.Uint64
	sum     atomic.Int64
	suspend atomic.Int64 // CLOCK_BOOTTIME is so much later than the clock of time.Since(start), ns
	start   time.Time
}

func newDecisions() *decisions {
	d := &decisions{start: time.Now()}
	d.adjust()
	return d
}

// adjust finds out how CLOCK_BOOTTIME, that of events, stands to the clock that can be read without a
// system call: it goes on while the machine is suspended.
func (d *decisions) adjust() {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
		d.suspend.Store(now.Nano() - int64(time.Since(d.start)))
	}
}

// add counts a decision about an event of a time, which is that of CLOCK_BOOTTIME in ns.
func (d *decisions) add(event uint64) {
	took := max(0, time.Since(d.start)+time.Duration(d.suspend.Load())-time.Duration(event))
	d.buckets[decisionBucket(took)].Add(1)
	d.sum.Add(int64(took))
}

// decisionBucket returns the bucket of a time, to a nanosecond. Without floating point: this is on the way of every
// verdict.
func decisionBucket(took time.Duration) int {
	// In units of 2^-30 s: times 2^30 / 10^9, which is 1 and this part of 2^64.
	const part = 1<<64*(1<<30-1_000_000_000)/1_000_000_000 + 1
	more, _ := bits.Mul64(uint64(took), part)
	units := uint64(took) + more
	// How many bits the number below has says which power of two is not less than units.
	return min(max(bits.Len64(max(units, 1)-1)-30-LeastDecision, 0), DecisionBuckets-1)
}

// times returns what was counted; what changes meanwhile may be in it or not.
func (d *decisions) times() (t DecisionTimes) {
	for i := range t.Buckets {
		t.Buckets[i] = d.buckets[i].Load()
	}
	t.Sum = time.Duration(d.sum.Load())
	return t
}
