// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a machine is made of, and where its output goes.
type machine struct {
	kernel  kernel
	cpus    int
	memory  string
	append  string // more words for the kernel command line
	kvm     bool
	stdout  io.Writer
	stderr  io.Writer
	console *console
}

var (
	// errTimeout: the command did not end in time.
	errTimeout = errors.New("timeout")
	// errDied: the machine ended without an answer.
	errDied = errors.New("the machine ended without an answer")
)

// port is the host's end of a virtio port: one end of a socket pair for qemu.
func port() (ours *os.File, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "qemu"), nil
}

func (m *machine) arguments(initramfs string) []string {
	accel, cpu := "tcg,thread=multi", "max"
	if m.kvm {
		accel, cpu = "kvm", "host"
	}
	// console_loglevel 5 shows warnings; a panic ends qemu at once (-no-reboot).
	line := "console=ttyS0 loglevel=5 panic=-1 mitigations=off " + m.append
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(m.cpus), "-m", m.memory,
		"-kernel", filepath.Join(m.kernel.dir, "vmlinuz"), "-initrd", initramfs, "-append", line,
		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=console,fd=3", "-serial", "chardev:console",
	}
	for i, name := range []string{portStdout, portStderr, portAnswer} {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=p%d,fd=%d", i, i+4),
			"-device", fmt.Sprintf("virtserialport,chardev=p%d,name=%s", i, name))
	}
	return args
}

// run boots the machine and stays until the command has ended, the machine has
// died, or the context is done.
func (m *machine) run(ctx context.Context, r request) (answer, error) {
	var a answer
	initramfs, err := m.kernel.initramfs(r)
	if err != nil {
		return a, err
	}
	// A file without a name: nothing stays behind, however we end.
	file, err := unix.MemfdCreate("initramfs", 0)
	if err != nil {
		return a, err
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, initramfs); err != nil {
		return a, err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file))...)
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	complaints := new(bytes.Buffer)
	qemu.Stderr = complaints
	var ours []*os.File
	for range 4 {
		o, theirs, err := port()
		if err != nil {
			return a, err
		}
		defer o.Close()
		defer theirs.Close()
		ours = append(ours, o)
		qemu.ExtraFiles = append(qemu.ExtraFiles, theirs)
	}
	// The death signal is sent when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := qemu.Start(); err != nil {
		return a, fmt.Errorf("%w; on Debian: apt-get install qemu-system-x86", err)
	}
	for _, theirs := range qemu.ExtraFiles {
		theirs.Close()
	}

	go func() { _, _ = io.Copy(m.console, ours[0]) }()
	stdout, stderr := newCounter(m.stdout), newCounter(m.stderr)
	go func() { _, _ = io.Copy(stdout, ours[1]) }()
	go func() { _, _ = io.Copy(stderr, ours[2]) }()
	answered := make(chan error, 1)
	go func() { answered <- json.NewDecoder(ours[3]).Decode(&a) }()
	ended := make(chan error, 1)
	go func() { ended <- qemu.Wait() }()

	select {
	case err = <-answered:
		if err == nil {
			err = errors.Join(stdout.wait(ctx, a.Stdout), stderr.wait(ctx, a.Stderr))
		} else {
			err = errDied
		}
	case <-ctx.Done():
		err = errTimeout
	}
	cancel()
	<-ended
	if err == nil && a.Error != "" {
		err = fmt.Errorf("the guest could not be set up: %s", a.Error)
	}
	if text := strings.TrimSpace(complaints.String()); err != nil && text != "" {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return a, err
}

// counter passes bytes on and tells when a number of them went through.
type counter struct {
	mu   sync.Mutex
	to   io.Writer
	n    int64
	err  error
	more chan struct{}
}

func newCounter(to io.Writer) *counter {
	return &counter{to: to, more: make(chan struct{}, 1)}
}

func (c *counter) Write(p []byte) (int, error) {
	_, err := c.to.Write(p)
	c.mu.Lock()
	c.n += int64(len(p))
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
	// The guest is not held up by a reader of ours that is gone.
	return len(p), nil
}

func (c *counter) wait(ctx context.Context, n int64) error {
	for {
		c.mu.Lock()
		got, err := c.n, c.err
		c.mu.Unlock()
		if got >= n {
			return err
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			return errTimeout
		}
	}
}

// console keeps the end of what the kernel said, and passes it on if asked to.
type console struct {
	mu   sync.Mutex
	text []byte
	to   io.Writer // may be nil
}

// consoleMax is enough for the report of a crash on every CPU.
const consoleMax = 256 << 10

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to != nil {
		_, _ = c.to.Write(p)
	}
	c.text = append(c.text, p...)
	if over := len(c.text) - consoleMax; over > 0 {
		c.text = append(c.text[:0], c.text[over:]...)
	}
	return len(p), nil
}

// last gives the last lines.
func (c *console) last(lines int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(c.text), "\r", "")), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Marks of a kernel that found something wrong with itself.
var warnings = []string{"WARNING: ", "BUG: ", "Oops: ", "INFO: task ", "rcu: INFO:", "soft lockup", "Call Trace:"}

// warnings gives the lines that bear such a mark.
func (c *console) warnings() []string {
	var found []string
	for _, line := range strings.Split(c.last(1<<20), "\n") {
		for _, mark := range warnings {
			if strings.Contains(line, mark) {
				found = append(found, line)
				break
			}
		}
	}
	return found
}

// kvmWorks tells whether /dev/kvm runs this kernel. There are ones that open
// and do not; so it is tried, once for each boot of this machine and kernel.
func kvmWorks(k kernel) bool {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	kvm.Close()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false
	}
	note := filepath.Join(k.dir, "kvm-"+strings.TrimSpace(string(boot)))
	if said, err := os.ReadFile(note); err == nil {
		return string(said) == "yes"
	}
	// A boot takes 2 s with KVM; emulated it would not be done in this time.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m := machine{kernel: k, cpus: 1, memory: "512M", kvm: true, stdout: io.Discard, stderr: io.Discard, console: &console{}}
	a, err := m.run(ctx, request{Words: [][]byte{[]byte("true")}, Env: [][]byte{[]byte("PATH=/usr/bin:/bin")}, Dir: "/", Repo: "/", Kernel: k.dir})
	said := "no"
	if err == nil && a.Status == 0 {
		said = "yes"
	}
	_ = os.WriteFile(note, []byte(said), 0o644)
	return said == "yes"
}
