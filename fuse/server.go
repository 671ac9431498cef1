// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"golang.org/x/sys/unix"
)

// openFlags: whatever is read or written is asked for, close(2) waits for nobody, and two may
// write at a time. For the last one the kernel wants the end of the file to lie behind
// what is written (fs/fuse/file.c, fuse_io_past_eof), so a file that many write says to be large.
const openFlags = DirectIO | NoFlush | ParallelDirectWrites

// Of struct fuse_setattr_in: what nobody may change. All else may be asked for and changes
// nothing, above all the size: O_TRUNC asks for that.
const setattrRefused = 1<<0 | 1<<1 | 1<<2 // FATTR_MODE, FATTR_UID, FATTR_GID

// scheduleNotify is FUSE_POLL_SCHEDULE_NOTIFY: somebody is going to wait.
const scheduleNotify = 1 << 0

// Server serves a tree of nodes whose content is made when it is asked for.
type Server struct {
	device int

	// Of the goroutine that serves.
	nodes   map[uint64]*known // by number
	numbers map[Node]uint64
	handles map[uint64]Handle
	last    uint64 // number of a node or a handle; none is given twice
	out     []byte
	writes  sync.WaitGroup

	mu     sync.Mutex
	posted [][]byte // what other goroutines want to be sent
	wake   int      // an eventfd that says so
	over   bool     // nobody sends anything any more

	deliver func(fd int, b []byte) unix.Errno // to the kernel, or in tests to something like it
}

// known is a node that the kernel knows.
type known struct {
	node    Node
	lookups uint64 // how often the kernel was told of it, and did not forget it since
}

// NewServer makes a server of a tree. device is a descriptor of /dev/fuse, in blocking mode,
// that is mounted when Serve is called, or one end of a pair of sockets that keep the bounds of
// messages. Serve closes it.
func NewServer(device int, root Dir) *Server {
	return &Server{
		device:  device,
		nodes:   map[uint64]*known{RootNode: {node: root}},
		numbers: map[Node]uint64{root: RootNode},
		handles: make(map[uint64]Handle),
		last:    RootNode,
		out:     make([]byte, AnswerHeader, BufferSize),
		wake:    -1,
		deliver: WriteDevice,
	}
}

// Serve answers requests until the connection ends, because the file system was unmounted or
// the connection aborted. It then returns nil, after all writes under way have ended and all
// handles were closed. It is called once. In every case the device is closed.
//
// The device is open on one thread of this process alone (see the package's documentation), which closes its copies of all
// files that are open when Serve is called: none may be among them of which that may hang.
func (s *Server) Serve() error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return errors.Join(fmt.Errorf("open an eventfd: %w", err), unix.Close(s.device))
	}
	s.wake = wake
	apart, alone, served := make(chan struct{}), make(chan struct{}), make(chan error)
	go onOwnThread(func() {
		err := unix.Unshare(unix.CLONE_FILES)
		if err == nil {
			err = closeNamed(s.device)
		}
		close(apart)
		<-alone
		if err != nil {
			served <- fmt.Errorf("have descriptors of its own: %w", err)
			return
		}
		err = s.loop()
		s.writes.Wait()
		s.sendPosted()
		served <- errors.Join(err, unix.Close(s.device))
	})
	<-apart
	closeErr := unix.Close(s.device)
	close(alone)
	err = errors.Join(<-served, closeErr)
	for _, h := range s.handles {
		h.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return errors.Join(err, unix.Close(wake))
}

