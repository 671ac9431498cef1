// SPDX-License-Identifier: Apache-2.0

package tsemfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

// plane is a Plane in which a thread without entry has no rights and no namespace.
type plane struct {
	mu         sync.Mutex
	admitted   map[uint32]bool
	ids        map[uint32]uint64
	queues     map[uint64]*Queue
	commands   []string // with the thread
	refused    []string
	commandErr error
	hold       chan struct{} // a Create waits for it
}

func newPlane() *plane {
	return &plane{admitted: make(map[uint32]bool), ids: make(map[uint32]uint64), queues: make(map[uint64]*Queue)}
}

// with calls f while nobody else uses the plane.
func (p *plane) with(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *plane) Admit(tid uint32) (err error) {
	p.with(func() {
		if !p.admitted[tid] {
			err = unix.EACCES
		}
	})
	return err
}

func (p *plane) Command(tid uint32, command control.Command) (err error) {
	if _, ok := command.(control.Create); ok && p.hold != nil {
		<-p.hold
	}
	p.with(func() {
		p.commands = append(p.commands, fmt.Sprintf("%d: %T%+v", tid, command, command))
		err = p.commandErr
	})
	return err
}

func (p *plane) Refused(tid uint32, err error) {
	p.with(func() { p.refused = append(p.refused, fmt.Sprintf("%d: %v", tid, err)) })
}

func (p *plane) ID(tid uint32) (id uint64, err error) {
	p.with(func() {
		if id = p.ids[tid]; id == 0 {
			err = fmt.Errorf("thread %d has no namespace: %w", tid, unix.ENOENT)
		}
	})
	return id, err
}

func (p *plane) Aggregate(tid uint32) ([]byte, error) {
	if _, err := p.ID(tid); err == nil {
		return nil, unix.EACCES
	}
	return []byte{0xab, 0x01}, nil
}

func (p *plane) Records(namespace uint64) (q *Queue) {
	p.with(func() { q = p.queues[namespace] })
	return q
}

func (p *plane) Namespaces() (ids []uint64) {
	p.with(func() {
		for id := range p.queues {
			ids = append(ids, id)
		}
	})
	return ids
}

const (
	orchestrator = 10
	workload     = 20
	stranger     = 30
)

// files is the file system as a process sees it that asks the kernel by hand.
type files struct {
	*fusetest.Kernel
	t *testing.T
}

// serve serves a plane until the test ends.
func serve(t *testing.T, p *plane) *files {
	t.Helper()
	f := &files{fusetest.NewKernel(t), t}
	f.Woken = make(chan uint64, 10)
	served := make(chan error, 1)
	s := fuse.NewServer(f.Device, New(p))
	go func() { served <- s.Serve() }()
	t.Cleanup(func() { f.End(served) })
	return f
}

func (f *files) ask(opcode uint32, node uint64, tid uint32, parts ...[]byte) fusetest.Answer {
	_, answered := f.Ask(opcode, node, tid, bytes.Join(parts, nil))
	return <-answered
}

// lookup walks a path, and returns the number and the attributes of what is there.
func (f *files) lookup(path string) (node uint64, mode uint32, valid uint64, errno unix.Errno) {
	node = fuse.RootNode
	for name := range strings.SplitSeq(path, "/") {
		a := f.ask(fuse.OpLookup, node, stranger, []byte(name+"\x00"))
		if a.Errno != 0 {
			return 0, 0, 0, a.Errno
		}
		b := []byte(a.Body)
		node, valid, mode = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[16:]), binary.NativeEndian.Uint32(b[40+60:])
	}
	return node, mode, valid, 0
}

// open opens a file for a thread. An error is that of the last name, or of the open.
func (f *files) open(path string, tid, flags uint32) (o opened, errno unix.Errno) {
	node, _, _, errno := f.lookup(path)
	if errno != 0 {
		return opened{}, errno
	}
	a := f.ask(fuse.OpOpen, node, tid, fusetest.Uint32s(flags, 0))
	if a.Errno != 0 {
		return opened{}, a.Errno
	}
	return opened{f, node, binary.NativeEndian.Uint64([]byte(a.Body))}, 0
}

