// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/verdict/gateproc"
)

// enterName is argv[0] of a process that enters a namespace before it executes a command:
// a name that no user gives to a program.
const enterName = "tsem-bpf-enter"

// Main makes of this process what it was started as, if tsem-bpf has started its own
// executable file again: a gate process, one that detaches programs, or one that enters a namespace and executes a
// command there. Else it returns at once. It has to be the first call of main, and of
// TestMain in tests that load the kernel half.
func Main() {
	gateproc.Main()
	loader.Main()
	if len(os.Args) < 5 || os.Args[0] != enterName {
		return
	}
	err := enter(os.Args[1], os.Args[2], os.Args[3], os.Args[4:])
	// The keeper reads from the descriptor above that of the program.
	if fd, convErr := strconv.Atoi(os.Args[2]); convErr == nil {
		_, _ = os.NewFile(uintptr(fd+1), "failed").WriteString(err.Error())
	}
	os.Exit(1)
}

// enter returns only if it did not work.
func enter(index, program, path string, args []string) error {
	runtime.LockOSThread() // the task that enters is the one that executes the command
	fd, err := strconv.Atoi(program)
	if err != nil {
		return fmt.Errorf("descriptor of task_enter: %w", err)
	}
	unix.CloseOnExec(fd + 1)
	// Behind it every event of this thread waits for a verdict; the keeper is another
	// process, and answers.
	errno, err := loader.RunOnSelf(fd, "task_enter", index)
	if err != nil {
		return err
	}
	if errno != 0 {
		return fmt.Errorf("enter the namespace: %w", errno)
	}
	return errnoError(syscall.Exec(path, args, os.Environ()))
}

// What a process that could not execute its command says: "errno 13". The keeper makes
// the error of it that starting the command itself would have given.
const errnoPrefix = "errno "

func errnoError(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errors.New(errnoPrefix + strconv.Itoa(int(errno)))
	}
	return err
}

// startInside starts a command that enters the namespace itself, between fork and exec of
// its own. A child that is in the namespace from its fork on, as Start makes them where no
// event waits, would wait for this process, which waits for the child's exec with the
// whole Go runtime stopped.
func startInside(engine *loader.Engine, index uint32, cmd *exec.Cmd) error {
	if cmd.Err != nil {
		return cmd.Err
	}
	// A copy, which this process closes when the child has its own.
	program, err := loader.CopyOf(engine.Enter().FD(), "task_enter")
	if err != nil {
		return err
	}
	defer program.Close()
	failed, failing, err := os.Pipe()
	if err != nil {
		return err
	}
	defer failed.Close()
	defer failing.Close()
	path, args := cmd.Path, cmd.Args
	fd := 3 + len(cmd.ExtraFiles)
	cmd.ExtraFiles = append(cmd.ExtraFiles, program, failing)
	cmd.Path = "/proc/self/exe"
	cmd.Args = append([]string{enterName, strconv.FormatUint(uint64(index), 10), strconv.Itoa(fd), path}, args...)
	err = cmd.Start()
	failing.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(failed)
	if err == nil && len(said) == 0 {
		return nil // the exec has closed the pipe
	}
	_ = cmd.Wait()
	if number, ok := strings.CutPrefix(string(said), errnoPrefix); ok {
		if errno, err := strconv.Atoi(number); err == nil {
			return &os.PathError{Op: "fork/exec", Path: path, Err: syscall.Errno(errno)}
		}
	}
	return errors.Join(err, errors.New(string(said)))
}
