// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain fails the package if goroutines or descriptors are left over.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		goroutines, files := runtime.NumGoroutine(), openFiles()
		code := m.Run()
		if flag.Lookup("test.fuzz").Value.String() != "" {
			return code // the fuzzer leaves a goroutine for signals
		}
		for try := 0; code == 0; try++ {
			if runtime.NumGoroutine() <= goroutines && openFiles() <= files {
				break
			}
			if try == 100 {
				fmt.Fprintf(os.Stderr, "left over: goroutines %d, was %d; descriptors %d, was %d\n",
					runtime.NumGoroutine(), goroutines, openFiles(), files)
				_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
				return 1
			}
			runtime.GC()
			time.Sleep(10 * time.Millisecond) // a goroutine's exit cannot be waited for
		}
		return code
	}())
}

// openFiles counts descriptors of the kinds that this package could leak.
func openFiles() (n int) {
	// The Go runtime has an epoll instance and an eventfd of its own, which come
	// with the first pipe and stay.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + entry.Name())
		switch target {
		case "/memfd:magazine (deleted)", "anon_inode:[eventfd]", "anon_inode:[eventpoll]":
			n++
		}
	}
	return n
}

// simulator is the kernel's half of the protocol in kernel/bpf/ringbuf.c:
// reserve is __bpf_ringbuf_reserve, commit is bpf_ringbuf_commit.
type simulator struct {
	ring
	lock   sync.Mutex // the kernel's rb->spinlock
	notify int        // eventfd in the place of the wait queue, or -1
	sent   atomic.Int64
}

type reservation struct {
	position uint64
	data     []byte
}

func (s *simulator) reserve(length int) (reservation, bool) {
	s.lock.Lock()
	defer s.lock.Unlock()
	consumer := atomic.LoadUint64(s.consumer)
	position := atomic.LoadUint64(s.producer)
	next := position + headerSize + (uint64(length)+7)&^7
	if next-consumer > s.mask {
		return reservation{}, false
	}
	atomic.StoreUint32(s.word(position), uint32(length)|busyFlag)
	atomic.StoreUint64(s.producer, next)
	start := position&s.mask + headerSize
	return reservation{position, s.data[start : start+uint64(length)]}, true
}

func (s *simulator) word(position uint64) *uint32 {
	return (*uint32)(unsafe.Pointer(&s.data[position&s.mask]))
}

type commitFlags int

const (
	discard commitFlags = 1 << iota
	noWakeup
)

func (s *simulator) commit(r reservation, flags commitFlags) {
	header := uint32(len(r.data))
	if flags&discard != 0 {
		header |= discardFlag
	}
	atomic.SwapUint32(s.word(r.position), header)
	caughtUp := atomic.LoadUint64(s.consumer)&s.mask == r.position&s.mask
	if caughtUp && flags&noWakeup == 0 {
		s.sent.Add(1)
		if s.notify >= 0 {
			_, _ = unix.Write(s.notify, one[:])
		}
	}
}

// put is reserve and commit; false if there is no room.
func (s *simulator) put(text string) bool {
	r, ok := s.reserve(len(text))
	if ok {
		copy(r.data, text)
		s.commit(r, 0)
	}
	return ok
}

func (s *simulator) mustPut(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !s.put(text) {
			t.Fatalf("no room for %q", text)
		}
	}
}

// heapRing is a ring in Go memory, which the race detector watches; it ignores
// mappings. Writer and reader address a record that wraps around in the same way,
// so the second half need not be the same memory as the first.
func heapRing(size int) (*simulator, *ring) {
	words := make([]uint64, 2+2*size/8)
	data := unsafe.Slice((*byte)(unsafe.Pointer(&words[2])), 2*size)
	r := newRing(&words[0], &words[1], data)
	return &simulator{ring: r, notify: -1}, &r
}

// newMagazineFor makes a Magazine over a memfd laid out as the kernel does, its
// data pages mapped twice, and a simulator that writes through a mapping of its own.
func newMagazineFor(t testing.TB, size int) (*simulator, *Magazine) {
	t.Helper()
	page := os.Getpagesize()
	fd, err := unix.MemfdCreate("magazine", unix.MFD_CLOEXEC)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	check(t, unix.Ftruncate(fd, int64(2*page+size)))

	writer, free := mapTwice(t, fd, size, unix.PROT_READ|unix.PROT_WRITE)
	t.Cleanup(func() { check(t, free()) })
	shared, unmapShared := mapTwice(t, fd, size, unix.PROT_READ)
	control, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	// The simulator's own, because it outlives Close as the kernel does.
	consumer, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Munmap(consumer)) })

	notify, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	check(t, err)
	t.Cleanup(func() { unix.Close(notify) })
	m, err := newMagazine(mapping{control, shared, func() error {
		check(t, unix.Munmap(control))
		return unmapShared()
	}}, notify)
	check(t, err)
	t.Cleanup(func() { check(t, m.Close()) })
	return &simulator{
		ring: newRing((*uint64)(unsafe.Pointer(&consumer[0])),
			(*uint64)(unsafe.Pointer(&writer[0])), writer[page:]),
		notify: notify,
	}, m
}

// mapTwice maps the producer page of the memfd and then its data twice in a row.
func mapTwice(t testing.TB, fd, size, prot int) ([]byte, func() error) {
	t.Helper()
	page := os.Getpagesize()
	total := uintptr(page + 2*size)
	base, err := unix.MmapPtr(-1, 0, nil, total, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	check(t, err)
	fixed := unix.MAP_SHARED | unix.MAP_FIXED
	_, err = unix.MmapPtr(fd, int64(page), base, uintptr(page+size), prot, fixed)
	check(t, err)
	second := unsafe.Add(base, page+size)
	_, err = unix.MmapPtr(fd, int64(2*page), second, uintptr(size), prot, fixed)
	check(t, err)
	return unsafe.Slice((*byte)(base), total), func() error { return unix.MunmapPtr(base, total) }
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
