// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

// changing is held where a test changes what is served, and by what is served.
var changing sync.Mutex

func change(f func()) {
	changing.Lock()
	defer changing.Unlock()
	f()
}

// folder is a directory of nodes.
type folder map[string]Node

func (*folder) Info() Info { return Info{Mode: 0o555} }
func (f *folder) Lookup(name string) (node Node) {
	change(func() { node = (*f)[name] })
	return node
}

func (f *folder) Names() (names []string) {
	change(func() { names = slices.Sorted(maps.Keys(*f)) })
	return names
}

// note is a file of which all that happens to it is noted.
type note struct {
	info    Info
	err     error // of all that can fail
	content []byte
	events  uint32
	hold    chan struct{} // a write waits for it
	happens chan string
	wake    func()
}

func newNote(content string) *note {
	return &note{info: Info{Mode: 0o600, Size: uint64(len(content))}, content: []byte(content), happens: make(chan string, 10)}
}

func (n *note) Info() Info { return n.info }

func (n *note) Open(tid, flags uint32) (Handle, error) {
	n.happens <- fmt.Sprintf("open %d %#x", tid, flags)
	return n, n.error()
}

func (n *note) error() (err error) {
	change(func() { err = n.err })
	return err
}

func (n *note) Read(offset uint64, size uint32) ([]byte, error) {
	b, _ := Content(n.content).Read(offset, size)
	return b, n.error()
}

func (n *note) Write(tid uint32, data []byte) error {
	if n.hold != nil {
		<-n.hold
	}
	n.happens <- fmt.Sprintf("write %d %s", tid, data)
	return n.error()
}

func (n *note) Poll(wake func()) (events uint32) {
	change(func() { n.wake, events = wake, n.events })
	return events
}

// woken returns what wakes those who poll, nil if nobody waits.
func (n *note) woken() (wake func()) {
	change(func() { wake = n.wake })
	return wake
}

func (n *note) Unread() { n.happens <- "unread" }
func (n *note) Close()  { n.happens <- "close" }

// expect compares what happened with what should have, in that order.
func (n *note) expect(t *testing.T, want string) {
	t.Helper()
	if got := <-n.happens; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// client is a process that uses a file system.
type client struct {
	*fusetest.Kernel
	t *testing.T
}

// serve serves a tree until the test ends.
func serve(t *testing.T, root Dir) *client {
	t.Helper()
	c := &client{fusetest.NewKernel(t), t}
	c.Woken = make(chan uint64, 10)
	served := make(chan error, 1)
	s := NewServer(c.Device, root)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() { c.End(served) })
	return c
}

const thread = 4711

// ask sends a request and waits for its answer.
func (c *client) ask(opcode uint32, node uint64, parts ...[]byte) fusetest.Answer {
	_, answered := c.Ask(opcode, node, thread, bytes.Join(parts, nil))
	return <-answered
}

// expect asks for something.
func (c *client) expect(want fusetest.Answer, opcode uint32, node uint64, parts ...[]byte) {
	c.t.Helper()
	if got := c.ask(opcode, node, parts...); got != want {
		c.t.Errorf("operation %d on node %d: %v %x, want %v %x", opcode, node, got.Errno, got.Body, want.Errno, want.Body)
	}
}

func body(parts ...[]byte) fusetest.Answer {
	return fusetest.Answer{Body: string(bytes.Join(parts, nil))}
}
func failed(errno unix.Errno) fusetest.Answer { return fusetest.Answer{Errno: errno} }
func text(name string) []byte                 { return []byte(name + "\x00") }
func word(a uint32) []byte                    { return fusetest.Uint32s(a, 0) }
func entry(node, valid uint64) []byte         { return fusetest.Uint64s(node, 0, valid, Forever, 0) }
func readIn(handle, offset uint64, size uint32) []byte {
	return append(fusetest.Uint64s(handle, offset), fusetest.Uint32s(size, 0, 0, 0, 0, 0)...)
}
func writeIn(handle, offset uint64, data string) []byte {
	return append(readIn(handle, offset, uint32(len(data))), data...)
}
func pollIn(handle, file uint64, flags uint32) []byte {
	return append(fusetest.Uint64s(handle, file), word(flags)...)
}
func releaseIn(handle uint64) []byte { return fusetest.Uint64s(handle, 0, 0) }

