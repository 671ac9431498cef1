// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"bytes"
	"crypto"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
	"github.com/tsem-bpf/tsem-bpf/taskid"
)

// blocked is a source of digests that answers when the test says so.
type blocked struct {
	done      map[string]func(event.Digest) // by path
	cancelled []string
}

func (b *blocked) Kept(*digest.Request) (event.Digest, bool) { return event.Digest{}, false }

func (b *blocked) Ask(req digest.Request, done func(event.Digest)) func() {
	b.done[req.Path] = done
	return func() { b.cancelled = append(b.cancelled, req.Path) }
}

// alone is the store of a keeper that no other one tells anything.
type alone struct{}

func (alone) TaskID(uint64) (id [taskid.Room]byte, known bool) { return id, false }

func (alone) TaskIDs() uint64 { return 0 }

func (alone) ShareTaskID(uint64, [taskid.Room]byte) error { return nil }

// delivery is what a sink was given.
type delivery struct {
	number uint64
	state  event.DigestState
	known  bool // the TASK_ID of the task
}

// A joining is a joiner with a clock, a source and a sink of the test.
type joining struct {
	*joiner
	*blocked
	t     *testing.T
	clock time.Time
	got   []delivery
	woken int
}

func newJoining(t *testing.T) *joining {
	x := &joining{t: t, blocked: &blocked{done: make(map[string]func(event.Digest))}, clock: time.Unix(1, 0)}
	x.joiner = newJoiner(crypto.SHA256, x.blocked, digestWait, alone{}, func() { x.woken++ })
	x.joiner.now = func() time.Time { return x.clock }
	x.joiner.sink = x
	return x
}

func (x *joining) Event(r *event.Record, d event.Digest) error {
	x.got = append(x.got, delivery{r.Number(), d.State, x.ids.Known(r.Identity())})
	return nil
}

func (x *joining) Flush() error { return nil }

func (x *joining) giveTo(b *eventtest.Builder) {
	x.t.Helper()
	raw := b.Record()
	r, err := event.Parse(raw)
	if err != nil {
		x.t.Fatal(err)
	}
	if err := x.take(&r); err != nil {
		x.t.Fatal(err)
	}
	clear(raw) // the magazine is used again
}

// opens takes the record of an open, whose file has to be read.
func (x *joining) opens(number, identity uint64, path string) {
	x.t.Helper()
	x.giveTo(addFile(&eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1, Number: number, Identity: identity}}, path))
}

// capable takes a record that is about no file.
func (x *joining) capable(number, identity uint64) {
	x.t.Helper()
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 85, Kind: 2, Number: number, Identity: identity}}
	x.giveTo(b.Scalar(21).Scalar(0))
}

// executes takes an exec record of a program that has to be read.
func (x *joining) executes(identity, parent uint64, path string) {
	x.t.Helper()
	x.giveTo(addFile(&eventtest.Builder{Header: eventtest.Header{Hook: 1, Kind: 3, Identity: identity, Parent: parent}}, path))
}

func addFile(b *eventtest.Builder, path string) *eventtest.Builder {
	b.File(0, 1, [32]byte{}) // TSEM_DIGEST_WANTED
	return b.Inode(eventtest.InodeCell{Mode: 0o100644, Ino: 12, Size: 13}).Path(eventtest.PathCell{Text: path})
}

// answers lets the source answer for a file.
func (x *joining) answers(path string, state event.DigestState) {
	x.t.Helper()
	x.done[path](event.Digest{Sum: bytes.Repeat([]byte{1}, 32), State: state})
	x.collects()
}

func (x *joining) collects() {
	x.t.Helper()
	if err := x.collect(); err != nil {
		x.t.Fatal(err)
	}
}

// wants compares what came out since the last time.
func (x *joining) wants(want ...delivery) {
	x.t.Helper()
	if !slices.Equal(x.got, want) {
		x.t.Errorf("delivered %v, want %v", x.got, want)
	}
	x.got = nil
}

const (
	exact       = event.DigestExact
	changed     = event.DigestChanged
	unavailable = event.DigestUnavailable
)

// A record whose file hangs is set aside; those behind it go on. It comes out when its
// time is over, marked, and late answers change nothing.
func TestSlowFile(t *testing.T) {
	x := newJoining(t)
	x.opens(1, 0, "/slow")
	x.capable(2, 0)
	x.opens(3, 0, "/fast")
	x.wants(delivery{2, unavailable, true})
	x.answers("/fast", exact)
	x.wants(delivery{3, exact, true})

	x.clock = x.clock.Add(digestWait - 1)
	x.collects()
	x.wants()
	if left := x.patience(); left != 1 {
		t.Errorf("the oldest record still waits %v, want 1ns", left)
	}
	x.clock = x.clock.Add(1)
	x.collects()
	x.wants(delivery{1, unavailable, true})
	x.answers("/slow", exact)
	x.wants()
	if !x.idle() || x.late.Load() != 1 || !slices.Equal(x.cancelled, []string{"/slow"}) {
		t.Errorf("idle %v, %d late, cancelled %v", x.idle(), x.late.Load(), x.cancelled)
	}
}

