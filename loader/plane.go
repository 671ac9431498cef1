// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// ErrPlaneTaken: another process serves the control plane of this host.
var ErrPlaneTaken = errors.New("another tsem-bpf daemon serves orchestrators on this host")

// SetPlane makes the file system with a device, as stat(2) has it, the control plane of this
// host, until this process ends; 0 ends that. Only who has CAP_MAC_ADMIN in the initial user
// namespace can open its files then, and that is no event of anybody. The error is ErrPlaneTaken
// if another process has one.
func (e *Engine) SetPlane(device uint64) error {
	// As the kernel has it (include/linux/kdev_t.h, MKDEV).
	status, err := e.programs[planeProgram].Run(&ebpf.RunOptions{Context: unix.Major(device)<<20 | unix.Minor(device)})
	return planeChosen(status, err)
}

// planeChosen returns the error of SetPlane for what the run of the program has returned.
func planeChosen(status uint32, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("choose the control plane: %w", err)
	case unix.Errno(status) == unix.EBUSY:
		return fmt.Errorf("%w, and there can be one: let orchestrators use that one, or end it first (tsem-bpf engine status shows the keepers)", ErrPlaneTaken)
	case status != 0:
		return fmt.Errorf("choose the control plane: %w", unix.Errno(status))
	}
	return nil
}

// Caller is what the kernel half says of a thread (struct tsem_caller in bpf/state.h).
type Caller = bpf.Caller

// Caller says who a thread is that sleeps in a request which this process has to answer, by its
// id in the pid namespace of this process. The error wraps unix.ESRCH if there is none, or it is 0.
//
// The id is a parameter of an iterator (since 6.1), because before 6.2 a
// program finds no task by its id. Before 6.12 and its stable siblings of October 2024 the kernel
// finds only the first thread of a process in that way.
func (e *Engine) Caller(tid uint32) (Caller, error) {
	var c Caller
	if tid == 0 { // FUSE has that for a thread which is not visible here; an iterator takes it for all threads, and the first is init
		return c, fmt.Errorf("ask who a thread is that is not visible in this pid namespace: %w", unix.ESRCH)
	}
	err := e.readTask(callerProgram, tid, unsafe.Slice((*byte)(unsafe.Pointer(&c)), unsafe.Sizeof(c)))
	if errors.Is(err, io.EOF) {
		err = unix.ESRCH
	}
	if err != nil {
		return c, fmt.Errorf("ask who thread %d is: %w", tid, err)
	}
	return c, nil
}

// readTask reads what an iterator says of one task. The library knows no iterator over fewer
// than all tasks.
func (e *Engine) readTask(program string, tid uint32, answer []byte) error {
	// The second part of union bpf_iter_link_info (include/uapi/linux/bpf.h).
	which := struct{ tid, pid, pidfd uint32 }{tid: tid}
	link := struct {
		program, target, attach, flags uint32
		which                          unsafe.Pointer
		size                           uint32
		_                              [36]byte
	}{program: uint32(e.programs[program].FD()), attach: unix.BPF_TRACE_ITER, which: unsafe.Pointer(&which), size: uint32(unsafe.Sizeof(which))}
	linked, err := bpfFile(unix.BPF_LINK_CREATE, unsafe.Pointer(&link), unsafe.Sizeof(link))
	if err != nil {
		return err
	}
	defer linked.Close()
	iterator := struct{ link, flags uint32 }{link: uint32(linked.Fd())}
	iterated, err := bpfFile(unix.BPF_ITER_CREATE, unsafe.Pointer(&iterator), unsafe.Sizeof(iterator))
	if err != nil {
		return err
	}
	defer iterated.Close()
	_, err = io.ReadFull(iterated, answer)
	return err
}

// bpfFile is a call of bpf(2) that returns a descriptor.
func bpfFile(cmd uintptr, attr unsafe.Pointer, size uintptr) (*os.File, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	if errno != 0 {
		return nil, errno
	}
	return os.NewFile(fd, "bpf"), nil
}

// Put puts a task that sleeps in such a request into the namespace at an index, and out of any
// other one. The error wraps unix.EBUSY if the namespace has ended or has no room for the
// state of the task.
func (e *Engine) Put(c Caller, index uint32) error {
	if err := run(e.Enter(), bpf.Entry{Address: c.Address, Index: index}); err != nil {
		return fmt.Errorf("put a task into a namespace: %w", err)
	}
	return nil
}
