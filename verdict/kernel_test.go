// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

// kernel is the kernel's side of a gate.
type kernel struct{ *fusetest.Kernel }

// request sends one request.
func (k *kernel) request(opcode uint32, node uint64, body []byte) chan fusetest.Answer {
	_, answered := k.Ask(opcode, node, 1, body)
	return answered
}

// ask sends the request of a thread that waits.
func (k *kernel) ask(slot, tid uint32) (unique uint64, answered chan fusetest.Answer) {
	return k.Ask(fuse.OpGetxattr, gateNode, tid, getxattrBody(slot, xattr))
}

// tell sends a request that has no answer.
func (k *kernel) tell(opcode uint32, body []byte) { k.Tell(opcode, 0, body) }

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
	k := &kernel{fusetest.NewKernel(t)}
	c.Device = k.Device
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	g.status = func(uint32) ([]byte, error) { return nil, errors.New("not in this test") }
	g.read = func(fd int, b []byte) (int, unix.Errno) {
		n, errno := fuse.ReadDevice(fd, b)
		if n == 0 && errno == 0 { // how a socket ends
			errno = unix.ENODEV
		}
		return n, errno
	}
	served := make(chan error, 1)
	go func() { served <- errors.Join(g.Serve(), unix.Close(k.Device)) }()
	t.Cleanup(func() { k.End(served) })
	return g, k
}