func (s *Server) loop() error {
	if err := unix.SetNonblock(s.device, true); err != nil {
		return fmt.Errorf("read FUSE requests: %w", err)
	}
	buffer, counter := make([]byte, BufferSize), make([]byte, 8)
	ready := []unix.PollFd{{Fd: int32(s.device), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for FUSE requests: %w", err)
		}
		if ready[1].Revents != 0 {
			_, _ = unix.Read(s.wake, counter) // which sets it to 0
			s.sendPosted()
		}
		if ready[0].Revents == 0 {
			continue
		}
		n, errno := ReadDevice(s.device, buffer)
		switch errno {
		case 0:
			if n == 0 { // no device says that, but a socket whose other side hung up
				return nil
			}
			if err := s.handle(buffer[:n]); err != nil {
				return err
			}
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the request was aborted while it was read
		case unix.ENODEV, unix.ECONNABORTED:
			return nil
		default:
			return fmt.Errorf("read FUSE requests: %w", errno)
		}
	}
}

// handle handles one request.
func (s *Server) handle(b []byte) error {
	r, err := ParseRequest(b)
	if err != nil {
		return fmt.Errorf("read FUSE requests: %d bytes: %w", len(b), err)
	}
	switch r.Opcode {
	case OpForget, OpBatchForget:
		s.forgetAll(&r)
		return nil
	case OpInterrupt: // what is asked for is answered soon
		return nil
	case OpWrite:
		if w, data, ok := s.written(&r); ok {
			s.write(w, r.Unique, r.TID, bytes.Clone(data))
			return nil
		}
	}
	out, undo, errno := s.answer(&r, s.out)
	if errno != 0 {
		out = s.out
	}
	errno = s.send(out, r.Unique, errno)
	if errno != 0 && undo != nil {
		undo()
	}
	if errno != 0 && errno != unix.ENOENT { // ENOENT: nobody wants the answer any more
		return fmt.Errorf("answer FUSE request %d: %w", r.Opcode, errno)
	}
	return nil
}

// answer answers a request: it appends the body of the answer to out, which has room for
// the header. undo, unless it is nil, is to be called if the answer reaches nobody.
func (s *Server) answer(r *Request, out []byte) (_ []byte, undo func(), errno unix.Errno) {
	switch r.Opcode {
	case OpInit:
		out, errno = AppendInit(out, r.Body)
		return out, nil, errno
	case OpLookup:
		return s.lookup(r, out)
	case OpGetattr:
		return s.getattr(r, out)
	case OpSetattr:
		if len(r.Body) < 4 {
			return out, nil, unix.EINVAL
		}
		if binary.NativeEndian.Uint32(r.Body)&setattrRefused != 0 {
			return out, nil, unix.EPERM
		}
		return s.getattr(r, out)
	case OpOpen, OpOpendir:
		return s.open(r, out)
	case OpRead:
		return s.read(r, out)
	case OpReaddir:
		return s.readdir(r, out)
	case OpPoll:
		return s.poll(r, out)
	case OpRelease, OpReleasedir:
		return out, nil, s.release(r)
	case OpStatfs:
		return AppendStatfs(out), nil, 0
	case OpWrite: // what it is about was not found
		return out, nil, unix.EINVAL
	case OpFlush, OpDestroy:
		return out, nil, 0
	}
	return out, nil, unix.ENOSYS
}

func (s *Server) lookup(r *Request, out []byte) ([]byte, func(), unix.Errno) {
	name, _, ended := bytes.Cut(r.Body, []byte{0})
	parent := s.nodes[r.Node]
	if parent == nil || !ended {
		return out, nil, unix.ENOENT
	}
	dir, ok := parent.node.(Dir)
	if !ok {
		return out, nil, unix.ENOTDIR
	}
	node := dir.Lookup(string(name))
	if node == nil {
		return out, nil, unix.ENOENT
	}
	number, ok := s.numbers[node]
	if !ok {
		s.last++
		number = s.last
		s.numbers[node], s.nodes[number] = number, &known{node: node}
	}
	s.nodes[number].lookups++
	seconds := uint64(Forever)
	if node.Info().Passing {
		seconds = 0
	}
	return AppendEntry(out, attr(number, node), seconds), func() { s.forget(number, 1) }, 0
}

