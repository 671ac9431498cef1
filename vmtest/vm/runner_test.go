// SPDX-License-Identifier: Apache-2.0

//go:build vmtest_runner

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// These tests boot machines: go test -tags vmtest_runner ./vmtest/vm

// What does not depend on the kernel is tried on the one that boots fastest.
const fastest = "6.12"

type outcome struct {
	stdout, stderr string
	status         int
}

// runIn runs vmtest/run, or a copy of it, in a folder.
func runIn(t *testing.T, runner, dir string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(runner, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func vm(t *testing.T, args ...string) outcome {
	t.Helper()
	runner, err := filepath.Abs("../run")
	if err != nil {
		t.Fatal(err)
	}
	return runIn(t, runner, ".", args...)
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want int
	}{
		{"success", []string{"true"}, 0},
		{"failure", []string{"sh", "-c", "exit 7"}, 7},
		{"signal", []string{"sh", "-c", "kill -TERM $$"}, 143},
		{"not found", []string{"no-such-command"}, 127},
		{"a folder", []string{"/etc"}, 126},
		{"not executable", []string{"/etc/passwd"}, 126},
		{"warning", []string{"-W", "sh", "-c", "echo '<4>WARNING: a test' >/dev/kmsg"}, statusWarned},
		{"warning of a failure", []string{"-W", "sh", "-c", "echo '<4>WARNING: a test' >/dev/kmsg; exit 7"}, 7},
		{"warning that nobody asked for", []string{"sh", "-c", "echo '<4>WARNING: a test' >/dev/kmsg"}, 0},
		{"no command", nil, statusUsage},
		{"no such kernel", []string{"-k", "5.3", "true"}, statusUsage},
		{"no kernel there", []string{"-k", "/etc/passwd", "true"}, statusUsage},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := vm(t, append([]string{"-k", fastest}, test.args...)...); got.status != test.want {
				t.Errorf("status %d, want %d; %s", got.status, test.want, got.stderr)
			}
		})
	}
}

func TestExactWords(t *testing.T) {
	words := []string{"a b", "", "'\"$HOME`\\", "two\nlines\n", "--", "-k", "\xff\xfe not UTF-8", "*"}
	got := vm(t, append([]string{"-k", fastest, "--", "sh", "-c", `printf '%s\0' "$@"`, "sh"}, words...)...)
	if diff := cmp.Diff(strings.Join(words, "\x00")+"\x00", got.stdout); diff != "" {
		t.Error(diff, got.stderr)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("TSEM_WORD", "one\ntwo")
	t.Setenv("GOMAXPROCS", "1")
	t.Setenv("SECRET", "stays here")
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got := vm(t, "-k", fastest, "sh", "-c", `echo "$PWD|$TSEM_WORD|$GOMAXPROCS|$SECRET|$HOME|${PATH%%:*}|$(cat)"`)
	want := fmt.Sprintf("%s|one\ntwo|1||/root|%s|\n", dir, filepath.Join(dir, "../../build"))
	if diff := cmp.Diff(want, got.stdout); diff != "" {
		t.Error(diff, got.stderr)
	}
}

// Both streams whole, in bytes, apart; and what stays behind does not hold up the end.
func TestStreams(t *testing.T) {
	const size = 10_000_000
	got := vm(t, "-k", fastest, "sh", "-c", fmt.Sprintf(
		"sleep 1000 & head -c %d /dev/urandom >/tmp/x; cat /tmp/x; sha256sum </tmp/x >/dev/stderr", size))
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(got.stdout)))
	if len(got.stdout) != size || got.stderr != sum || got.status != 0 {
		t.Errorf("%d bytes with sum %q, status %d, error output %q", len(got.stdout), sum, got.status, got.stderr)
	}
}

// A machine that cannot boot: tried again, and then said.
func TestNoBoot(t *testing.T) {
	got := vm(t, "-k", fastest, "-a", "rdinit=/none root=/none", "true")
	if got.status != statusDied || !strings.Contains(got.stderr, "died while booting, 3 times") || !strings.Contains(got.stderr, "panic") {
		t.Errorf("status %d: %s", got.status, got.stderr)
	}
}

