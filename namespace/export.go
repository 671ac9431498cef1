// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/ringbuf"
)

// Export writes the events of the namespace to w as JSON, one line each, and hands them
// on with every batch. It is Read with a sink that encodes and writes. With a Judge the
// first line is the aggregate, which is no event.
func (n *Namespace) Export(ctx context.Context, dialect event.Dialect, w io.Writer) error {
	if n.aggregate != nil {
		if _, err := w.Write(event.AppendAggregate(nil, n.aggregate)); err != nil {
			return err
		}
	}
	encoder := event.NewEncoder(dialect, n.config.Digest, n.joiner.ids)
	encoder.Limit(n.config.MaxLine)
	return n.Read(ctx, &lines{encoder: encoder, w: w, written: &n.written, cut: &n.omitted})
}

// Read hands the events of the namespace to a sink: in the order of the magazine, but
// for those that wait for the digest of a file. On the way to the sink there is no I/O.
// It returns nil after Shut, when all is handed over, those that waited included; else
// the error of the sink, of the magazine, or that of the context. Call it once.
func (n *Namespace) Read(ctx context.Context, sink Sink) error {
	n.reading.Lock()
	defer n.reading.Unlock()
	n.joiner.sink = sink
	timer := time.NewTimer(readEvery)
	defer timer.Stop()
	for {
		n.rounds.Add(1)
		if n.door != nil {
			n.look() // reading goes no further than that
		}
		got, err := n.magazine.ReadBatch(n.take)
		n.settle()
		if err == nil {
			err = n.door.err()
		}
		if err == nil {
			err = n.joiner.collect()
		}
		if err == nil {
			err = sink.Flush()
		}
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case err != nil:
			return err
		case got > 0:
			if got < manyRecords {
				n.pause(timer)
			}
			continue
		case n.joiner.idle() && n.ended():
			return nil
		}
		if err := n.waitForRecords(); err != nil {
			return err
		}
	}
}

// Rounds returns how often Read has come around. It does so at least every second, unless it is in a
// call of its sink. Any goroutine.
func (n *Namespace) Rounds() uint64 { return n.rounds.Load() }

const (
	// readEvery is the time between two small batches. The kernel wakes a reader that has
	// read everything for each record: that costs whoever raises the event more than to
	// describe it. A record is not much later for the pause.
	readEvery = time.Millisecond
	// manyRecords are worth being woken for.
	manyRecords = 64
)

// pause lets records come together, unless somebody waits for one of them.
func (n *Namespace) pause(timer *time.Timer) {
	timer.Reset(readEvery)
	select {
	case <-timer.C:
	case <-n.urgent:
	}
}

// hurry ends a pause, or the next one before it begins.
func (n *Namespace) hurry() {
	select {
	case n.urgent <- struct{}{}:
	default:
	}
}

// lastRead is the record that was taken last, until its room is given back.
type lastRead struct {
	share uint8  // of the reserve (bpf/room.h)
	bytes uint64 // of the ring; 0: there is none
}

// settle counts the last record as read from its share, once: not before the ring has
// moved on behind it, or the kernel half would count on room that is not there yet. (A keeper
// that is killed between the two leaves its successor a share that is smaller by a record.)
func (n *Namespace) settle() {
	if share := int(n.last.share); share < len(n.state.Shares) {
		atomic.AddUint64(&n.state.Shares[share].Read, n.last.bytes)
	}
	n.last = lastRead{}
}

// take takes one record from the magazine. One that cannot be read, or that has the
// number of another one, is counted; it does not stop the others. A gap in the numbers
// stands in the account, by name.
func (n *Namespace) take(raw []byte) error {
	n.settle()
	n.last = lastRead{event.ShareOf(raw), ringbuf.Taken(len(raw))}
	r, err := event.Parse(raw)
	if err != nil {
		n.unreadable.Add(1)
		if number, readable := event.NumberOf(raw); !readable {
			n.ledger.SawNameless()
		} else if number != 0 {
			n.book(number)
		}
		return nil
	}
	if r.Kind() != event.KindExec {
		if !n.book(r.Number()) {
			n.unreadable.Add(1)
			return nil
		}
		n.types[r.Hook()].Add(1)
	}
	return n.joiner.take(&r)
}

// book books the number of an event, and says whether it is the first with that number.
func (n *Namespace) book(number uint64) bool {
	err := n.ledger.Saw(number)
	return !errors.Is(err, ringbuf.ErrDuplicate) && !errors.Is(err, ringbuf.ErrNumber)
}

