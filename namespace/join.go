// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"container/list"
	"crypto"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/taskid"
)

const (
	// digestWait is how long a record waits for the digest of its file where no task waits for a
	// verdict. Programs of some hundred MB are read within it; who starts or opens more is told.
	digestWait = 5 * time.Second
	// So many records, and bytes of them, may be set aside. A busy host opens 10,000
	// files in a second, most of them known or read in a millisecond.
	maxHeld      = 8192
	maxHeldBytes = 16 << 20
)

// digests computes the digests of files beside the one that asks: digest.Cache.
type digests interface {
	Kept(req *digest.Request) (event.Digest, bool)
	Ask(req digest.Request, done func(event.Digest)) (cancel func())
}

// joiner gives records what only user space knows, the digest of their file and
// TASK_IDs, and hands them to the sink. If that is known it does so at once. Other
// records are set aside until it is, and those behind them go on: a record waits for
// what it shows itself, and for nothing else.
//
// What a record waits for is a file that is being read: its own, or that of an exec
// whose TASK_ID the record has in it. An exec comes before each record with its
// TASK_ID, so the oldest record that is set aside waits for its own file at most. It is
// given up when its time is over, or when there is no room for another one: its digest
// is then marked as not available, or its TASK_ID is not known, and counted. A flood of
// slow files thus shortens the time for each, and stops nothing.
//
// All belongs to the goroutine that reads; only the answers come from others, and the
// counters may be read from anywhere.
type joiner struct {
	hash    crypto.Hash
	ids     *taskid.Table
	digests digests
	wake    func() // tells the one that reads that there are answers
	now     func() time.Time
	sink    Sink
	wait    time.Duration // how long a record waits for the digest of its file

	held  list.List        // of *held, the oldest first
	bytes int              // of the records in it
	execs map[uint64]*held // the last exec set aside, by identity
	ready []*held          // those that wait for nothing any more

	mu      sync.Mutex
	answers []answer

	late    atomic.Uint64 // given up, because their time was over
	crowded atomic.Uint64 // given up, because there was no room
	lost    atomic.Uint64 // TASK_IDs that cannot be known

	unshared atomic.Uint64 // TASK_IDs that no other keeper knows
}

// held is a record that was set aside.
type held struct {
	record  event.Record
	digest  event.Digest
	cancel  func() // gives up its digest; nil: that is there
	missing int    // how many execs it waits for
	waiting []*held
	since   time.Time
	element *list.Element
}

// answer is the digest of the file of a record.
type answer struct {
	held   *held
	digest event.Digest
}

func newJoiner(hash crypto.Hash, d digests, wait time.Duration, ids taskid.Store, wake func()) *joiner {
	return &joiner{
		hash: hash, ids: taskid.NewTable(hash, ids), digests: d, wake: wake, now: time.Now, wait: wait,
		execs: make(map[uint64]*held),
	}
}

// take hands a record on, or sets a copy of it aside. Errors are those of the sink.
func (j *joiner) take(r *event.Record) error {
	if r.Kind() == event.KindExec && j.ids.Known(r.Identity()) {
		return nil
	}
	d, known := r.Digest(j.hash)
	var req digest.Request
	if !known {
		req = j.request(r)
		d, known = j.digests.Kept(&req)
	}
	if known && !j.awaitsExec(r) {
		return j.deliver(r, d)
	}
	for j.held.Len() > 0 && (j.held.Len() >= maxHeld || j.bytes+r.Size() > maxHeldBytes) {
		if err := j.giveUp(&j.crowded); err != nil {
			return err
		}
	}
	h := &held{record: r.Clone(), digest: d, since: j.now()}
	h.element = j.held.PushBack(h)
	j.bytes += r.Size()
	for id := range h.record.Identities {
		if e := j.exec(id); e != nil {
			e.waiting = append(e.waiting, h)
			h.missing++
		}
	}
	if r.Kind() == event.KindExec {
		j.execs[r.Identity()] = h
	}
	if !known {
		file := h.record.File()
		req.Path = string(file.Path.Text)
		h.cancel = j.digests.Ask(req, func(d event.Digest) { j.answer(h, d) })
	}
	return j.settle(h) // room may have been made by what it would wait for
}