func TestTimeout(t *testing.T) {
	got := vm(t, "-k", fastest, "-t", "30", "sh", "-c", "echo begun; echo '<4>on the console' >/dev/kmsg; sleep 1000")
	if got.status != statusTimeout || got.stdout != "begun\n" || !strings.Contains(got.stderr, "on the console") {
		t.Errorf("%+v", got)
	}
}

func TestPanic(t *testing.T) {
	got := vm(t, "-k", fastest, "sh", "-c", "echo c >/proc/sysrq-trigger")
	if got.status != statusDied || !strings.Contains(got.stderr, "Kernel panic") {
		t.Errorf("%+v", got)
	}
}

// With -r, a machine that the emulator killed is tried again; one that died otherwise is not.
func TestRepeat(t *testing.T) {
	for first, again := range map[string]int{
		"Oops: int3: 0000 [#1] SMP NOPTI":   2,
		"int3: 0000 [#1] PREEMPT SMP NOPTI": 2,
		"BUG: something else":               0,
	} {
		got := vm(t, "-k", fastest, "-r", "sh", "-c",
			fmt.Sprintf("echo '<0>%s' >/dev/kmsg; echo '<0>int3: later' >/dev/kmsg; echo c >/proc/sysrq-trigger", first))
		if got.status != statusDied || strings.Count(got.stderr, "again from the start") != again || strings.Contains(got.stderr, "3 times") != (again > 0) {
			t.Errorf("%s: %+v", first, got)
		}
	}
}

// What a test may count on, on each kernel.
func TestInside(t *testing.T) {
	for _, name := range kernelNames(t) {
		t.Run(name, func(t *testing.T) {
			k, err := openKernel(name, "../kernels", "")
			if err != nil {
				t.Fatal(err)
			}
			// The set-up itself is without a warning (-W), modprobe works, and so
			// does the network of the machine itself.
			got := vm(t, "-k", name, "-W", "-a", "tsem.test=1", "sh", "-ec", `
				uname -r
				cat /proc/cmdline
				cut -d " " -f 2,3 /proc/mounts
				modprobe dummy
				grep -qw dummy /proc/modules
				grep -qx up /sys/class/net/lo/operstate || [ $(($(cat /sys/class/net/lo/flags) & 1)) = 1 ]
				: >/usr/written >/etc/written`)
			if got.status != 0 {
				t.Fatalf("%+v", got)
			}
			for _, want := range []string{
				k.version + "\n", " tsem.test=1\n", "/ overlay\n", "/proc proc\n", "/sys sysfs\n", "/dev devtmpfs\n",
				"/dev/pts devpts\n", "/dev/shm tmpfs\n", "/tmp tmpfs\n", "/run tmpfs\n",
				"/sys/fs/bpf bpf\n", "/sys/kernel/security securityfs\n", "/sys/kernel/debug debugfs\n",
				"/sys/kernel/tracing tracefs\n", "/sys/fs/cgroup cgroup2\n",
			} {
				if !strings.Contains(got.stdout, want) {
					t.Errorf("no %q in\n%s", want, got.stdout)
				}
			}
			if _, err := os.Stat("/usr/written"); err == nil {
				t.Error("what was written is on this machine")
			}
		})
	}
}

