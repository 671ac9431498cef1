// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// TestFUSECost measures the floor of a wait in the gate, which is a FUSE request: how much less one costs
// that comes and is answered through io_uring, which kernels can do from 6.14 on and do only if root writes so to
// the parameter enable_uring, than one that is read(2) and answered by write(2).
func TestFUSECost(t *testing.T) {
	if os.Getenv("TSEM_EXACT") == "" {
		t.Skip("make fuse-cost runs this where the clock counts instructions")
	}
	const enable = "/sys/module/fuse/parameters/enable_uring"
	before, err := os.ReadFile(enable)
	if err != nil {
		t.Skipf("this kernel has no FUSE over io_uring: %v", err)
	}
	if err := os.WriteFile(enable, []byte("Y"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(enable, before, 0) })

	contestants := []contestant{
		{"read", withFUSE(serveReads)},
		{"io_uring", withFUSE(serveRing(0))},
		{"deferred", withFUSE(serveRing(setupSingleIssuer | setupDeferTaskrun))},
	}
	rounds, requests := number(t, os.Getenv("TSEM_ROUNDS"), 3), number(t, os.Getenv("TSEM_OPENS"), 200)
	all := measure(t, contestants, rounds, requests)
	fmt.Printf("instructions for a FUSE request: medians of %d rounds of %d\n", rounds, requests)
	for _, c := range contestants {
		mine := all[c.name]
		fmt.Printf("%-10s p50 %6.0f, mean %6.0f, p99 %6.0f, of the answerer %6.0f; of read: p50 %.3f\n",
			c.name, median(mine, p50), median(mine, mean), median(mine, p99), median(mine, answer), ratio(mine, all["read"], p50))
	}
}

// askedNode is the only file of the file systems here.
const askedNode = 2

// answerFUSE answers a request to a file system that has one file, with an attribute that is empty. No answer is
// expected where ok is false.
func answerFUSE(opcode uint32, out []byte) (_ []byte, errno unix.Errno, ok bool) {
	a := fuse.Attr{Node: askedNode, Mode: unix.S_IFREG | 0o444}
	switch opcode {
	case fuse.OpForget, fuse.OpBatchForget, fuse.OpInterrupt:
		return out, 0, false
	case fuse.OpLookup:
		out = fuse.AppendEntry(out, a, fuse.Forever)
	case fuse.OpGetattr:
		out = fuse.AppendAttr(out, a)
	case fuse.OpOpen:
		out = fuse.AppendOpen(out, 0, fuse.NoFlush)
	case fuse.OpGetxattr:
		out = append(out, make([]byte, 8)...) // struct fuse_getxattr_out: its size is 0
	case fuse.OpRelease, fuse.OpDestroy:
	default:
		errno = unix.ENOSYS
	}
	return out, errno, true
}

// withFUSE runs a command with a file of a FUSE file system as its descriptor 3, while this process serves that.
func withFUSE(serve func(device int, ready func()) error) func(*exec.Cmd) ([]byte, error) {
	return func(cmd *exec.Cmd) ([]byte, error) {
		device, err := fuse.OpenDevice()
		if err != nil {
			return nil, err
		}
		defer unix.Close(device)
		mount, err := fuse.Mount("fuse", 0, fuse.Options(device)...)
		if err != nil {
			return nil, err
		}
		ready := make(chan struct{})
		ended := answering(func() error { return serve(device, func() { close(ready) }) })
		var out []byte
		select {
		case <-ready:
			out, err = onFUSE(mount, cmd)
		case err = <-ended:
			return nil, errors.Join(err, unix.Close(mount))
		}
		return out, errors.Join(err, unix.Close(mount), <-ended)
	}
}

// onFUSE runs the command. Nothing here has the file afterwards.
func onFUSE(mount int, cmd *exec.Cmd) ([]byte, error) {
	fd, err := unix.Openat(mount, "asked", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the file of FUSE: %w", err)
	}
	file := os.NewFile(uintptr(fd), "asked")
	defer file.Close()
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(cmd.Env, "TSEM_ATTRIBUTE=3")
	return cmd.Output()
}

