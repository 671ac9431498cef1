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
	count   bool // the clock counts instructions
	vng     bool // virtme-ng starts the machine
	stdout  io.Writer
	stderr  io.Writer
	console *console
}

var (
	// errTimeout: the command did not end in time.
	errTimeout = errors.New("timeout")
	// errDied: the machine ended without an answer.
	errDied = errors.New("the machine ended without an answer")
	// errNoBoot: the machine ended before the command began.
	errNoBoot = errors.New("the machine died while booting")
	// errStopped: a signal told us to end.
	errStopped = errors.New("stopped")
)

// grace is how long to wait for the rest of the output of a machine that has
// ended, or for the end of its console; both are there in a moment, or never.
const grace = 3 * time.Second

// loglevel=5 shows warnings; an oops or panic ends qemu at once (-no-reboot); the time
// stamp counter is the host's on every CPU, whatever a late watchdog thinks; mitigations
// only cost time here.
const kernelLine = "loglevel=5 oops=panic panic=-1 tsc=reliable mitigations=off "

func (m *machine) arguments(initramfs string) []string {
	accel, cpu := "tcg,thread=multi", "max"
	switch {
	case m.kvm:
		accel, cpu = "kvm", "host"
	case m.count:
		accel = "tcg,thread=single"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(m.cpus), "-m", m.memory,
		"-kernel", m.kernel.image, "-initrd", initramfs, "-append", "console=ttyS0 " + kernelLine + m.append,
		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=console,fd=3", "-serial", "chardev:console",
	}
	if m.count {
		// 2^0 ns for each instruction; a machine that has nothing to do goes to the next timer.
		args = append(args, "-icount", "shift=0,sleep=off")
	}
	for i, name := range portNames {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=p%d,fd=%d", i, i+4),
			"-device", fmt.Sprintf("virtserialport,chardev=p%d,name=%s", i, name))
	}
	return args
}

// run boots the machine and stays until the command has ended, the machine has
// died, or the context is done. No qemu outlives it.
func (m *machine) run(ctx context.Context, r request) (answer, error) {
	start := m.startQemu
	if m.vng {
		start = m.startVng
	}
	// The death signal of a qemu is sent when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	streams, end, err := start(ctx, r)
	if err != nil {
		return answer{}, err
	}
	var complaints string
	a, err := m.attend(ctx, streams, func() { complaints = strings.TrimSpace(end()) })
	if err != nil && complaints != "" {
		err = fmt.Errorf("%w\n%s", err, complaints)
	}
	return a, err
}

// startQemu starts the own machine. The streams are its console and its ports, in turn;
// end ends it, and gives its complaints.
func (m *machine) startQemu(ctx context.Context, r request) (streams []io.ReadCloser, end func() string, err error) {
	image, err := m.kernel.initramfs(r)
	if err != nil {
		return nil, nil, err
	}
	// A file without a name: nothing stays behind, however we end.
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fd), "initramfs")
	if _, err := file.Write(image); err != nil {
		file.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))...)
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	complaints := new(bytes.Buffer)
	qemu.Stderr = complaints
	ports, err := start(qemu, 1+len(portNames))
	if err != nil {
		cancel()
		file.Close()
		return nil, nil, err
	}
	for _, port := range ports {
		streams = append(streams, port)
	}
	return streams, func() string {
		cancel()
		_ = qemu.Wait() // it was killed, or is killed now
		file.Close()
		return complaints.String()
	}, nil
}

// start starts qemu with the other ends of n ports, as its descriptors from 3 on.
func start(qemu *exec.Cmd, n int) (ports []*os.File, err error) {
	defer func() {
		for _, theirs := range qemu.ExtraFiles {
			theirs.Close()
		}
		if err != nil {
			for _, ours := range ports {
				ours.Close()
			}
		}
	}()
	for range n {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return ports, err
		}
		ports = append(ports, os.NewFile(uintptr(fds[0]), "port"))
		qemu.ExtraFiles = append(qemu.ExtraFiles, os.NewFile(uintptr(fds[1]), "port of qemu"))
	}
	if err := qemu.Start(); err != nil {
		return ports, fmt.Errorf("%w; on Debian: apt-get install qemu-system-x86", err)
	}
	return ports, nil
}

// attend passes output on until there is an answer and all that belongs to it,
// or there will be none; end then ends the machine.
func (m *machine) attend(ctx context.Context, ports []io.ReadCloser, end func()) (answer, error) {
	stdout, stderr := newCounter(m.stdout), newCounter(m.stderr)
	var copies sync.WaitGroup
	for i, to := range []io.Writer{m.console, stdout, stderr} {
		copies.Go(func() {
			defer ports[i].Close()
			_, _ = io.Copy(to, ports[i])
		})
	}
	type result struct {
		answer
		err error
	}
	answered := make(chan result, 1)
	go func() {
		var got result
		defer ports[3].Close()
		answers := json.NewDecoder(ports[3])
		if answers.Decode(&got.answer) != nil {
			got.err = errNoBoot
		} else if got.Begun && answers.Decode(&got.answer) != nil {
			got.err = errDied
		}
		answered <- got
	}()

	var a answer
	var err error
	select {
	case got := <-answered:
		switch a = got.answer; {
		case got.err != nil:
			err = got.err
		case a.Error != "":
			err = fmt.Errorf("the guest could not be set up: %s", a.Error)
		default:
			err = errors.Join(stdout.wait(ctx, a.Stdout), stderr.wait(ctx, a.Stderr))
			m.console.waitEnd(grace)
		}
	case <-ctx.Done():
		err = errTimeout
	}
	end()
	rest := make(chan struct{})
	go func() { copies.Wait(); close(rest) }()
	select {
	case <-rest:
	case <-time.After(grace): // nobody reads our output
	}
	return a, err
}
