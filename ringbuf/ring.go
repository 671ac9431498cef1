// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// The header of a record: u32 length with two flags, u32 page offset that only
// the kernel needs (kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr; the flags are
// BPF_RINGBUF_BUSY_BIT and BPF_RINGBUF_DISCARD_BIT in include/uapi/linux/bpf.h).
const (
	headerSize  = 8
	busyFlag    = 1 << 31
	discardFlag = 1 << 30
	lengthMask  = discardFlag - 1
)

// headState says what stands at the consumer position.
type headState int

const (
	headEmpty headState = iota // nothing: the reader has caught up
	headBusy                   // a record that is reserved and not committed
	headReady                  // something ReadBatch makes progress with
)

// ring is the consumer's half of the protocol, over memory that a kernel, or in
// tests a goroutine, writes at the same time.
//
// All shared words are accessed with sync/atomic, which is sequentially
// consistent. That is more than the acquire and release of the kernel's side,
// and it is needed: "store the consumer position, then look at the next header"
// must not be reordered, else reader and committer could each miss the other
// and nobody would be woken.
type ring struct {
	consumer *uint64
	producer *uint64
	data     []byte // twice the size: the same pages mapped twice in a row
	mask     uint64 // size - 1; the size is a power of two

	scanned  uint64 // where scan goes on
	scanning bool   // set under both locks, Magazine.scanner and reader
}

func newRing(consumer, producer *uint64, data []byte) ring {
	return ring{consumer: consumer, producer: producer, data: data, mask: uint64(len(data)/2 - 1)}
}

func (r *ring) size() uint64 { return r.mask + 1 }

// used returns the bytes between the positions. The consumer position is loaded
// first, so that the difference cannot become negative; both may move in
// between, hence the bound.
func (r *ring) used() uint64 {
	consumer := atomic.LoadUint64(r.consumer)
	return min(atomic.LoadUint64(r.producer)-consumer, r.size())
}

// header loads the header of the record at a position. The kernel commits with
// an xchg of this word (bpf_ringbuf_commit), so a header that is not busy means
// that the whole record can be seen.
func (r *ring) header(position uint64) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[position&r.mask])))
}

// head says what stands at the consumer position. It may be called while another goroutine
// reads. The header it looks at may then be gone already, and the answer wrong in either
// direction: a wrong headReady costs an idle ReadBatch, a wrong headBusy a look more a moment
// later. headEmpty is never wrong, and it is the one that a reader may sleep on.
func (r *ring) head() headState { return r.state(atomic.LoadUint64(r.consumer)) }

// next is head at the position where scan goes on.
func (r *ring) next() headState { return r.state(atomic.LoadUint64(&r.scanned)) }

func (r *ring) state(position uint64) headState {
	if position == atomic.LoadUint64(r.producer) {
		return headEmpty
	}
	// A misaligned position is corrupt: read finds that out.
	if position%headerSize == 0 && r.header(position)&busyFlag != 0 {
		return headBusy
	}
	return headReady
}

// Taken returns the bytes of a ring that a record of so many bytes takes: its header
// comes before it, and it is rounded up.
func Taken(length int) uint64 { return headerSize + (uint64(length)+7)&^7 }

// read hands all complete records that were reserved before the call to fn; where there
// is scanning, those that were scanned.
//
// The consumer position moves on after every record, not once in a batch. A
// task may be waiting for exactly this room, and a reader that takes over after
// a crash gets at most one record again instead of a whole batch. The price is
// one locked store for each record, little beside what is done with a record.
func (r *ring) read(closed *atomic.Bool, fn func(record []byte) error) (n int, err error) {
	end := r.producer
	if r.scanning {
		end = &r.scanned
	}
	return r.walk(r.consumer, end, closed, fn)
}

// scan hands the complete records that read has not had and scan neither to fn, and
// leaves them in the ring.
func (r *ring) scan(closed *atomic.Bool, fn func(record []byte) error) (n int, err error) {
	return r.walk(&r.scanned, r.producer, closed, fn)
}

// walk hands the complete records between two positions to fn and moves the first along.
// Records that come while it runs are left for the next call: otherwise a busy
// producer could keep the caller here for ever.
func (r *ring) walk(from, to *uint64, closed *atomic.Bool, fn func(record []byte) error) (n int, err error) {
	position := atomic.LoadUint64(from)
	end := atomic.LoadUint64(to)
	if position%headerSize != 0 || end-position > r.size() {
		return 0, fmt.Errorf("read magazine between positions %d and %d of %d bytes: %w",
			position, end, r.size(), ErrCorrupt)
	}
	for position != end {
		if closed.Load() {
			return n, ErrClosed
		}
		header := r.header(position)
		if header&busyFlag != 0 {
			return n, nil
		}
		length := uint64(header & lengthMask)
		step := Taken(int(length))
		if step > end-position {
			return n, fmt.Errorf("read record of %d bytes at position %d, producer at %d: %w",
				length, position, end, ErrCorrupt)
		}
		if header&discardFlag == 0 {
			start := position&r.mask + headerSize
			err = fn(r.data[start : start+length : start+length])
			n++
		}
		position += step
		atomic.StoreUint64(from, position)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