// attr returns the attributes of a node.
func attr(number uint64, node Node) Attr {
	info := node.Info()
	kind := uint32(unix.S_IFREG)
	if _, ok := node.(Dir); ok {
		kind = unix.S_IFDIR
	}
	return Attr{Node: number, Size: info.Size, Mode: kind | info.Mode}
}

// forgetAll reads struct fuse_forget_in, or struct fuse_batch_forget_in and what follows it.
func (s *Server) forgetAll(r *Request) {
	le := binary.NativeEndian
	if r.Opcode == OpForget {
		if len(r.Body) >= 8 {
			s.forget(r.Node, le.Uint64(r.Body))
		}
		return
	}
	for pairs := r.Body; len(pairs) >= 8+16; pairs = pairs[16:] {
		s.forget(le.Uint64(pairs[8:]), le.Uint64(pairs[16:]))
	}
}

// forget notes that the kernel forgot a node as often as that.
func (s *Server) forget(number, lookups uint64) {
	k := s.nodes[number]
	if k == nil || number == RootNode {
		return
	}
	k.lookups -= min(lookups, k.lookups)
	if k.lookups == 0 {
		delete(s.nodes, number)
		delete(s.numbers, k.node)
	}
}

func (s *Server) getattr(r *Request, out []byte) ([]byte, func(), unix.Errno) {
	k := s.nodes[r.Node]
	if k == nil {
		return out, nil, unix.ENOENT
	}
	return AppendAttr(out, attr(r.Node, k.node)), nil, 0
}

// open opens a file or a directory (struct fuse_open_in).
func (s *Server) open(r *Request, out []byte) ([]byte, func(), unix.Errno) {
	k := s.nodes[r.Node]
	if k == nil || len(r.Body) < 4 {
		return out, nil, unix.ENOENT
	}
	var h Handle
	var flags uint32
	switch node := k.node.(type) {
	case Dir:
		h = listing(append([]string{".", ".."}, node.Names()...))
	case File:
		var err error
		if h, err = node.Open(r.TID, binary.NativeEndian.Uint32(r.Body)); err != nil {
			return out, nil, errnoOf(err)
		}
		flags = openFlags
	}
	s.last++
	number := s.last
	s.handles[number] = h
	return AppendOpen(out, number, flags), func() { s.close(number) }, 0
}

// listing is an open directory: the names that were there when it was opened.
type listing []string

func (listing) Close() {}

// readdir answers with entries of a directory (struct fuse_dirent), as many as have room.
func (s *Server) readdir(r *Request, out []byte) ([]byte, func(), unix.Errno) {
	piece, ok := r.Range()
	names, isDir := s.handles[piece.Handle].(listing)
	if !ok || !isDir {
		return out, nil, unix.EBADF
	}
	le := binary.NativeEndian
	end := uint64(len(out)) + uint64(piece.Size)
	for i := min(piece.Offset, uint64(len(names))); i < uint64(len(names)); i++ {
		padded := (len(names[i]) + 7) &^ 7
		if uint64(len(out)+24+padded) > end {
			break
		}
		// Neither number nor type: stat(2) knows them. 0 would stand for an entry that is gone.
		out = le.AppendUint64(out, math.MaxUint32)
		out = le.AppendUint64(out, i+1)
		out = le.AppendUint32(out, uint32(len(names[i])))
		out = le.AppendUint32(out, unix.DT_UNKNOWN)
		out = append(out, names[i]...)
		out = append(out, make([]byte, padded-len(names[i]))...)
	}
	return out, nil, 0
}

func (s *Server) read(r *Request, out []byte) ([]byte, func(), unix.Errno) {
	piece, ok := r.Range()
	reader, isReader := s.handles[piece.Handle].(Reader)
	if !ok || !isReader {
		return out, nil, unix.EBADF
	}
	b, err := reader.Read(piece.Offset, piece.Size)
	if err != nil {
		return out, nil, errnoOf(err)
	}
	return append(out, b...), reader.Unread, 0
}