// TestTree is about names and numbers.
func TestTree(t *testing.T) {
	passing := newNote("")
	passing.info.Passing = true
	inner := &folder{"passing": passing}
	root := &folder{"inner": inner, "file": newNote("1234")}
	c := serve(t, root)
	directory := func(node uint64) []byte { return fusetest.Attr(node, 0, 0, unix.S_IFDIR|0o555) }
	file := fusetest.Attr(2, 4, 1, unix.S_IFREG|0o600)
	c.expect(body(fusetest.Uint32s(7, 31, 4096, 0, 12<<16|16, 4096, 1), make([]byte, 36)), OpInit, 0, fusetest.Uint32s(7, 41, 4096, 0))
	c.expect(body(fusetest.Uint64s(Forever, 0), directory(RootNode)), OpGetattr, RootNode, make([]byte, 16))
	c.expect(failed(unix.ENOENT), OpGetattr, 2, make([]byte, 16)) // nobody looked it up
	c.expect(body(entry(2, Forever), file), OpLookup, RootNode, text("file"))
	c.expect(body(entry(2, Forever), file), OpLookup, RootNode, text("file"))
	c.expect(body(entry(3, Forever), directory(3)), OpLookup, RootNode, text("inner"))
	c.expect(body(entry(4, 0), fusetest.Attr(4, 0, 0, unix.S_IFREG|0o600)), OpLookup, 3, text("passing"))
	c.expect(body(fusetest.Uint64s(Forever, 0), file), OpGetattr, 2, make([]byte, 16))
	c.expect(failed(unix.ENOENT), OpLookup, RootNode, text("none"))
	c.expect(failed(unix.ENOENT), OpLookup, RootNode, []byte("file"))
	c.expect(failed(unix.ENOENT), OpLookup, 5, text("file"))
	c.expect(failed(unix.ENOTDIR), OpLookup, 2, text("file"))

	// What the kernel has forgotten as often as it was told of it is another node.
	c.Tell(OpForget, 2, fusetest.Uint64s(1))
	c.expect(body(fusetest.Uint64s(Forever, 0), file), OpGetattr, 2, make([]byte, 16))
	c.Tell(OpForget, RootNode, fusetest.Uint64s(1))
	c.Tell(OpForget, 3, make([]byte, 7))
	c.Tell(OpBatchForget, 0, append(fusetest.Uint32s(3, 0), fusetest.Uint64s(2, 1, 4, 1, 99, 1)...))
	c.expect(failed(unix.ENOENT), OpGetattr, 2, make([]byte, 16))
	c.expect(failed(unix.ENOENT), OpOpen, 4, word(0))
	c.expect(body(fusetest.Uint64s(Forever, 0), directory(RootNode)), OpGetattr, RootNode, make([]byte, 16))
	c.expect(body(entry(5, Forever), fusetest.Attr(5, 4, 1, unix.S_IFREG|0o600)), OpLookup, RootNode, text("file"))
	change(func() { delete(*inner, "passing") })
	c.expect(failed(unix.ENOENT), OpLookup, 3, text("passing"))

	c.expect(body(make([]byte, 80)), OpStatfs, RootNode)
	c.expect(body(), OpFlush, 5, make([]byte, 24))
	c.Tell(OpInterrupt, 0, fusetest.Uint64s(2))
	c.expect(failed(unix.ENOSYS), OpGetxattr, 5, fusetest.Uint32s(20, 0), text("security.capability"))
	c.expect(failed(unix.ENOSYS), math.MaxUint32, RootNode)
}

