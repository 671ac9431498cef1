// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// answer is what the kernel gets back.
type answer struct {
	errno unix.Errno
	body  string
}

// kernel is the other side of /dev/fuse: it asks, and sees to it that every request is
// answered once. A pair of sockets keeps the bounds of messages, as the device does.
type kernel struct {
	t      *testing.T
	file   *os.File // the kernel's end
	fd     int      // the same
	device int      // the gate's end
	unique atomic.Uint64

	mu      sync.Mutex
	waiting map[uint64]chan answer
	ended   chan struct{}
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil { // so that Close ends Read
		t.Fatal(err)
	}
	k := &kernel{
		t: t, file: os.NewFile(uintptr(pair[0]), "kernel"), fd: pair[0], device: pair[1],
		waiting: make(map[uint64]chan answer), ended: make(chan struct{}),
	}
	go k.receive()
	return k
}

// receive takes the answers until the connection ends.
func (k *kernel) receive() {
	defer close(k.ended)
	b := make([]byte, bufferSize)
	le := binary.NativeEndian
	for {
		n, err := k.file.Read(b)
		if err != nil || n == 0 {
			return
		}
		if n < outHeader || le.Uint32(b) != uint32(n) {
			k.t.Errorf("an answer of %d bytes: %x", n, b[:n])
			continue
		}
		unique := le.Uint64(b[8:])
		k.mu.Lock()
		waiter := k.waiting[unique]
		delete(k.waiting, unique)
		k.mu.Unlock()
		if waiter == nil {
			k.t.Errorf("request %d was not asked, or was answered before", unique)
			continue
		}
		waiter <- answer{unix.Errno(-int32(le.Uint32(b[4:]))), string(b[outHeader:n])}
	}
}

// next returns the number of the next request, and where its answer will come.
func (k *kernel) next() (unique uint64, answered chan answer) {
	unique, answered = 2*k.unique.Add(1), make(chan answer, 1)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting[unique] = answered
	return unique, answered
}

func (k *kernel) send(b []byte) {
	if _, err := k.file.Write(b); err != nil {
		k.t.Errorf("send a request: %v", err)
	}
}

// request sends one request.
func (k *kernel) request(opcode uint32, node uint64, body []byte) chan answer {
	unique, answered := k.next()
	k.send(rawRequest(opcode, unique, node, 1, body))
	return answered
}

// ask sends the request of a thread that waits.
func (k *kernel) ask(slot, tid uint32) (unique uint64, answered chan answer) {
	unique, answered = k.next()
	k.send(rawRequest(opGetxattr, unique, gateNode, tid, getxattrBody(slot, xattr)))
	return unique, answered
}

// tell sends a request that has no answer.
func (k *kernel) tell(opcode uint32, body []byte) {
	k.send(rawRequest(opcode, 2*k.unique.Add(1)+1, 0, 0, body))
}

// begin begins a wait in a slot, as the kernel half does.
func begin(s *Slots, slot uint32) (ticket uint64) {
	word := &s.all[slot].Word
	ticket = atomic.LoadUint64(word)>>verdictBits + 1
	atomic.StoreUint64(word, ticket<<verdictBits)
	return ticket
}

// testConfig is one that lets nothing happen by itself. Its device is no device.
func testConfig(slots int) Config {
	return Config{
		Slots:     NewSlots(make([]bpf.Slot, slots)),
		Device:    math.MaxInt32,
		Program:   []byte("program"),
		Look:      func() {},
		BeatEvery: time.Hour,
		Deadline:  time.Hour,
	}
}

// serve makes a gate that is served until the test ends, and the kernel that it serves.
func serve(t *testing.T, c Config) (*Gate, *kernel) {
	t.Helper()
	k := newKernel(t)
	c.Device = k.device
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	g.status = func(uint32) ([]byte, error) { return nil, errors.New("not in this test") }
	g.read = func(fd int, b []byte) (int, unix.Errno) {
		n, errno := readDevice(fd, b)
		if n == 0 && errno == 0 { // how a socket ends
			errno = unix.ENODEV
		}
		return n, errno
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve() }()
	t.Cleanup(func() {
		// Half a hang-up first: the gate can still answer whoever sleeps.
		if err := unix.Shutdown(k.fd, unix.SHUT_WR); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := unix.Close(k.device); err != nil {
			t.Error(err)
		}
		<-k.ended
		k.file.Close()
		for unique := range k.waiting {
			t.Errorf("request %d was never answered", unique)
		}
	})
	return g, k
}