// written returns the data of a request to write (struct fuse_write_in), and who takes it.
func (s *Server) written(r *Request) (w Writer, data []byte, ok bool) {
	const in = 40
	if len(r.Body) < in {
		return nil, nil, false
	}
	le := binary.NativeEndian
	if data = r.Body[in:]; uint64(le.Uint32(r.Body[16:])) != uint64(len(data)) {
		return nil, nil, false
	}
	w, ok = s.handles[le.Uint64(r.Body)].(Writer)
	return w, data, ok
}

// write lets data be written beside all other requests.
func (s *Server) write(w Writer, unique uint64, tid uint32, data []byte) {
	s.writes.Go(func() {
		err := w.Write(tid, data)
		out := make([]byte, AnswerHeader, AnswerHeader+8)
		if err == nil {
			out = binary.NativeEndian.AppendUint32(out, uint32(len(data)))
			out = binary.NativeEndian.AppendUint32(out, 0)
		}
		PutHeader(out, len(out), unique, errnoOf(err))
		s.post(out)
	})
}

// poll answers struct fuse_poll_in with struct fuse_poll_out.
func (s *Server) poll(r *Request, out []byte) ([]byte, func(), unix.Errno) {
	if len(r.Body) < 24 {
		return out, nil, unix.EINVAL
	}
	le := binary.NativeEndian
	h := s.handles[le.Uint64(r.Body)]
	if h == nil {
		return out, nil, unix.EBADF
	}
	events := uint32(always)
	if poller, ok := h.(Poller); ok {
		var wake func()
		if file := le.Uint64(r.Body[8:]); le.Uint32(r.Body[16:])&scheduleNotify != 0 {
			wake = func() { s.notify(file) }
		}
		events = poller.Poll(wake)
	}
	out = le.AppendUint32(out, events)
	return le.AppendUint32(out, 0), nil, 0
}

// notify wakes all who poll an open file, which has a number of the kernel's own for that
// (struct fuse_notify_poll_wakeup_out). Any goroutine, at any time.
func (s *Server) notify(file uint64) {
	b := binary.NativeEndian.AppendUint64(make([]byte, AnswerHeader, AnswerHeader+8), file)
	PutHeader(b, len(b), 0, 0)
	binary.NativeEndian.PutUint32(b[4:], notifyPoll) // where an answer has its errno
	s.post(b)
}

// post lets the thread that has the device send something. Any goroutine, at any time.
func (s *Server) post(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	if s.posted = append(s.posted, b); len(s.posted) == 1 {
		// It cannot fail: there is room for 2^64-2 of them.
		_, _ = unix.Write(s.wake, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// sendPosted sends what was posted. What the kernel does not take nobody waits for: a task that is gone, or a file that is
// closed by now.
func (s *Server) sendPosted() {
	s.mu.Lock()
	posted := s.posted
	s.posted = nil
	s.mu.Unlock()
	for _, b := range posted {
		_ = s.deliver(s.device, b)
	}
}

// release reads struct fuse_release_in.
func (s *Server) release(r *Request) unix.Errno {
	if len(r.Body) < 8 {
		return unix.EINVAL
	}
	s.close(binary.NativeEndian.Uint64(r.Body))
	return 0
}

func (s *Server) close(handle uint64) {
	if h := s.handles[handle]; h != nil {
		delete(s.handles, handle)
		h.Close()
	}
}

// send sends an answer, which has room for its header. An error has no body: the kernel
// refuses it otherwise (fs/fuse/dev.c, fuse_dev_do_write), and the task would wait on.
func (s *Server) send(out []byte, unique uint64, errno unix.Errno) unix.Errno {
	PutHeader(out, len(out), unique, errno)
	return s.deliver(s.device, out)
}

// errnoOf returns what a task learns of an error.
func errnoOf(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return unix.EIO
}