func TestSetattr(t *testing.T) {
	c := serve(t, &folder{"file": newNote("1234")})
	c.ask(OpLookup, RootNode, text("file"))
	want := body(fusetest.Uint64s(Forever, 0), fusetest.Attr(2, 4, 1, unix.S_IFREG|0o600))
	c.expect(want, OpSetattr, 2, fusetest.Uint32s(1<<3), make([]byte, 84)) // O_TRUNC
	c.expect(want, OpSetattr, 2, fusetest.Uint32s(1<<3|1<<6|1<<9|1<<11), make([]byte, 84))
	for bit := range 3 { // mode, uid, gid
		c.expect(failed(unix.EPERM), OpSetattr, 2, fusetest.Uint32s(1<<bit|1<<3), make([]byte, 84))
	}
	c.expect(failed(unix.EINVAL), OpSetattr, 2, []byte{8})
}

func TestOpenFile(t *testing.T) {
	n := newNote("12345678")
	c := serve(t, &folder{"file": n})
	c.ask(OpLookup, RootNode, text("file"))
	c.expect(failed(unix.ENOENT), OpOpen, 2, []byte{1, 0, 0})
	c.expect(body(fusetest.Uint64s(3), word(0x61)), OpOpen, 2, word(unix.O_RDWR))
	n.expect(t, "open 4711 0x2")

	c.expect(body([]byte("12345678")), OpRead, 2, readIn(3, 0, 4096))
	c.expect(body([]byte("345")), OpRead, 2, readIn(3, 2, 3))
	c.expect(body(), OpRead, 2, readIn(3, math.MaxUint64, math.MaxUint32))
	c.expect(body(word(4)), OpWrite, 2, writeIn(3, 1<<40, "data"))
	n.expect(t, "write 4711 data")
	c.expect(failed(unix.EINVAL), OpWrite, 2, writeIn(3, 0, "data")[:43])
	c.expect(failed(unix.EINVAL), OpWrite, 2, writeIn(3, 0, "data")[:39])
	c.expect(failed(unix.EINVAL), OpWrite, 2, writeIn(9, 0, "data"))
	c.expect(failed(unix.EBADF), OpRead, 2, readIn(9, 0, 1))
	c.expect(failed(unix.EBADF), OpRead, 2, readIn(3, 0, 1)[:23])
	c.expect(failed(unix.EBADF), OpReaddir, 2, readIn(3, 0, 4096))

	change(func() { n.err = fmt.Errorf("refused: %w", unix.EACCES) })
	c.expect(failed(unix.EACCES), OpRead, 2, readIn(3, 0, 1))
	c.expect(failed(unix.EACCES), OpWrite, 2, writeIn(3, 0, "data"))
	n.expect(t, "write 4711 data")
	c.expect(failed(unix.EACCES), OpOpen, 2, word(0))
	n.expect(t, "open 4711 0x0")
	change(func() { n.err = errors.New("no errno") })
	c.expect(failed(unix.EIO), OpRead, 2, readIn(3, 0, 1))

	c.expect(body(), OpRelease, 2, releaseIn(3))
	n.expect(t, "close")
	c.expect(failed(unix.EBADF), OpRead, 2, readIn(3, 0, 1))
	c.expect(body(), OpRelease, 2, releaseIn(3))
	c.expect(failed(unix.EINVAL), OpRelease, 2, make([]byte, 7))
}

// TestContent: what cannot be done with a handle.
func TestContent(t *testing.T) {
	c := serve(t, &folder{"file": &opener{Content("text")}})
	c.ask(OpLookup, RootNode, text("file"))
	c.expect(body(fusetest.Uint64s(3), word(0x61)), OpOpen, 2, word(0))
	c.expect(body([]byte("xt")), OpRead, 2, readIn(3, 2, 4096))
	c.expect(failed(unix.EINVAL), OpWrite, 2, writeIn(3, 0, "data"))
	c.expect(body(word(0x145)), OpPoll, 2, pollIn(3, 77, scheduleNotify))
}

