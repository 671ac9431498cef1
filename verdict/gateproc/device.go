// SPDX-License-Identifier: Apache-2.0

package gateproc

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// Open opens a new FUSE connection, for one gate: the descriptor for verdict.Config.Device
// and Config.Device. It is not inherited by what this process executes, and must never be:
// a connection ends with its last descriptor, and a task that has one and waits at the
// gate waits for itself.
//
// Call it after the kernel half was loaded. A process that dies lets go of its files
// from the highest number down (fs/file.c, close_files; the works that fput leaves are
// run last come, first served), and detaching a program takes the kernel long: what wakes
// the waiting tasks has to come first, above the programs' links. On 6.12 that was the
// difference between 0.05 s and 4 s.
func Open() (*os.File, error) {
	fd, err := fuse.OpenDevice()
	if err != nil {
		return nil, err
	}
	fd, err = raise(fd)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", fuse.DevicePath, err)
	}
	return os.NewFile(uintptr(fd), fuse.DevicePath), nil
}

// raise moves a descriptor above all others that are open now, as far as the limit on
// open files allows, and keeps it from being inherited.
func raise(fd int) (int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	highest := fd
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			highest = max(highest, n)
		}
	}
	raised, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, highest+1)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMFILE) {
		return fd, nil // somebody opened the last one there may be; this one wakes the tasks, too
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return raised, unix.Close(fd)
}