// mustOpen opens a file that can be opened.
func (f *files) mustOpen(path string, tid, flags uint32) opened {
	f.t.Helper()
	o, errno := f.open(path, tid, flags)
	if errno != 0 {
		f.t.Fatalf("open %s: %v", path, errno)
	}
	return o
}

// opened is an open file.
type opened struct {
	*files
	node, handle uint64
}

func (o opened) read(tid uint32, offset uint64, size uint32) (string, unix.Errno) {
	a := o.ask(fuse.OpRead, o.node, tid, fusetest.Uint64s(o.handle, offset), fusetest.Uint32s(size, 0, 0, 0, 0, 0))
	return a.Body, a.Errno
}

func (o opened) write(tid uint32, offset uint64, data string) chan fusetest.Answer {
	_, answered := o.Ask(fuse.OpWrite, o.node, tid, bytes.Join([][]byte{
		fusetest.Uint64s(o.handle, offset), fusetest.Uint32s(uint32(len(data)), 0, 0, 0, 0, 0), []byte(data),
	}, nil))
	return answered
}

func (o opened) poll(file uint64) uint32 {
	a := o.ask(fuse.OpPoll, o.node, stranger, fusetest.Uint64s(o.handle, file), fusetest.Uint32s(1, 0))
	return binary.NativeEndian.Uint32([]byte(a.Body))
}