// startFUSE reads the first request, which always comes through the device, and answers it with these features
// (FUSE_INIT_EXT and the younger half of the flags of struct fuse_init_out).
func startFUSE(device int, flags, flags2 uint32) error {
	buffer := make([]byte, fuse.BufferSize)
	n, errno := fuse.ReadDevice(device, buffer)
	if errno != 0 {
		return fmt.Errorf("read from FUSE: %w", errno)
	}
	r, err := fuse.ParseRequest(buffer[:n])
	if err != nil || r.Opcode != fuse.OpInit {
		return errors.Join(fmt.Errorf("the first request to FUSE is %d", r.Opcode), err)
	}
	out, errno := fuse.AppendInit(make([]byte, fuse.AnswerHeader), r.Body)
	binary.NativeEndian.PutUint32(out[fuse.AnswerHeader+12:], flags)
	binary.NativeEndian.PutUint32(out[fuse.AnswerHeader+32:], flags2)
	fuse.PutHeader(out, len(out), r.Unique, errno)
	if errno := fuse.WriteDevice(device, out); errno != 0 {
		return fmt.Errorf("answer FUSE: %w", errno)
	}
	return nil
}

// serveReads serves until nobody has the file system any more, as the gate does.
func serveReads(device int, ready func()) error {
	if err := startFUSE(device, 0, 0); err != nil {
		return err
	}
	ready()
	buffer, out := make([]byte, fuse.BufferSize), make([]byte, fuse.AnswerHeader, fuse.BufferSize)
	for {
		n, errno := fuse.ReadDevice(device, buffer)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.ENODEV:
			return nil
		default:
			return fmt.Errorf("read from FUSE: %w", errno)
		}
		r, err := fuse.ParseRequest(buffer[:n])
		if err != nil {
			return err
		}
		answer, errno, ok := answerFUSE(r.Opcode, out)
		if !ok {
			continue
		}
		fuse.PutHeader(answer, len(answer), r.Unique, errno)
		if errno := fuse.WriteDevice(device, answer); errno != 0 && errno != unix.ENOENT { // ENOENT: the end was quicker
			return fmt.Errorf("answer FUSE: %w", errno)
		}
	}
}

// From include/uapi/linux/io_uring.h and fuse.h.
const (
	setupSQE128       = 1 << 10
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13
	setupNoSQArray    = 1 << 16

	enterGetevents = 1
	offsetSQEs     = 0x10000000
	opWrite        = 23
	opURingCmd     = 46
	sqeAsync       = 1 << 4 // by a worker
	sizeSQE        = 128
	sizeCQE        = 16

	initExt       = 1 << 30
	overURing2    = 1 << (41 - 32)
	cmdRegister   = 1
	cmdCommit     = 2   // and fetch
	headersInOut  = 256 // offset of struct fuse_uring_ent_in_out in struct fuse_uring_req_header
	headersSize   = 288
	payloadAtMost = 32 * 4096 // FUSE_DEFAULT_MAX_PAGES_PER_REQ
)

// ringOffsets are struct io_sqring_offsets, and struct io_cqring_offsets with other names.
type ringOffsets struct {
	head, tail, mask, entries, flagsOrOverflow, droppedOrCQEs, arrayOrFlags, _ uint32
	_                                                                          uint64
}

// ringParams are struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq, cq                                               ringOffsets
}

// ring is an io_uring of one thread, for requests to one file.
type ring struct {
	fd             int
	rings, entries []byte
	sqTail, cqHead *uint32
	cqTail         *uint32
	sqMask, cqMask uint32
	cqes           uintptr
	sent, unsent   uint32
	file           int
}

func newRing(file int, entries, flags uint32) (*ring, error) {
	p := ringParams{flags: flags | setupSQE128}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &ring{fd: int(fd), file: file}
	var err error
	size := max(p.cq.droppedOrCQEs+p.cqEntries*sizeCQE, p.sq.arrayOrFlags+p.sqEntries*4)
	if r.rings, err = unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the rings: %w", err), r.close())
	}
	if r.entries, err = unix.Mmap(r.fd, offsetSQEs, int(p.sqEntries*sizeSQE), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the submissions: %w", err), r.close())
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[offset])) }
	r.sqTail, r.sqMask = at(p.sq.tail), *at(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask)
	r.cqes = uintptr(p.cq.droppedOrCQEs)
	if flags&setupNoSQArray == 0 {
		for i := range p.sqEntries {
			*at(p.sq.arrayOrFlags + 4*i) = i
		}
	}
	return r, nil
}

func (r *ring) close() error {
	var err error
	for _, m := range [][]byte{r.rings, r.entries} {
		if m != nil {
			err = errors.Join(err, unix.Munmap(m))
		}
	}
	return errors.Join(err, unix.Close(r.fd))
}

