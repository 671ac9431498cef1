// SPDX-License-Identifier: Apache-2.0

package gateproc

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/loader"
)

const (
	// What the helper is called (argv[0]), and later the gate process: no user gives a
	// program that name, and no word of the command line is taken.
	helperName = "tsem-bpf-gate"
	// The last argument if there is no program to run.
	noRegister = "-"
	// The exit status of a helper that has said why; none of the gate program's.
	helperFailed = 125
)

// What the helper inherits besides the gate program's descriptors.
const (
	fdDevice   = fdAbort // until the helper has the abort file
	fdRegister = fdReady + 1
)

// Main makes a gate process of this process if Start has started it as its helper; else
// it returns at once. It has to be the first call of main, and of TestMain in tests that
// use Start, because the helper has the keeper's executable file.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != helperName {
		return
	}
	err := become(os.Args[1:])
	_, _ = os.NewFile(fdReady, "ready").WriteString(err.Error())
	os.Exit(helperFailed)
}

// become makes the gate's mount, which is in no mount namespace, and executes the gate
// program from it. It returns only an error.
//
// There is no FUSE request before this process has let go of the device: one that is
// never answered could otherwise not even be ended by closing the keeper's device.
func become(arguments []string) error {
	runtime.LockOSThread() // the task that is registered is the one that executes the program
	if len(arguments) != 5 {
		return fmt.Errorf("%s is started by tsem-bpf itself, not by hand", helperName)
	}
	mount, err := fuse.Mount("fuse", 0, gateOptions...)
	if err != nil {
		return err
	}
	abort, err := openAbort(mount)
	if err != nil {
		return err
	}
	if err := unix.Dup3(abort, fdAbort, 0); err != nil {
		return fmt.Errorf("let go of %s: %w", fuse.DevicePath, err)
	}
	if index := arguments[4]; index != noRegister {
		if err := register(index); err != nil {
			return err
		}
	}
	// Who waits would wait for ever if the keeper hung and this process were gone.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("keep the gate process from being killed for lack of memory: %w (CAP_SYS_RESOURCE is needed)", err)
	}
	if err := unix.Fchdir(mount); err != nil {
		return fmt.Errorf("change to the gate's file system: %w", err)
	}
	if err := keepOnly(fdNamespaces, fdReady); err != nil {
		return err
	}
	err = syscall.Exec("./"+name, append([]string{helperName}, arguments[:4]...), nil)
	return fmt.Errorf("execute the gate program: %w", err)
}

// Judged tasks of every user read the attribute: allow_other. Who may is not the mode's
// business: no default_permissions.
var gateOptions = append(fuse.Options(fdDevice), fuse.Option{Name: "allow_other"})

// openAbort opens the file that ends the connection of a mount: N/abort in fusectl, where
// N is the minor number of the mount's device (fs/fuse/control.c, fuse_ctl_add_conn).
func openAbort(mount int) (int, error) {
	var stat unix.Statx_t
	// Of what the kernel knows already; else this would be a FUSE request.
	if err := unix.Statx(mount, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &stat); err != nil {
		return -1, fmt.Errorf("find the number of the gate's connection: %w", err)
	}
	control, err := fuse.Mount("fusectl", 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(control)
	path := filepath.Join(strconv.FormatUint(uint64(stat.Dev_minor), 10), "abort")
	abort, err := unix.Openat(control, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s in file system fusectl: %w", path, err)
	}
	return abort, nil
}

// register runs the program gate_register on this task, for the namespace at an index.
func register(index string) error {
	errno, err := loader.RunOnSelf(fdRegister, "gate_register", index)
	if err != nil {
		return err
	}
	if errno != 0 {
		return fmt.Errorf("register the gate process for namespace %s: %w", index, errno)
	}
	return nil
}

// keepOnly lets a program that this process executes inherit only these descriptors.
func keepOnly(first, last uint) error {
	err := unix.CloseRange(0, first-1, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		err = unix.CloseRange(last+1, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("close what the gate process does not need: %w", err)
	}
	return nil
}