// opener is a file that is opened with a handle.
type opener struct{ Handle }

func (opener) Info() Info                            { return Info{} }
func (o opener) Open(uint32, uint32) (Handle, error) { return o.Handle, nil }

func TestReaddir(t *testing.T) {
	root := &folder{"eightbit": newNote(""), "i": newNote("")}
	c := serve(t, root)
	c.expect(body(fusetest.Uint64s(2), word(0)), OpOpendir, RootNode, word(0))
	change(func() { delete(*root, "i") }) // an open directory has what was there
	entry := func(offset uint64, name, padding string) []byte {
		b := append(fusetest.Uint64s(math.MaxUint32, offset), fusetest.Uint32s(uint32(len(name)), 0)...)
		return append(b, name+padding...)
	}
	all := bytes.Join([][]byte{
		entry(1, ".", strings.Repeat("\x00", 7)), entry(2, "..", strings.Repeat("\x00", 6)),
		entry(3, "eightbit", ""), entry(4, "i", strings.Repeat("\x00", 7)),
	}, nil)
	c.expect(body(all), OpReaddir, RootNode, readIn(2, 0, 4096))
	c.expect(body(all[:64]), OpReaddir, RootNode, readIn(2, 0, 95))
	c.expect(body(all[64:96]), OpReaddir, RootNode, readIn(2, 2, 32))
	c.expect(body(), OpReaddir, RootNode, readIn(2, 0, 31))
	c.expect(body(), OpReaddir, RootNode, readIn(2, 4, 4096))
	c.expect(body(), OpReaddir, RootNode, readIn(2, math.MaxUint64, 4096))
	c.expect(failed(unix.EBADF), OpReaddir, RootNode, readIn(3, 0, 4096))
	c.expect(failed(unix.EBADF), OpRead, RootNode, readIn(2, 0, 4096))
	c.expect(body(), OpReleasedir, RootNode, releaseIn(2))
	c.expect(failed(unix.EBADF), OpReaddir, RootNode, readIn(2, 0, 4096))
}

func TestPoll(t *testing.T) {
	n := newNote("")
	c := serve(t, &folder{"file": n})
	c.ask(OpLookup, RootNode, text("file"))
	c.ask(OpOpen, 2, word(0))
	c.expect(body(word(0)), OpPoll, 2, pollIn(3, 77, 0))
	if n.woken() != nil {
		t.Error("somebody waits who does not")
	}
	c.expect(body(word(0)), OpPoll, 2, pollIn(3, 1<<40+1, scheduleNotify))
	n.woken()()
	if file := <-c.Woken; file != 1<<40+1 {
		t.Errorf("%d was woken", file)
	}
	change(func() { n.events = unix.POLLIN | unix.POLLHUP })
	c.expect(body(word(0x11)), OpPoll, 2, pollIn(3, 77, scheduleNotify))
	c.expect(failed(unix.EBADF), OpPoll, 2, pollIn(4, 77, scheduleNotify))
	c.expect(failed(unix.EINVAL), OpPoll, 2, pollIn(3, 77, 0)[:23])
}

// TestSlowWrite: a write that takes its time holds nobody up, not even other writes.
func TestSlowWrite(t *testing.T) {
	slow := newNote("there")
	slow.hold = make(chan struct{})
	c := serve(t, &folder{"slow": slow})
	c.ask(OpLookup, RootNode, text("slow"))
	c.ask(OpOpen, 2, word(0))
	_, first := c.Ask(OpWrite, 2, 1, writeIn(3, 0, "first"))
	_, second := c.Ask(OpWrite, 2, 2, writeIn(3, 0, "second"))
	c.expect(body([]byte("there")), OpRead, 2, readIn(3, 0, 4096))
	slow.hold <- struct{}{}
	slow.hold <- struct{}{} // so both wait, or did
	for _, answered := range []chan fusetest.Answer{first, second} {
		if got := <-answered; got.Errno != 0 {
			t.Error(got.Errno)
		}
	}
}

