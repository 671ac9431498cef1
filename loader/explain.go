// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Enough for the programs, with a handle of their types each, links and maps of the kernel half, and
// one namespace: the process that installs it has 395 open on 6.12 (tsem-bpf run --events all, ls /proc/PID/fd).
const enoughFiles = 512

// What the kernel asks for: CAP_SYS_PTRACE to see the namespaces of process 1
// (fs/proc/namespaces.c), CAP_PERFMON and CAP_BPF for LSM programs and their maps
// (kernel/bpf/syscall.c), both of which CAP_SYS_ADMIN stands for (linux/capability.h).
var capabilities = []struct {
	number  uint
	name    string
	byAdmin bool
}{
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false},
	{unix.CAP_PERFMON, "CAP_PERFMON", true},
	{unix.CAP_BPF, "CAP_BPF", true},
}

// Explain makes a *SupportError of an error whose cause lies in the privileges or
// limits of the caller, with what to change; it returns every other one, and nil, as it
// is. Its errors come from Load, Probe and what uses the maps of an Engine.
func Explain(err error) error {
	var known *SupportError
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, unix.EMFILE):
		return tooFewFiles(fileLimit())
	case errors.Is(err, unix.ENFILE):
		return &SupportError{ErrLimit, "the system has as many open files as it allows", "raise the sysctl fs.file-max"}
	case errors.Is(err, unix.ENOMEM):
		return &SupportError{ErrLimit, "no memory for the kernel half", "raise the memory limit of the cgroup (memory.max), or free memory"}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && len(missingCapabilities()) > 0:
		return explainPrivilege(err)
	}
	return err
}

// checkFiles refuses a limit that the kernel half would come up against. It is looked at
// first, because not every EMFILE on the way is told as such: a probe of the library for
// a kernel feature that gets one says that the kernel lacks the feature.
func checkFiles() error {
	if limit := fileLimit(); limit < enoughFiles {
		return tooFewFiles(limit)
	}
	return nil
}

// fileLimit returns how many files this process may have open.
func fileLimit() uint64 {
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // fails only for another process
	return limit.Cur
}

func tooFewFiles(limit uint64) error {
	allow := "more"
	if limit < enoughFiles {
		allow = fmt.Sprintf("at least %d", enoughFiles)
	}
	return &SupportError{ErrLimit, fmt.Sprintf("%d open files are too few", limit),
		fmt.Sprintf("allow %s (ulimit -n, or LimitNOFILE= of the service)", allow)}
}

// explainPrivilege names the capabilities that are missing.
func explainPrivilege(err error) error {
	detail, _, _ := strings.Cut(err.Error(), ": ")
	missing := missingCapabilities()
	if len(missing) == 0 {
		return &SupportError{ErrPrivilege, "cannot " + detail + " with every capability it takes",
			"look for a user namespace, a seccomp filter (a container has both), another LSM, or kernel lockdown that refuses bpf"}
	}
	remedy := "run as root, or with " + strings.Join(missing, ", ") + " too"
	if os.Geteuid() == 0 {
		remedy = "give root " + strings.Join(missing, ", ") + " back"
	}
	return &SupportError{ErrPrivilege, "cannot " + detail + " without " + strings.Join(missing, ", "), remedy}
}

// missingCapabilities returns those that the caller would need and does not have.
func missingCapabilities() []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	_ = unix.Capget(&header, &data[0]) // fails only for another process
	has := func(number uint) bool { return data[number/32].Effective&(1<<(number%32)) != 0 }
	var missing []string
	for _, c := range capabilities {
		if !has(c.number) && !(c.byAdmin && has(unix.CAP_SYS_ADMIN)) {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// explainAttach knows the errno of an attach to a hook with BPF_MAX_TRAMP_LINKS
// programs already (include/linux/bpf.h).
func explainAttach(program string, err error) error {
	if errors.Is(err, unix.E2BIG) {
		return &SupportError{ErrLimit, "the hook of the program " + program + " has as many BPF programs as the kernel allows (38)",
			"end another tsem-bpf or BPF tool that is attached there (bpftool link lists them)"}
	}
	return fmt.Errorf("attach the program %s: %w", program, err)
}
