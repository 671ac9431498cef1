// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// overwriteFlag is BPF_F_RB_OVERWRITE of newer kernels: such a ring overwrites
// records that were not read yet. A magazine must not.
const overwriteFlag = 1 << 19

// mapping is the memory of a magazine, and how to give it back.
type mapping struct {
	control []byte // the page with the consumer position, writable
	shared  []byte // the page with the producer position, then the data twice
	unmap   func() error
}

// Magazine is one ring buffer, open for reading. One goroutine reads at a time;
// the methods say what may be called beside it. Make it with Open.
type Magazine struct {
	ring   ring
	memory mapping
	closed atomic.Bool
	once   sync.Once
	final  error  // what Close returned
	left   uint64 // bytes unread when it was closed

	epoll  int
	wakeup int // eventfd
	events [2]unix.EpollEvent
	count  [8]byte // scratch of Wait, to read the eventfd into

	// Each is held by whoever uses the memory and the descriptors, so that
	// Close can take all four, in this order, before it gives them back.
	waiter  sync.Mutex   // Wait
	scanner sync.Mutex   // Scan
	reader  sync.Mutex   // ReadBatch
	others  sync.RWMutex // Used, Drained, Wake, Await
}

// Open maps a ring buffer for reading. Reading goes on at the consumer position
// that is kept in the map, so a successor continues where its predecessor
// stopped. The map is only borrowed: its owner may close it at any time, because
// the mapping keeps the kernel's ring alive.
//
// It returns ErrMap for maps of another type and for rings that overwrite unread
// records (BPF_F_RB_OVERWRITE). It needs kernel 5.8 or newer.
func Open(m *ebpf.Map) (*Magazine, error) {
	if m.Type() != ebpf.RingBuf {
		return nil, fmt.Errorf("open magazine: map of type %s: %w", m.Type(), ErrMap)
	}
	if m.Flags()&overwriteFlag != 0 {
		return nil, fmt.Errorf("open magazine: ring overwrites unread records: %w", ErrMap)
	}
	memory, err := mapRing(m.FD(), int(m.MaxEntries()))
	if err != nil {
		return nil, err
	}
	magazine, err := newMagazine(memory, m.FD())
	if err != nil {
		return nil, errors.Join(err, memory.unmap())
	}
	return magazine, nil
}

// mapRing maps the two parts of a ring of size bytes. Only the consumer page may
// be mapped writable (kernel/bpf/ringbuf.c, ringbuf_map_mmap_kern).
func mapRing(fd, size int) (mapping, error) {
	page := os.Getpagesize()
	control, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return mapping{}, fmt.Errorf("map consumer page of magazine: %w", err)
	}
	shared, err := unix.Mmap(fd, int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return mapping{}, errors.Join(
			fmt.Errorf("map %d bytes of magazine: %w", size, err), unix.Munmap(control))
	}
	unmap := func() error { return errors.Join(unix.Munmap(control), unix.Munmap(shared)) }
	return mapping{control, shared, unmap}, nil
}

// newMagazine makes a Magazine over mapped memory. pollFD is the map, or in
// tests an eventfd: it has to signal a commit at the consumer position.
func newMagazine(memory mapping, pollFD int) (_ *Magazine, err error) {
	m := &Magazine{memory: memory, epoll: -1, wakeup: -1}
	m.ring = newRing(
		(*uint64)(unsafe.Pointer(&memory.control[0])),
		(*uint64)(unsafe.Pointer(&memory.shared[0])),
		memory.shared[os.Getpagesize():])
	defer func() {
		if err != nil {
			err = errors.Join(err, m.closeDescriptors())
		}
	}()
	if m.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make epoll of magazine: %w", err)
	}
	if m.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make eventfd of magazine: %w", err)
	}
	// Why the map is watched for edges: see Wait.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(pollFD)}
	if err = unix.EpollCtl(m.epoll, unix.EPOLL_CTL_ADD, pollFD, &event); err != nil {
		return nil, fmt.Errorf("watch magazine: %w", err)
	}
	event = unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(m.wakeup)}
	if err = unix.EpollCtl(m.epoll, unix.EPOLL_CTL_ADD, m.wakeup, &event); err != nil {
		return nil, fmt.Errorf("watch eventfd of magazine: %w", err)
	}
	return m, nil
}