// Totals is the account of a namespace.
type Totals struct {
	Balance ringbuf.Balance // of the events; this is what has to balance

	Written       uint64 // lines that the writer took
	Earlier       uint64 // events that earlier keepers of the namespace have read, before TakeOver
	Held          bool   // its tasks are held back, for TakeOver
	Unreadable    uint64 // records that could not be decoded or placed: a defect, or a foreign kernel half
	Cut           uint64 // events with a text that is not complete
	Omitted       uint64 // of these not written, for the dialect has no mark for it
	Waited        uint64 // events that waited for room in the magazine
	Tasks         uint64 // tasks in the namespace now
	TasksLost     uint64 // tasks that should be in it, without memory for their state
	TaskIDsLost   uint64 // execs whose TASK_ID cannot be known
	Unshared      uint64 // TASK_IDs that no other keeper knows, for the kernel half has no room for more
	CreationsLost uint64 // created files without instance
	DigestsIMA    uint64 // file digests by IMA, in the hook
	DigestsCached uint64 // by IMA, earlier
	Inner         uint64 // calls of hooks for what filesystems do for themselves, which are no events
	Volatile      uint64 // digests that cannot be known: content that changes without a trace
	Late          uint64 // records that waited too long for the digest of their file
	Crowded       uint64 // records that had to stop waiting for it, for lack of room
	Digests       digest.Stats

	Logged       uint64 // events of untrusted tasks, about which nobody was asked
	Denied       uint64 // events that did not happen for want of trust
	LateReleases uint64 // by tsem-bpf release, for an event that was over

	// Types are the events that this keeper has read, by event.Hook; RefusedTypes those that were refused.
	Types, RefusedTypes [bpf.HookMax]uint64

	// Verdicts are the events that were judged, by verdict.Verdict, as the tasks found it:
	// all that tasks waited with, and those others whose verdict was there in time.
	Verdicts [bpf.VerdictMax]uint64
}

// Totals returns the account as it stands. It balances (Balance.Err is nil) when no event
// is under way and everything is read. After Close it is that of the end.
func (n *Namespace) Totals() Totals {
	balance := n.balance()
	n.life.RLock()
	defer n.life.RUnlock()
	s := n.state
	totals := Totals{
		Balance:       balance,
		Written:       n.written.Load(),
		Earlier:       n.earlier,
		Held:          atomic.LoadUint32(&s.Flags)&(bpf.NamespaceOrphaned|bpf.NamespaceClosed) == bpf.NamespaceOrphaned,
		Unreadable:    n.unreadable.Load(),
		Cut:           atomic.LoadUint64(&s.Cut),
		Omitted:       n.omitted.Load(),
		Waited:        atomic.LoadUint64(&s.Waited),
		Tasks:         atomic.LoadUint64(&s.Tasks),
		TasksLost:     atomic.LoadUint64(&s.TasksLost),
		TaskIDsLost:   atomic.LoadUint64(&s.ExecsLost) + n.joiner.lost.Load(),
		Unshared:      n.joiner.unshared.Load(),
		CreationsLost: atomic.LoadUint64(&s.CreationsLost),
		DigestsIMA:    atomic.LoadUint64(&s.DigestsIma),
		DigestsCached: atomic.LoadUint64(&s.DigestsCached),
		Inner:         atomic.LoadUint64(&s.Inner),
		Volatile:      atomic.LoadUint64(&s.DigestsVolatile),
		Late:          n.joiner.late.Load(),
		Crowded:       n.joiner.crowded.Load(),
		Digests:       n.digests.Stats(),
		Logged:        atomic.LoadUint64(&s.Logged),
		Denied:        atomic.LoadUint64(&s.Denied),
		LateReleases:  atomic.LoadUint64(&s.Late),
	}
	for i := range totals.Types {
		totals.Types[i] = n.types[i].Load()
		totals.RefusedTypes[i] = atomic.LoadUint64(&s.RefusedTypes[i])
	}
	for i := range totals.Verdicts {
		totals.Verdicts[i] = atomic.LoadUint64(&s.Verdicts[i])
	}
	return totals
}

// balance is the part of the account that has to balance.
func (n *Namespace) balance() ringbuf.Balance {
	n.life.RLock()
	defer n.life.RUnlock()
	refused := make([]ringbuf.Refusal, len(bpf.Refusals))
	for i, name := range bpf.Refusals {
		refused[i] = ringbuf.Refusal{Name: name, Count: atomic.LoadUint64(&n.state.Refused[i])}
	}
	return n.ledger.Balance(atomic.LoadUint64(&n.state.Raised), refused)
}

// Err returns nil if every event that was raised was read, or refused for a reason that has a name. Else there is a defect, or
// somebody else wrote into the maps of the kernel half: the account does not balance, or records did not come
// (ringbuf.ErrGap), or could not be read. It means something when Balance.Err does.
func (t Totals) Err() error {
	err := t.Balance.Err()
	if t.Balance.Lost > 0 {
		err = errors.Join(err, fmt.Errorf("%d records did not come: %w", t.Balance.Lost, ringbuf.ErrGap))
	}
	if t.Unreadable > 0 {
		err = errors.Join(err, fmt.Errorf("%d records cannot be read", t.Unreadable))
	}
	return err
}

// Complete says whether every event that was raised is written, or was read by an earlier keeper, and every task was
// modeled.
func (t Totals) Complete() bool {
	return t.Err() == nil && t.TasksLost == 0 && t.Earlier+t.Written == t.Balance.Raised
}
