// SPDX-License-Identifier: Apache-2.0

// Package fusetest is the kernel's side of a FUSE connection, for tests: it writes requests
// as include/uapi/linux/fuse.h says, without a look at package fuse, and takes the answers.
package fusetest

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	header     = 16      // of an answer: struct fuse_out_header
	notifyPoll = 1       // FUSE_NOTIFY_POLL
	most       = 1 << 18 // no answer is longer
)

// Request is a request as the kernel writes it.
func Request(opcode uint32, unique, node uint64, tid uint32, body []byte) []byte {
	b := Uint32s(uint32(40+len(body)), opcode)
	b = append(b, Uint64s(unique, node)...)
	b = append(b, Uint32s(0, 0, tid, 0)...) // uid, gid, pid, total_extlen
	return append(b, body...)
}

// Uint32s are numbers as they stand in a structure.
func Uint32s(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

// Uint64s are numbers as they stand in a structure.
func Uint64s(values ...uint64) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

// Attr is struct fuse_attr of a node that belongs to root and has no times.
func Attr(node, size, blocks uint64, mode uint32) []byte {
	b := Uint64s(node, size, blocks, 0, 0, 0)
	return append(b, Uint32s(0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)...)
}

// Answer is what the kernel gets back.
type Answer struct {
	Errno unix.Errno
	Body  string
}

// Kernel is the other side of /dev/fuse: it asks, and sees to it that every request is
// answered once. A pair of sockets keeps the bounds of messages, as the device does. Its
// methods may be called from any goroutine, but for End.
type Kernel struct {
	// Device is the end of the connection that is served. Who serves it closes it. A read of it
	// returns nothing when the other end is shut.
	Device int
	// Woken gets the numbers of open files whose pollers are woken. Set it before the
	// first request; nobody is woken otherwise.
	Woken chan uint64

	t      testing.TB
	file   *os.File // the kernel's end
	fd     int      // the same
	unique atomic.Uint64

	mu      sync.Mutex
	waiting map[uint64]chan Answer
	ended   chan struct{}
}

// NewKernel makes a connection. The test calls End.
func NewKernel(t testing.TB) *Kernel {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil { // so that Close ends Read
		t.Fatal(err)
	}
	k := &Kernel{
		t: t, file: os.NewFile(uintptr(pair[0]), "kernel"), fd: pair[0], Device: pair[1],
		waiting: make(map[uint64]chan Answer), ended: make(chan struct{}),
	}
	go k.receive()
	return k
}

// receive takes the answers until the connection ends.
func (k *Kernel) receive() {
	defer close(k.ended)
	b := make([]byte, most)
	le := binary.NativeEndian
	for {
		n, err := k.file.Read(b)
		if err != nil || n == 0 {
			return
		}
		if n < header || le.Uint32(b) != uint32(n) {
			k.t.Errorf("an answer of %d bytes: %x", n, b[:n])
			continue
		}
		unique := le.Uint64(b[8:])
		if unique == 0 {
			if n != header+8 || le.Uint32(b[4:]) != notifyPoll || k.Woken == nil {
				k.t.Errorf("a notification: %x", b[:n])
				continue
			}
			k.Woken <- le.Uint64(b[header:])
			continue
		}
		k.mu.Lock()
		waiter := k.waiting[unique]
		delete(k.waiting, unique)
		k.mu.Unlock()
		if waiter == nil {
			k.t.Errorf("request %d was not asked, or was answered before", unique)
			continue
		}
		waiter <- Answer{unix.Errno(-int32(le.Uint32(b[4:]))), string(b[header:n])}
	}
}

// Ask sends a request of a thread, which has a number, and the answer will come.
func (k *Kernel) Ask(opcode uint32, node uint64, tid uint32, body []byte) (unique uint64, answered chan Answer) {
	unique, answered = 2*k.unique.Add(1), make(chan Answer, 1)
	k.mu.Lock()
	k.waiting[unique] = answered
	k.mu.Unlock()
	k.send(Request(opcode, unique, node, tid, body))
	return unique, answered
}

// Tell sends a request that has no answer.
func (k *Kernel) Tell(opcode uint32, node uint64, body []byte) {
	k.send(Request(opcode, 2*k.unique.Add(1)+1, node, 0, body))
}

func (k *Kernel) send(b []byte) {
	if _, err := k.file.Write(b); err != nil {
		k.t.Errorf("send a request: %v", err)
	}
}

// End hangs up, and waits until the connection is not served any more. Who serves it can
// still answer meanwhile; what was never answered is an error of the test.
func (k *Kernel) End(served <-chan error) {
	if err := unix.Shutdown(k.fd, unix.SHUT_WR); err != nil {
		k.t.Error(err)
	}
	if err := <-served; err != nil {
		k.t.Error(err)
	}
	<-k.ended
	k.file.Close()
	for unique := range k.waiting {
		k.t.Errorf("request %d was never answered", unique)
	}
}