// command submits a command of FUSE (struct fuse_uring_cmd_req) with the next enter.
func (r *ring) command(cmd uint32, buffers *[2]unix.Iovec, queue uint16, commit, user uint64) {
	le := binary.NativeEndian
	e := r.next(opURingCmd)
	le.PutUint32(e[8:], cmd)
	if buffers != nil {
		le.PutUint64(e[16:], uint64(uintptr(unsafe.Pointer(buffers))))
		le.PutUint32(e[24:], uint32(len(buffers)))
	}
	le.PutUint64(e[32:], user)
	le.PutUint64(e[56:], commit)
	le.PutUint16(e[64:], queue)
	r.submit()
}

// write submits a write by a worker with the next enter. The bytes have to stay until it is complete.
func (r *ring) write(b []byte) {
	e := r.next(opWrite)
	e[1] = sqeAsync
	binary.NativeEndian.PutUint64(e[16:], uint64(uintptr(unsafe.Pointer(&b[0]))))
	binary.NativeEndian.PutUint32(e[24:], uint32(len(b)))
	r.submit()
}

// next returns the place of the next request (struct io_uring_sqe), which submit shows to the kernel.
func (r *ring) next(op byte) []byte {
	e := r.entries[r.sent&r.sqMask*sizeSQE:][:sizeSQE]
	clear(e)
	e[0] = op
	binary.NativeEndian.PutUint32(e[4:], uint32(r.file))
	return e
}

func (r *ring) submit() {
	r.sent++
	r.unsent++
	atomic.StoreUint32(r.sqTail, r.sent)
}

// enter submits what there is and waits for a completion, of which it calls done for each.
func (r *ring) enter(done func(user uint64, result int32) error) error {
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.unsent), 1, enterGetevents, 0, 0)
	if errno == 0 {
		r.unsent -= uint32(n)
	} else if errno != unix.EINTR {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	head, tail := *r.cqHead, atomic.LoadUint32(r.cqTail)
	for ; head != tail; head++ {
		e := r.rings[r.cqes+uintptr(head&r.cqMask)*sizeCQE:]
		if err := done(binary.NativeEndian.Uint64(e), int32(binary.NativeEndian.Uint32(e[8:]))); err != nil {
			return err
		}
	}
	atomic.StoreUint32(r.cqHead, head)
	return nil
}

// serveRing serves through an io_uring with these flags, until nobody has the file system any more. FUSE has
// a queue for each CPU that there may be.
func serveRing(flags uint32) func(device int, ready func()) error {
	return func(device int, ready func()) (err error) {
		if err := startFUSE(device, initExt, overURing2); err != nil {
			return err
		}
		queues := ebpf.MustPossibleCPU()
		r, err := newRing(device, uint32(queues), flags|setupNoSQArray)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.close()) }()

		headers, payloads, buffers := make([][]byte, queues), make([][]byte, queues), make([][2]unix.Iovec, queues)
		for q := range queues {
			headers[q], payloads[q] = make([]byte, headersSize), make([]byte, payloadAtMost)
			buffers[q] = [2]unix.Iovec{{Base: &headers[q][0], Len: headersSize}, {Base: &payloads[q][0], Len: payloadAtMost}}
			r.command(cmdRegister, &buffers[q], uint16(q), 0, uint64(q))
		}
		ready() // the kernel holds back requests until all queues are there
		le := binary.NativeEndian
		over := false
		for !over {
			if err := r.enter(func(q uint64, result int32) error {
				switch errno := unix.Errno(-result); errno {
				case 0:
				case unix.ENOTCONN, unix.ECONNABORTED:
					over = true
					return nil
				default:
					return fmt.Errorf("FUSE over io_uring: %w", errno)
				}
				h := headers[q]
				opcode, unique := le.Uint32(h[4:]), le.Uint64(h[8:])
				answer, errno, ok := answerFUSE(opcode, payloads[q][:0])
				if !ok {
					return fmt.Errorf("request %d came through io_uring", opcode)
				}
				fuse.PutHeader(h, fuse.AnswerHeader+len(answer), unique, errno)
				le.PutUint32(h[headersInOut+16:], uint32(len(answer)))
				r.command(cmdCommit, nil, uint16(q), le.Uint64(h[headersInOut+8:]), q)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}
}
