// SPDX-License-Identifier: Apache-2.0

package tsemfs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// MaxRecord is the most bytes of a record, with its line feed: what the page that TSEM
// reads records through has room for (5.3), and orchestrators have for a record.
const MaxRecord = 4095

var (
	// ErrRecord: what was to be appended is no record.
	ErrRecord = errors.New("not a record")
	// ErrFull: nobody reads.
	ErrFull = errors.New("queue of records is full")
)

// Queue holds the records of a namespace until they are read, first in, first out. Its
// methods may be called from any goroutine.
type Queue struct {
	limit int

	mu      sync.Mutex
	records [][]byte
	size    int // bytes of them
	ended   bool
	wakes   map[*reading]func() // who wants to know of the next record
}

// NewQueue makes a queue for records of at most so many bytes together.
func NewQueue(limit int) *Queue {
	return &Queue{limit: limit, wakes: make(map[*reading]func())}
}

// Append appends a record and wakes all who poll. The queue keeps the bytes. ErrRecord: it
// is not one line of at most MaxRecord bytes, which ends in a line feed. ErrFull: there is no
// room for it.
func (q *Queue) Append(record []byte) error {
	if len(record) > MaxRecord || bytes.IndexByte(record, '\n') != len(record)-1 || len(record) == 0 {
		return fmt.Errorf("%w: %d bytes, %d line feeds; one line of at most %d bytes is one",
			ErrRecord, len(record), bytes.Count(record, []byte("\n")), MaxRecord)
	}
	q.mu.Lock()
	if len(record) > q.limit-q.size {
		defer q.mu.Unlock()
		return fmt.Errorf("%w: %d bytes, and no room for %d more", ErrFull, q.size, len(record))
	}
	q.records = append(q.records, record)
	q.size += len(record)
	q.unlockAndWake()
	return nil
}

// End says that there will be no more records: the namespace has ended, and so has the last
// of its tasks. Those that are there can still be read; who polls sees a hang-up then.
func (q *Queue) End() {
	q.mu.Lock()
	q.ended = true
	q.unlockAndWake()
}

// Len returns how many records nobody has read yet.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.records)
}

// unlockAndWake wakes all who poll, once the lock is free: whoever asks again needs it.
func (q *Queue) unlockAndWake() {
	wakes := slices.Collect(maps.Values(q.wakes))
	clear(q.wakes)
	q.mu.Unlock()
	for _, wake := range wakes {
		wake()
	}
}

// take takes the next record, nil if there is none.
func (q *Queue) take() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.records) == 0 {
		return nil
	}
	record := q.records[0]
	q.records[0] = nil // what is left of the array does not keep it
	q.records = q.records[1:]
	q.size -= len(record)
	return record
}

// putBack makes a record the next one again.
func (q *Queue) putBack(record []byte) {
	q.mu.Lock()
	q.records = slices.Insert(q.records, 0, record)
	q.size += len(record)
	q.unlockAndWake()
}

// reading is an open file external_tma/N.
type reading struct {
	queue *Queue
	// The record that was read last, and whether the last read took it from the queue.
	record []byte
	fresh  bool
}

// Read takes the next record at offset 0, and returns the rest of it behind that.
func (r *reading) Read(offset uint64, size uint32) ([]byte, error) {
	if r.fresh = offset == 0; r.fresh {
		if r.record = r.queue.take(); r.record == nil {
			r.fresh = false
			return nil, unix.ENODATA
		}
	}
	return fuse.Content(r.record).Read(offset, size)
}

func (r *reading) Unread() {
	if r.fresh {
		r.queue.putBack(r.record)
		r.record, r.fresh = nil, false
	}
}

// Poll wakes also when there is one record more: epoll with EPOLLET looks again only when it is woken.
func (r *reading) Poll(wake func()) uint32 {
	q := r.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if wake != nil {
		q.wakes[r] = wake
	}
	switch {
	case len(q.records) != 0:
		return unix.POLLIN | fuse.PollReadNormal
	case q.ended:
		return unix.POLLHUP
	}
	return 0
}

func (r *reading) Close() {
	r.queue.mu.Lock()
	defer r.queue.mu.Unlock()
	delete(r.queue.wakes, r)
}
