// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"bytes"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// stderr is the last of the standard streams.
const stderr = 2

// onOwnThread runs f on a thread that runs nothing else and ends with it.
func onOwnThread(f func()) {
	runtime.LockOSThread() // for ever: what f has made of the thread nobody else may get
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	// The first thread does not end with a goroutine, and /proc/PID/fd shows its descriptors.
	begun := make(chan struct{})
	go onOwnThread(func() {
		close(begun)
		f()
	})
	<-begun
	runtime.UnlockOSThread()
}

// closeNamed closes the descriptors of this thread, which has them for itself, whose copies others could notice: a file that takes
// room, a pipe or a socket that does not end, a device. What has no name anywhere stays, because this thread may need it: the Go
// runtime its epoll instance, and a Node programs and maps of BPF. So do the standard streams, for a crash, and one descriptor more.
//
// Package os would have the directory watched by the epoll instance, which it makes where there is none.
func closeNamed(but int) error {
	directory, err := unix.Open("/proc/thread-self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(directory)
	var names []string
	for buffer := make([]byte, 4096); ; {
		n, err := unix.ReadDirent(directory, buffer)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
	anonymous := []byte("anon_inode:")
	target := make([]byte, len(anonymous))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= stderr || fd == but || fd == directory {
			continue
		}
		if _, err := unix.Readlinkat(directory, name, target); err == nil && !bytes.Equal(target, anonymous) {
			_ = unix.Close(fd)
		}
	}
	return nil
}