// exec returns the exec that a TASK_ID waits for, or nil.
func (j *joiner) exec(identity uint64) *held {
	if len(j.execs) == 0 || j.ids.Known(identity) {
		return nil
	}
	return j.execs[identity]
}

func (j *joiner) awaitsExec(r *event.Record) bool {
	if len(j.execs) == 0 {
		return false
	}
	for id := range r.Identities {
		if j.exec(id) != nil {
			return true
		}
	}
	return false
}

// request is what the digest of the file of a record is asked for with, but for the
// path, which Kept does not need.
func (j *joiner) request(r *event.Record) digest.Request {
	f := r.File()
	return digest.Request{
		Hash:      j.hash,
		TID:       r.TID(),
		Time:      r.Time(),
		Exec:      r.Kind() == event.KindExec,
		DevMajor:  f.Inode.DevMajor,
		DevMinor:  f.Inode.DevMinor,
		SMagic:    f.Inode.SMagic,
		Ino:       f.Inode.Ino,
		Size:      f.Inode.Size,
		CtimeSec:  f.Inode.CtimeSec,
		CtimeNsec: f.Inode.CtimeNsec,
	}
}

// answer keeps a digest for the goroutine that reads. Any goroutine.
func (j *joiner) answer(h *held, d event.Digest) {
	j.mu.Lock()
	first := len(j.answers) == 0
	j.answers = append(j.answers, answer{h, d})
	j.mu.Unlock()
	if first {
		j.wake()
	}
}

// collect hands on what has been answered by now, and gives up what has waited too
// long. Errors are those of the sink.
func (j *joiner) collect() error {
	j.mu.Lock()
	answers := j.answers
	j.answers = nil
	j.mu.Unlock()
	for _, a := range answers {
		if a.held.cancel == nil {
			continue // given up meanwhile
		}
		a.held.cancel, a.held.digest = nil, a.digest
		if err := j.settle(a.held); err != nil {
			return err
		}
	}
	for j.held.Len() > 0 && j.patience() <= 0 {
		if err := j.giveUp(&j.late); err != nil {
			return err
		}
	}
	return nil
}

// patience returns how long the oldest record will still wait.
func (j *joiner) patience() time.Duration {
	if j.held.Len() == 0 {
		return j.wait
	}
	return j.wait - j.now().Sub(j.oldest().since)
}

func (j *joiner) oldest() *held { return j.held.Front().Value.(*held) }

// idle says whether nothing is set aside.
func (j *joiner) idle() bool { return j.held.Len() == 0 }

// giveUp hands the oldest record on without what it waits for, which is the digest of
// its file.
func (j *joiner) giveUp(why *atomic.Uint64) error {
	h := j.oldest()
	h.cancel()
	h.cancel, h.digest = nil, event.Digest{State: event.DigestUnavailable}
	why.Add(1)
	return j.settle(h)
}

// settle hands a record on if it waits for nothing any more, then those that waited
// for it alone, and so on.
func (j *joiner) settle(h *held) error {
	j.ready = append(j.ready[:0], h)
	for i := 0; i < len(j.ready); i++ {
		h := j.ready[i]
		if h.cancel != nil || h.missing > 0 {
			continue
		}
		j.held.Remove(h.element)
		j.bytes -= h.record.Size()
		if id := h.record.Identity(); j.execs[id] == h {
			delete(j.execs, id)
		}
		if err := j.deliver(&h.record, h.digest); err != nil {
			return err
		}
		for _, w := range h.waiting {
			if w.missing--; w.missing == 0 {
				j.ready = append(j.ready, w)
			}
		}
	}
	return nil
}

// deliver hands a record to the sink; from an exec, it learns the TASK_ID.
func (j *joiner) deliver(r *event.Record, d event.Digest) error {
	if r.Kind() != event.KindExec {
		return j.sink.Event(r, d)
	}
	switch err := j.ids.Learn(r, d); {
	case errors.Is(err, taskid.ErrUnshared):
		j.unshared.Add(1)
	case err != nil:
		j.lost.Add(1)
	}
	return nil
}