// TestEnd: who still writes is waited for when the connection ends, and only then are
// handles closed. Nobody is woken any more.
func TestEnd(t *testing.T) {
	n := newNote("")
	n.hold = make(chan struct{})
	k := fusetest.NewKernel(t)
	s := NewServer(k.Device, &folder{"file": n})
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	c := &client{k, t}
	c.ask(OpLookup, RootNode, text("file"))
	c.ask(OpOpen, 2, word(0))
	c.ask(OpPoll, 2, pollIn(3, 77, scheduleNotify))
	_, answered := c.Ask(OpWrite, 2, thread, writeIn(3, 0, "data"))
	go close(n.hold)
	k.End(served)
	if got := <-answered; got != body(word(4)) {
		t.Errorf("%+v", got)
	}
	n.expect(t, "open 4711 0x0")
	n.expect(t, "write 4711 data")
	n.expect(t, "close")
	s.deliver = func(int, []byte) unix.Errno {
		t.Error("woken")
		return 0
	}
	n.woken()()
}

// TestUndelivered: what an answer gives away is taken back if nobody wants the answer any
// more. What else the device says is an error, and taken back as well.
func TestUndelivered(t *testing.T) {
	for errno, fatal := range map[unix.Errno]bool{unix.ENOENT: false, unix.EBADF: true} {
		n := newNote("text")
		s := NewServer(-1, &folder{"file": n})
		s.deliver = func(int, []byte) unix.Errno { return 0 }
		ask := func(opcode uint32, node uint64, body []byte) {
			t.Helper()
			wantErr := fatal
			if s.deliver(0, nil) == 0 {
				wantErr = false
			}
			if err := s.handle(fusetest.Request(opcode, 2, node, thread, body)); (err != nil) != wantErr || err != nil && !errors.Is(err, errno) {
				t.Errorf("%v: %v", errno, err)
			}
		}
		ask(OpLookup, RootNode, text("file"))
		ask(OpOpen, 2, word(0))
		n.expect(t, "open 4711 0x0")
		s.deliver = func(int, []byte) unix.Errno { return errno }
		ask(OpRead, 2, readIn(3, 0, 4096))
		n.expect(t, "unread")
		ask(OpOpen, 2, word(0))
		n.expect(t, "open 4711 0x0")
		n.expect(t, "close")
		ask(OpLookup, RootNode, text("file"))
		if len(s.handles) != 1 || s.nodes[2].lookups != 1 {
			t.Errorf("%v: handles %v, %d look-ups", errno, s.handles, s.nodes[2].lookups)
		}
	}
}

// TestDeviceApart: while requests are answered no other thread of this process has the device open, and what it executes does not
// inherit it, so that its end is that of the connection, whatever other threads wait for.
func TestDeviceApart(t *testing.T) {
	k := fusetest.NewKernel(t)
	var device, found unix.Stat_t
	if err := unix.Fstat(k.Device, &device); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- NewServer(k.Device, &folder{}).Serve() }()
	c := &client{k, t}
	c.expect(fusetest.Answer{Errno: unix.ENOENT}, OpLookup, RootNode, text("file"))
	tables, err := filepath.Glob("/proc/self/task/*/fd")
	if err != nil {
		t.Fatal(err)
	}
	var with []string
	for _, table := range tables {
		descriptors, _ := filepath.Glob(table + "/*") // nothing where a thread has ended
		for _, d := range descriptors {
			if unix.Stat(d, &found) == nil && found.Dev == device.Dev && found.Ino == device.Ino {
				with = append(with, d)
			}
		}
	}
	if len(with) != 1 || strings.HasPrefix(with[0], fmt.Sprintf("/proc/self/task/%d/", unix.Getpid())) {
		t.Errorf("the device is open as %q", with)
	}
	k.End(served)
}

