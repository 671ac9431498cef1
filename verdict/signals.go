// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// threadStatus reads what the kernel says about a thread. It reads status and nothing
// else: what needs the thread's mmap_lock (maps, cmdline) might wait for the thread itself.
func threadStatus(tid uint32) ([]byte, error) {
	return os.ReadFile("/proc/" + strconv.FormatUint(uint64(tid), 10) + "/status")
}

// dying says whether a thread is about to die, or gone. Who cannot be seen is alive: the
// deadline ends that wait.
func dying(status []byte, err error) bool {
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	return fatal(status)
}

// fatal says whether a deadly signal is pending.
//
// The kernel makes SIGKILL of most of them when they are sent, but not of those that dump
// core, and of none if the thread has another signal pending already (kernel/signal.c,
// complete_signal and wants_signal). It delivers them when the thread leaves the kernel,
// and the thread cannot leave while it waits. They are deadly if they are neither
// blocked, ignored nor caught, and if no tracer may take them away.
func fatal(status []byte) bool {
	pending := field(status, "SigPnd", 16) | field(status, "ShdPnd", 16)
	if pending&bit(unix.SIGKILL) != 0 {
		return true
	}
	if field(status, "TracerPid", 10) != 0 {
		return false
	}
	spared := field(status, "SigBlk", 16) | field(status, "SigIgn", 16) | field(status, "SigCgt", 16)
	return pending&^harmless&^spared != 0
}

// field returns the number in a line of a status file, 0 if there is none.
func field(status []byte, name string, base int) uint64 {
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), base, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

func bit(s unix.Signal) uint64 { return 1 << (s - 1) }

// What does not end a process that does nothing about it: SIG_KERNEL_IGNORE_MASK and
// SIG_KERNEL_STOP_MASK of include/linux/signal.h.
var harmless = bit(unix.SIGCONT) | bit(unix.SIGCHLD) | bit(unix.SIGWINCH) | bit(unix.SIGURG) |
	bit(unix.SIGSTOP) | bit(unix.SIGTSTP) | bit(unix.SIGTTIN) | bit(unix.SIGTTOU)
