// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// detachName is argv[0] of a process that detaches programs by its end: a name that no user gives to a
// program.
const detachName = "tsem-bpf-detach"

// Main holds the links that this process has inherited, until its standard input ends, and ends then, if it was started for that;
// else it returns at once. It is part of namespace.Main.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != detachName {
		return
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// holdLinks starts a process that holds the links that are pinned in a folder until letGo is called, or this process has ended. On
// 6.1 the kernel detaches a program in the call that gives the last reference to its link away, and waits for a grace period
// there: a tenth of a second and more for each of 100. As the end of that process it keeps nobody waiting, and nobody can interrupt it.
func holdLinks(folder string, names []string) (letGo func(), err error) {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{detachName}, Dir: "/", Env: []string{}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	defer func() {
		for _, l := range cmd.ExtraFiles {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, name := range names {
		if !strings.HasPrefix(name, pinLink) {
			continue
		}
		l, err := pinnedFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, l)
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	return func() {
		_ = stdin.Close()
		go cmd.Wait() // where this process goes on, else nobody
	}, nil
}

// pinnedFile opens what is pinned, whatever it is.
func pinnedFile(path string) (*os.File, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, err
	}
	get := struct {
		path      uint64
		fd, flags uint32
	}{path: uint64(uintptr(unsafe.Pointer(name)))}
	file, err := bpfFile(unix.BPF_OBJ_GET, unsafe.Pointer(&get), unsafe.Sizeof(get))
	runtime.KeepAlive(name)
	return file, err
}