// TestNothingHeld: what this process closes is closed, though the thread that serves began with a copy of it.
func TestNothingHeld(t *testing.T) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	c := serve(t, &folder{})
	c.expect(fusetest.Answer{Errno: unix.ENOENT}, OpLookup, RootNode, text("file")) // the thread has begun
	if err := unix.Close(ends[1]); err != nil {
		t.Fatal(err)
	}
	pipe := []unix.PollFd{{Fd: int32(ends[0])}}
	if _, err := unix.Poll(pipe, 0); err != nil || pipe[0].Revents != unix.POLLHUP {
		t.Errorf("events %#x, %v: the pipe is not closed", pipe[0].Revents, err)
	}
}

// TestServeErrors is what a read from a device can return.
func TestServeErrors(t *testing.T) {
	if err := NewServer(-1, &folder{}).Serve(); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
	k := fusetest.NewKernel(t)
	s := NewServer(k.Device, &folder{})
	served := make(chan error, 1)
	go func() {
		err := s.Serve()
		if !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
		served <- nil
	}()
	k.Tell(OpForget, 1, make([]byte, BufferSize)) // longer than all requests are
	k.End(served)
}

// FuzzServer asks for anything, twice, of a server that has all kinds of nodes and handles.
// Each request is answered once where an answer is expected, and an error has no body: the
// kernel refuses it otherwise, and the task would wait on.
func FuzzServer(f *testing.F) {
	f.Add(uint32(OpInit), uint64(0), fusetest.Uint32s(7, 46, 4096, 0))
	f.Add(uint32(OpLookup), uint64(RootNode), text("file"))
	f.Add(uint32(OpSetattr), uint64(2), fusetest.Uint32s(8))
	f.Add(uint32(OpRead), uint64(2), readIn(3, 2, 5))
	f.Add(uint32(OpReaddir), uint64(RootNode), readIn(4, 1, 4096))
	f.Add(uint32(OpWrite), uint64(2), writeIn(3, 0, "data"))
	f.Add(uint32(OpPoll), uint64(2), pollIn(3, 1, scheduleNotify))
	f.Add(uint32(OpRelease), uint64(2), releaseIn(3))
	f.Add(uint32(OpBatchForget), uint64(0), append(word(2), fusetest.Uint64s(2, 1, 1, 9)...))
	f.Fuzz(func(t *testing.T, opcode uint32, node uint64, body []byte) {
		n := newNote("content")
		s := NewServer(-1, &folder{"file": n})
		answers := make(chan []byte, 1)
		s.deliver = func(_ int, b []byte) unix.Errno {
			answers <- bytes.Clone(b)
			return 0
		}
		ask := func(opcode uint32, node uint64, body []byte) {
			raw := fusetest.Request(opcode, 2, node, thread, body)
			if err := s.handle(raw); err != nil {
				t.Fatal(err)
			}
			s.writes.Wait()
			s.sendPosted()
			for len(n.happens) != 0 {
				<-n.happens
			}
			switch opcode {
			case OpForget, OpBatchForget, OpInterrupt:
				if len(answers) != 0 {
					t.Fatalf("answered with %x", <-answers)
				}
				return
			}
			answer := <-answers
			header := fusetest.Uint32s(uint32(len(answer)))
			if !bytes.Equal(answer[:4], header) || !bytes.Equal(answer[8:16], fusetest.Uint64s(2)) {
				t.Fatalf("answered with %x", answer)
			}
			if !bytes.Equal(answer[4:8], make([]byte, 4)) && len(answer) != AnswerHeader {
				t.Fatalf("an error with a body: %x", answer)
			}
		}
		ask(OpLookup, RootNode, text("file"))
		ask(OpOpen, 2, word(0))
		ask(OpOpendir, RootNode, word(0))
		ask(opcode, node, body)
		ask(opcode, node, body)
	})
}
