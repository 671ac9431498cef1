// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadDevice reads one request into b, which is not empty. It is a system call that may
// block, and the Go runtime knows it: otherwise a garbage collection would wait for the next
// request.
func ReadDevice(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// WriteDevice writes one answer, which is not empty. The kernel copies it and wakes the
// task, no more, so the Go runtime need not make ready for a wait.
func WriteDevice(fd int, b []byte) unix.Errno {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// Reply answers a request without a body. ENOENT: nobody wants the answer any more.
func Reply(fd int, unique uint64, errno unix.Errno) unix.Errno {
	var b [AnswerHeader]byte
	PutHeader(b[:], AnswerHeader, unique, errno)
	return WriteDevice(fd, b[:])
}