// A build folder, made of a fetched kernel: modules as the build leaves them, at a path
// that the guest has something of its own at.
func TestBuilt(t *testing.T) {
	k, err := openKernel(fastest, "../kernels", "")
	if err != nil {
		t.Fatal(err)
	}
	top, err := os.MkdirTemp("/tmp", "vmtest")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(top)
	dep, err := os.ReadFile(filepath.Join(k.modules, modulesDep))
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data []byte) {
		t.Helper()
		path = filepath.Join(top, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var order []byte
	for _, file := range loadOrder(dep, append([]string{"dummy"}, needed...)) {
		built, packed := strings.CutSuffix(strings.TrimPrefix(file, "kernel/"), ".xz")
		if !packed {
			t.Fatalf("%s is not compressed", file)
		}
		data, err := exec.Command("xz", "-dc", filepath.Join(k.modules, file)).Output()
		if err != nil {
			t.Fatal(err)
		}
		write(built, data)
		order = append(order, strings.TrimSuffix(built, "ko")+"o\n"...)
	}
	write("modules.order", order)
	for from, to := range map[string]string{k.image: builtImage, filepath.Join(k.modules, modulesBuiltin): modulesBuiltin} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(to, data)
	}

	got := vm(t, "-k", top, "-W", "sh", "-ec", "uname -r; modprobe dummy; grep -w dummy /proc/modules >/dev/null; modinfo -n dummy")
	want := fmt.Sprintf("%[1]s\n/lib/modules/%[1]s/kernel/drivers/net/dummy.ko\n", k.version)
	if diff := cmp.Diff(want, got.stdout); diff != "" || got.status != 0 {
		t.Errorf("status %d\n%s%s", got.status, diff, got.stderr)
	}
}

// An image alone, whose 9p is a module: what it lacks is said.
func TestLacking(t *testing.T) {
	k, err := openKernel(fastest, "../kernels", "")
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "bzImage")
	data, err := os.ReadFile(k.image)
	if err == nil {
		err = os.WriteFile(image, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	got := vm(t, "-k", image, "true")
	if got.status != statusDied || !strings.Contains(got.stderr, "this kernel does not have it") {
		t.Errorf("%+v", got)
	}
}

// A checkout below a mount of the guest, and a command and a folder elsewhere there.
func TestBelowTmp(t *testing.T) {
	top, err := os.MkdirTemp("/tmp", "vmtest, ") // a path that is no good as a mount option
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(top)
	repo := filepath.Join(top, "repo")
	if err := os.CopyFS(filepath.Join(repo, "vmtest"), os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	command := filepath.Join(top, "bin", "command")
	if err := os.Mkdir(filepath.Dir(command), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\npwd; ls \"$1\"/build/vm; echo x >new; cat new; ls /tmp\n"
	if err := os.WriteFile(command, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(repo, "vmtest")
	got := runIn(t, filepath.Join(dir, "run"), dir, "-k", fastest, command, repo)
	want := fmt.Sprintf("%s\n%s/build/vm\nx\n%s\n", dir, repo, filepath.Base(top))
	if diff := cmp.Diff(want, got.stdout); diff != "" || got.status != 0 {
		t.Errorf("status %d\n%s%s", got.status, diff, got.stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("what was written is on this machine")
	}
}

// untilBegun starts a runner, and waits until its command has said "begun".
func untilBegun(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
		t.Fatalf("%q %v", line, err)
	}
}

// No qemu outlives the runner, whatever ends it.
func TestSignals(t *testing.T) {
	for _, test := range []struct {
		signal syscall.Signal
		want   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}, {syscall.SIGKILL, -1}} {
		t.Run(unix.SignalName(test.signal), func(t *testing.T) {
			cmd := exec.Command("../run", "-k", fastest, "sh", "-c", "echo begun; sleep 1000")
			untilBegun(t, cmd)
			qemu := childOf(t, cmd.Process.Pid)
			defer unix.Close(qemu)
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
			const patience = 10_000 // ms
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemu), Events: unix.POLLIN}}, patience); n != 1 {
				t.Errorf("qemu is still there (%v)", err)
			}
		})
	}
}

// childOf gives a pidfd of a process's only child.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(childPID(t, pid), 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// childPID gives the process id of a process's only child.
func childPID(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var children []string
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, strings.Fields(string(text))...)
	}
	if len(children) != 1 {
		t.Fatalf("children of %d: %q", pid, children)
	}
	child, err := strconv.Atoi(children[0])
	if err != nil {
		t.Fatal(err)
	}
	return child
}

// Machines share nothing but the kernels.
func TestAtOnce(t *testing.T) {
	for n := range 3 {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			want := fmt.Sprintf("%d\n", n)
			if got := vm(t, "-k", fastest, "sh", "-c", "echo $1 >/tmp/n; cat /tmp/n", "sh", strconv.Itoa(n)); got.stdout != want {
				t.Errorf("%+v", got)
			}
		})
	}
}
