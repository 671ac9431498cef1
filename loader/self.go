// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// CopyOf returns a copy of a descriptor that is the caller's own, for a child to inherit.
func CopyOf(fd int, name string) (*os.File, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pass on %s: %w", name, err)
	}
	return os.NewFile(uintptr(own), name), nil
}

// RunOnSelf runs a program of the kernel half on the calling task, for the namespace at an
// index: Engine.Gate or Engine.Enter, which the process has inherited as a descriptor and
// which is closed here. What the program itself answers is errno; the caller has to be
// locked to its thread.
func RunOnSelf(fd int, name, index string) (errno unix.Errno, err error) {
	ns, err := strconv.ParseUint(index, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("index of the namespace: %w", err)
	}
	program, err := ebpf.NewProgramFromFD(fd)
	if err != nil {
		return 0, fmt.Errorf("program %s: %w", name, err)
	}
	defer program.Close()
	// gate_register reads the beginning of it, the index.
	status, err := program.Run(&ebpf.RunOptions{Context: bpf.Entry{Index: uint32(ns)}})
	if err != nil {
		return 0, fmt.Errorf("run the program %s: %w", name, err)
	}
	return unix.Errno(-int32(status)), nil
}