func (m *Magazine) closeDescriptors() error {
	var errs []error
	for _, fd := range []int{m.epoll, m.wakeup} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// Size returns the size of the ring in bytes; headers of 8 bytes and rounding up
// to 8 bytes count against it. Safe from any goroutine, also after Close.
func (m *Magazine) Size() uint64 { return m.ring.size() }

// Window returns the window that a Ledger needs so that records of at least
// smallest bytes are never declared lost while they are in this magazine. Safe
// from any goroutine, also after Close.
//
// It is twice the records that fit in. A number comes before a lower one only if
// their records were in the ring at the same time: a task may be preempted between
// reserve and numbering, while all CPUs go on filling the ring, so nothing
// smaller is certain. Of the numbers between the two, those read already were in
// the ring together with the lower one when it was numbered, the others are in
// it now: each at most one ring full.
func (m *Magazine) Window(smallest int) int {
	return int(2 * m.Size() / (headerSize + (uint64(max(smallest, 0))+7)&^7))
}

// ReadBatch hands every record that is complete now to fn, in ring order, and
// returns how many. It never blocks and makes no system call. It ends at the
// first record that is not committed yet, and does not wait for records that
// are reserved after it began; records that the kernel half discarded are skipped
// and not counted.
//
// The slice is the ring itself: read-only (writing to it is a fault), and valid
// only until fn returns. An error of fn ends the batch and is returned as it is;
// that record counts as read, else it would come back for ever. ErrCorrupt says
// that the ring cannot be read any further, ErrClosed that Close was called.
//
// One goroutine at a time; a second one waits. fn must not call ReadBatch or Close.
func (m *Magazine) ReadBatch(fn func(record []byte) error) (n int, err error) {
	m.reader.Lock()
	defer m.reader.Unlock()
	if m.closed.Load() {
		return 0, ErrClosed
	}
	return m.ring.read(&m.closed, fn)
}

// Scan hands the records that are complete now to fn ahead of ReadBatch, in ring order,
// each once, and leaves them in the ring: for whoever has to decide about an event
// before anybody has time to write it down. From the first call on, ReadBatch goes no
// further than Scan has been, so that a record that nobody looked at is never given up:
// call it before the first ReadBatch, or never.
//
// What is said of ReadBatch holds here, too. One goroutine at a time; a second one
// waits. Another one may be in ReadBatch.
func (m *Magazine) Scan(fn func(record []byte) error) (n int, err error) {
	m.scanner.Lock()
	defer m.scanner.Unlock()
	if m.closed.Load() {
		return 0, ErrClosed
	}
	if !m.ring.scanning {
		m.startScan()
	}
	return m.ring.scan(&m.closed, fn)
}

// Scanned says whether Scan has handed on all that is in the ring, so that not even a record
// that is reserved and not committed is left. Safe from any goroutine.
func (m *Magazine) Scanned() bool {
	m.scanner.Lock()
	defer m.scanner.Unlock()
	return !m.closed.Load() && m.ring.scanning && m.ring.scanned == atomic.LoadUint64(m.ring.producer)
}

// startScan lets scanning begin where reading stands.
func (m *Magazine) startScan() {
	m.reader.Lock()
	defer m.reader.Unlock()
	m.ring.scanned = atomic.LoadUint64(m.ring.consumer)
	m.ring.scanning = true
}

// Used returns the bytes between consumer and producer position, headers and
// records that are not committed yet included. After Close it is what was left
// unread. Safe from any goroutine.
func (m *Magazine) Used() uint64 {
	m.others.RLock()
	defer m.others.RUnlock()
	if m.memory.unmap == nil {
		return m.left
	}
	return m.ring.used()
}

// Drained says whether nothing is in the ring, not even a record that is reserved
// and not committed. After Close: whether nothing was left unread. Safe from any
// goroutine.
func (m *Magazine) Drained() bool { return m.Used() == 0 }

// Close unblocks Wait, waits until ReadBatch, Scan and Wait have returned, and gives
// back the mapping and the descriptors. Unread records stay in the map. The
// second and later calls do nothing and return what the first one did. Safe from
// any goroutine, but not from inside the function given to ReadBatch.
func (m *Magazine) Close() error {
	m.once.Do(func() {
		m.closed.Store(true)
		m.signal()
		m.waiter.Lock()
		defer m.waiter.Unlock()
		m.scanner.Lock()
		defer m.scanner.Unlock()
		m.reader.Lock()
		defer m.reader.Unlock()
		m.others.Lock()
		defer m.others.Unlock()
		m.left = m.ring.used()
		err := errors.Join(m.closeDescriptors(), m.memory.unmap())
		m.memory = mapping{}
		if err != nil {
			m.final = fmt.Errorf("close magazine: %w", err)
		}
	})
	return m.final
}