// TestTree has names, modes, and for how long names are right.
func TestTree(t *testing.T) {
	p := newPlane()
	p.queues[9], p.queues[10] = NewQueue(1), NewQueue(1)
	f := serve(t, p)
	type stat struct {
		mode  uint32
		valid uint64
		errno unix.Errno
	}
	for path, want := range map[string]stat{
		"control":                           {unix.S_IFREG | 0o200, 0, 0},
		"id":                                {unix.S_IFREG | 0o400, fuse.Forever, 0},
		"aggregate":                         {unix.S_IFREG | 0o400, fuse.Forever, 0},
		"README":                            {unix.S_IFREG | 0o444, fuse.Forever, 0},
		"external_tma":                      {unix.S_IFDIR | 0o555, fuse.Forever, 0},
		"external_tma/9":                    {unix.S_IFREG | 0o400, 0, 0},
		"external_tma/10":                   {unix.S_IFREG | 0o400, 0, 0},
		"external_tma/11":                   {0, 0, unix.ENOENT},
		"external_tma/09":                   {0, 0, unix.ENOENT},
		"external_tma/+9":                   {0, 0, unix.ENOENT},
		"external_tma/x":                    {0, 0, unix.ENOENT},
		"external_tma/18446744073709551616": {0, 0, unix.ENOENT},
		"internal_tma":                      {0, 0, unix.ENOENT},
		"control/x":                         {0, 0, unix.ENOTDIR},
	} {
		_, mode, valid, errno := f.lookup(path)
		if got := (stat{mode, valid, errno}); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	first, _, _, _ := f.lookup("external_tma/9")
	again, _, _, _ := f.lookup("external_tma/9")
	if other, _, _, _ := f.lookup("external_tma/10"); first != again || first == other {
		t.Errorf("external_tma/9 is node %d, then %d, and the other one %d", first, again, other)
	}
	one, _, _, _ := f.lookup("control")
	if two, _, _, _ := f.lookup("control"); one == two {
		t.Errorf("control is node %d for each who opens it", one)
	}
	root, inner := New(p), &agents{p}
	if got := strings.Join(root.Names(), " "); got != "control id aggregate external_tma README" {
		t.Error(got)
	}
	if got := strings.Join(inner.Names(), " "); got != "9 10" {
		t.Error(got)
	}
	p.with(func() { delete(p.queues, 9) })
	if _, _, _, errno := f.lookup("external_tma/9"); errno != unix.ENOENT {
		t.Errorf("of an ended namespace: %v", errno)
	}
}

// TestRights: who may open what, and how.
func TestRights(t *testing.T) {
	p := newPlane()
	p.queues[9], p.admitted[orchestrator], p.ids[workload] = NewQueue(1), true, 9
	f := serve(t, p)
	for _, c := range []struct {
		path  string
		tid   uint32
		flags uint32
		want  unix.Errno
	}{
		{"control", orchestrator, unix.O_WRONLY, 0},
		{"control", orchestrator, unix.O_WRONLY | unix.O_TRUNC | unix.O_APPEND, 0},
		{"control", orchestrator, unix.O_RDWR, unix.EACCES},
		{"control", orchestrator, unix.O_RDONLY, unix.EACCES},
		{"control", stranger, unix.O_WRONLY, unix.EACCES},
		{"external_tma/9", orchestrator, unix.O_RDONLY, 0},
		{"external_tma/9", stranger, unix.O_RDONLY, unix.EACCES},
		{"external_tma/8", orchestrator, unix.O_RDONLY, unix.ENOENT},
		{"id", workload, unix.O_RDONLY, 0},
		{"id", orchestrator, unix.O_RDONLY, unix.ENOENT},
		{"aggregate", orchestrator, unix.O_RDONLY, 0},
		{"aggregate", workload, unix.O_RDONLY, unix.EACCES},
		{"README", stranger, unix.O_RDONLY, 0},
	} {
		if _, errno := f.open(c.path, c.tid, c.flags); errno != c.want {
			t.Errorf("%s by %d with %#x: %v, want %v", c.path, c.tid, c.flags, errno, c.want)
		}
	}
	// Between the look-up and the open its namespace ended.
	node, _, _, _ := f.lookup("external_tma/9")
	p.with(func() { delete(p.queues, 9) })
	if a := f.ask(fuse.OpOpen, node, orchestrator, fusetest.Uint32s(unix.O_RDONLY, 0)); a.Errno != unix.ENOENT {
		t.Errorf("of an ended namespace: %v", a.Errno)
	}
}

// TestID: a client opens it again and again until there is an id, and reads that byte by byte.
func TestID(t *testing.T) {
	p := newPlane()
	f := serve(t, p)
	node, _, _, _ := f.lookup("id")
	for range 3 {
		if a := f.ask(fuse.OpOpen, node, orchestrator, fusetest.Uint32s(unix.O_RDONLY, 0)); a.Errno != unix.ENOENT {
			t.Error(a.Errno)
		}
	}
	p.with(func() { p.ids[orchestrator] = 12 })
	o := f.mustOpen("id", orchestrator, unix.O_RDONLY)
	p.with(func() { p.ids[orchestrator] = 13 }) // what is open stays as it is
	for i, want := range []string{"1", "2", "\n", "", ""} {
		if got, errno := o.read(orchestrator, uint64(i), 1); got != want || errno != 0 {
			t.Errorf("byte %d: %q, %v", i, got, errno)
		}
	}
	o = f.mustOpen("aggregate", stranger, unix.O_RDONLY)
	if got, errno := o.read(stranger, 0, 4096); got != "ab01\n" || errno != 0 {
		t.Errorf("aggregate: %q, %v", got, errno)
	}
}

// TestControl: a command is that of the thread that writes, at any offset, through whichever
// descriptor; and its result is that of the command.
func TestControl(t *testing.T) {
	p := newPlane()
	p.admitted[orchestrator] = true
	f := serve(t, p)
	o := f.mustOpen("control", orchestrator, unix.O_WRONLY)
	offset := uint64(0)
	write := func(tid uint32, data string, want unix.Errno) {
		t.Helper()
		a := <-o.write(tid, offset, data)
		if size := string(fusetest.Uint32s(uint32(len(data)), 0)); a.Errno != want || want == 0 && a.Body != size {
			t.Errorf("%.20q: %v %x", data, a.Errno, a.Body)
		}
		offset += uint64(len(data))
	}
	write(orchestrator, "enforce\n", 0)
	write(workload, "export\n", 0) // a child, which has the descriptor from its parent
	write(orchestrator, "trusted pid=5 tnum=6\nignored", 0)
	write(orchestrator, "trusted pid=5\n", unix.EINVAL)
	write(orchestrator, "enforce", unix.EINVAL)
	write(orchestrator, "enforce "+strings.Repeat("x", 4000), unix.EINVAL)
	p.with(func() { p.commandErr = fmt.Errorf("the namespace is sealed: %w", unix.EPERM) })
	write(workload, "seal\n", unix.EPERM)
	p.with(func() { p.commandErr = errors.New("no errno") })
	write(orchestrator, "seal\n", unix.EIO)

	want := []string{
		"10: control.Enforce{}",
		"20: control.Create{Kind:3 NSRefCurrent:false Digest:SHA-256 Cache:0 Key:[]}",
		"10: control.Release{Verdict:trusted PID:5 TNum:6 Number:0 Key:[]}",
		"20: control.Seal{}", "10: control.Seal{}",
	}
	refused := []string{"10: trusted without tnum=", "10: command of 7 bytes", "10: command of 4008 bytes", "20: the namespace is sealed", "10: no errno"}
	p.with(func() {
		if !slices.Equal(p.commands, want) || !slices.EqualFunc(p.refused, refused, strings.HasPrefix) {
			t.Errorf("commands %q, refused %q", p.commands, p.refused)
		}
	})
}

// TestSlowCommand: a namespace that takes its time to make holds up no verdict and no reader.
func TestSlowCommand(t *testing.T) {
	p := newPlane()
	p.admitted[orchestrator], p.queues[9], p.hold = true, queueOf(t, "record\n"), make(chan struct{})
	f := serve(t, p)
	o := f.mustOpen("control", orchestrator, unix.O_WRONLY)
	made := o.write(workload, 0, "external\n")
	if a := <-o.write(orchestrator, 0, "trusted pid=5 tnum=6\n"); a.Errno != 0 {
		t.Error(a.Errno)
	}
	r := f.mustOpen("external_tma/9", orchestrator, unix.O_RDONLY)
	if got, errno := r.read(orchestrator, 0, 4096); got != "record\n" || errno != 0 {
		t.Errorf("%q, %v", got, errno)
	}
	select {
	case a := <-made:
		t.Errorf("made before it was made: %v", a)
	default:
	}
	close(p.hold)
	if a := <-made; a.Errno != 0 {
		t.Error(a.Errno)
	}
	p.with(func() {
		if len(p.commands) != 2 {
			t.Errorf("commands %q", p.commands)
		}
	})
}

// TestRecords reads and polls as an orchestrator does. Two descriptors have one queue.
func TestRecords(t *testing.T) {
	p := newPlane()
	q := queueOf(t, "aggregate\n")
	p.admitted[orchestrator], p.queues[9] = true, q
	f := serve(t, p)
	o, other := f.mustOpen("external_tma/9", orchestrator, unix.O_RDONLY), f.mustOpen("external_tma/9", orchestrator, unix.O_RDONLY)
	read := func(o opened, offset uint64, size uint32, want string, wantErr unix.Errno) {
		t.Helper()
		if got, errno := o.read(stranger, offset, size); got != want || errno != wantErr {
			t.Errorf("%q, %v, want %q, %v", got, errno, want, wantErr)
		}
	}
	poll := func(o opened, file uint64, want uint32) {
		t.Helper()
		if got := o.poll(file); got != want {
			t.Errorf("%#x, want %#x", got, want)
		}
	}
	poll(o, 1, 0x41)
	read(o, 0, 4, "aggr", 0)
	read(o, 4, 4096, "egate\n", 0)
	read(o, 10, 4096, "", 0)
	read(o, 0, 4096, "", unix.ENODATA)
	poll(o, 1, 0)
	poll(other, 2, 0)
	if err := q.Append([]byte("event\n")); err != nil {
		t.Fatal(err)
	}
	if first, second := <-f.Woken, <-f.Woken; first+second != 3 {
		t.Errorf("woken: %d and %d", first, second)
	}
	poll(o, 1, 0x41)
	poll(o, 1, 0x41)
	poll(other, 2, 0x41)
	read(other, 0, 4096, "event\n", 0)
	poll(o, 1, 0)
	q.End()
	if first, second := <-f.Woken, <-f.Woken; first+second != 3 {
		t.Errorf("woken by the end: %d and %d", first, second)
	}
	poll(o, 1, unix.POLLHUP)
	read(o, 0, 4096, "", unix.ENODATA)
	if a := f.ask(fuse.OpRelease, other.node, 0, fusetest.Uint64s(other.handle, 0, 0)); a.Errno != 0 {
		t.Error(a.Errno)
	}
}