// What the source says of a file stands in the record.
func TestAnswers(t *testing.T) {
	x := newJoining(t)
	for i, state := range []event.DigestState{exact, changed, unavailable} {
		x.opens(uint64(i), 0, "/file")
		x.answers("/file", state)
		x.wants(delivery{uint64(i), state, true})
	}
	if x.woken != 3 {
		t.Errorf("woken %d times", x.woken)
	}
}

// A record with the TASK_ID of an exec whose program is still being read waits for it,
// also over several execs; records of other tasks do not.
func TestTaskIDAwaited(t *testing.T) {
	x := newJoining(t)
	x.executes(5, 0, "/bin/shell")
	x.capable(1, 5)
	x.executes(6, 5, "/bin/tool")
	x.capable(2, 6)
	x.opens(3, 6, "/file")
	x.capable(4, 0)
	x.wants(delivery{4, unavailable, true})
	x.answers("/bin/tool", exact) // its parent is still unknown
	x.answers("/file", exact)
	x.wants()
	x.answers("/bin/shell", exact)
	x.wants(delivery{1, unavailable, true}, delivery{2, unavailable, true}, delivery{3, exact, true})
	x.capable(5, 6)
	x.wants(delivery{5, unavailable, true})
	x.executes(6, 5, "/bin/tool") // known
	if !x.idle() || len(x.execs) > 0 || x.bytes != 0 || x.lost.Load() != 0 {
		t.Errorf("idle %v, %d execs, %d bytes, %d lost", x.idle(), len(x.execs), x.bytes, x.lost.Load())
	}
}

// The TASK_ID is unknown when the program cannot be read in time, or not at all; that
// is counted, and another exec of the same program can still tell.
func TestTaskIDLost(t *testing.T) {
	x := newJoining(t)
	x.executes(5, 0, "/bin/shell")
	x.capable(1, 5)
	x.clock = x.clock.Add(digestWait)
	x.executes(5, 0, "/bin/again")
	x.capable(2, 5)
	x.collects()
	x.wants(delivery{1, unavailable, false})
	x.answers("/bin/again", unavailable)
	x.wants(delivery{2, unavailable, false})
	x.executes(5, 0, "/bin/third")
	x.executes(5, 0, "/bin/fourth")
	x.capable(3, 5)
	x.answers("/bin/third", exact)
	x.wants() // it was told to wait for the last one
	x.capable(4, 5)
	x.wants(delivery{4, unavailable, true})
	x.answers("/bin/fourth", exact)
	x.wants(delivery{3, unavailable, true})
	if x.lost.Load() != 2 || !x.idle() {
		t.Errorf("%d lost, idle %v", x.lost.Load(), x.idle())
	}
}

// Where no more records can be set aside the oldest goes on without its digest: nothing
// is lost, nothing waits, and what is read quickly still has its digest.
func TestCrowded(t *testing.T) {
	x := newJoining(t)
	for number := range uint64(maxHeld) {
		x.opens(number, 0, "/slow")
	}
	x.wants()
	x.opens(maxHeld, 0, "/fast")
	x.wants(delivery{0, unavailable, true})
	x.answers("/fast", exact)
	x.wants(delivery{maxHeld, exact, true})
	if x.crowded.Load() != 1 || x.held.Len() != maxHeld-1 {
		t.Errorf("%d crowded, %d set aside", x.crowded.Load(), x.held.Len())
	}
}

// The bound is also one of memory; the exec that a record would wait for may be what
// makes room for it.
func TestCrowdedByBytes(t *testing.T) {
	x := newJoining(t)
	x.executes(5, 0, "/bin/slow")
	x.joiner.bytes += maxHeldBytes - x.oldest().record.Size() // others, as it were
	x.capable(1, 5)
	x.wants(delivery{1, unavailable, false})
	if x.crowded.Load() != 1 || x.lost.Load() != 1 || !x.idle() {
		t.Errorf("%d crowded, %d lost, idle %v", x.crowded.Load(), x.lost.Load(), x.idle())
	}
}

// Answers come from any goroutine, in any order; each record comes out once.
func TestAnswersFromAnywhere(t *testing.T) {
	const records = 2000
	x := newJoining(t)
	wake := make(chan struct{}, 1)
	x.joiner.wake = func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	source := &concurrent{}
	x.joiner.digests = source
	for number := range uint64(records) {
		x.opens(number, 0, "/file")
		if number%7 == 0 {
			x.collects()
		}
	}
	for !x.idle() {
		<-wake
		x.collects()
	}
	source.all.Wait()
	slices.SortFunc(x.got, func(a, b delivery) int { return int(a.number) - int(b.number) })
	for i, d := range x.got {
		if d != (delivery{uint64(i), exact, true}) || len(x.got) != records {
			t.Fatalf("%d deliveries, number %d is %v", len(x.got), i, d)
		}
	}
}

// concurrent answers each request on a goroutine of its own.
type concurrent struct{ all sync.WaitGroup }

func (c *concurrent) Kept(*digest.Request) (event.Digest, bool) { return event.Digest{}, false }

func (c *concurrent) Ask(_ digest.Request, done func(event.Digest)) func() {
	answer := func() { done(event.Digest{State: exact}) }
	if rand.IntN(10) == 0 {
		answer() // as when it is overloaded
	} else {
		c.all.Go(answer)
	}
	return func() {}
}
