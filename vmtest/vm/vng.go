// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// virtme-ng starts qemu itself, and the user space of the guest is its own: an init in
// shell, with udev. What this runner adds are its three ports, on sockets, since no
// descriptor gets through vng; and the program that the guest's init starts is this one,
// which goes on as /init of the own machine does. The console is vng's error output.

// What virtme-ng loads to come up, beside what is needed anyway; where it has virtiofsd.
var vngModules = []string{"virtiofs"}

// guard ends vng and its qemu, a process group, when the runner ends, however that
// happens: its standard input is a pipe of the runner's. It ends with vng, too.
const guard = `{ "$@" </dev/null; kill -KILL 0; } & read -r _; rm -rf -- "$TMPDIR"; kill -KILL 0`

// stageForVng makes what vng takes a kernel from: the image, and beside it the modules
// that its initramfs needs, decompressed, which vng does not do itself.
func (k kernel) stageForVng(scratch string) (image string, err error) {
	top := filepath.Join(scratch, "vng")
	image, modules := filepath.Join(top, "boot/vmlinuz-"+k.version), filepath.Join(top, "lib/modules", k.version)
	for _, dir := range []string{filepath.Dir(image), modules} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Symlink(k.image, image); err != nil {
		return "", err
	}
	files, err := k.moduleFiles(needed, vngModules)
	if err != nil {
		return "", err
	}
	for _, m := range files {
		if err := os.WriteFile(filepath.Join(modules, m.file), m.data, 0o644); err != nil {
			return "", err
		}
	}
	if err := copyBuiltin(k.modules, modules); err != nil {
		return "", err
	}
	return image, depmod(top, k.version)
}

// writeGuest writes what virtme-ng's init starts, and the request. It is a copy, as the one
// in an initramfs is: vmtest/run may write the program anew while the machine runs.
func writeGuest(scratch string, r request) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(scratch+initFile, self, 0o700), os.WriteFile(scratch+requestFile, text, 0o600))
}

// shellQuote quotes a word for a shell.
func shellQuote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// vngArguments are those of vng. The sockets in scratch are of the
// ports, in turn.
func (m *machine) vngArguments(image, scratch string) []string {
	devices := []string{"-device", "virtio-serial-pci,id=tsem"}
	for i, name := range portNames {
		path := strings.ReplaceAll(socketPath(scratch, i), ",", ",,")
		devices = append(devices,
			"-chardev", fmt.Sprintf("socket,id=tsem%d,path=%s", i, path),
			"-device", fmt.Sprintf("virtserialport,bus=tsem.0,chardev=tsem%d,name=%s", i, name))
	}
	for i, word := range devices {
		devices[i] = shellQuote(word) // vng makes a line for a shell of them
	}
	// The host's root once more, without what the guest mounted over it: a checkout below
	// /run is there as well.
	root := vngPlaces.lower
	script := fmt.Sprintf("mkdir -p %[1]s && mount --bind / %[1]s && exec %[2]s %[3]s %[4]s",
		root, shellQuote(root+scratch+initFile), insideVng, shellQuote(root+scratch+requestFile))
	args := []string{
		"-r", image, "--cpus", strconv.Itoa(m.cpus), "--memory", m.memory, "--disable-microvm",
		"--verbose", // or there is no console
		"--append", kernelLine + m.append,
		"--qemu-opts", strings.Join(devices, " "), "--exec", script,
	}
	if !m.kvm {
		args = append(args, "--disable-kvm")
	}
	return args
}

// startVng starts vng; end ends it with all that it started.
func (m *machine) startVng(_ context.Context, r request) (streams []io.ReadCloser, end func() string, err error) {
	vng, err := exec.LookPath("vng")
	if err != nil {
		return nil, nil, fmt.Errorf("%w; make vng-setup installs virtme-ng", err)
	}
	// For each try a folder of its own.
	scratch, err := os.MkdirTemp("", "vmtest")
	if err != nil {
		return nil, nil, err
	}
	var sockets []*socket
	clean := func() {
		for _, s := range sockets {
			s.listener.Close()
		}
		os.RemoveAll(scratch)
	}
	defer func() {
		if err != nil {
			clean()
		}
	}()
	image, err := m.kernel.stageForVng(scratch)
	if err != nil {
		return nil, nil, err
	}
	if err := writeGuest(scratch, r); err != nil {
		return nil, nil, err
	}
	for i := range portNames {
		s, err := listen(socketPath(scratch, i))
		if err != nil {
			return nil, nil, err
		}
		sockets, streams = append(sockets, s), append(streams, s)
	}
	stop, ended, console, err := guarded(scratch, append([]string{vng}, m.vngArguments(image, scratch)...))
	if err != nil {
		return nil, nil, err
	}
	go func() {
		<-ended
		clean()
	}()
	end = func() string {
		stop()
		clean()
		return "" // what vng complains of is on the console
	}
	return append([]io.ReadCloser{console}, streams...), end, nil
}

// guarded starts a command below the guard. stop ends it, and all that it started, if
// it has not ended before; output is all that it prints.
func guarded(scratch string, words []string) (stop func(), ended chan struct{}, output io.ReadCloser, err error) {
	cmd := exec.Command("sh", append([]string{"-c", guard, "guard"}, words...)...)
	cmd.Dir = "/" // the guest's init goes to the same
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, all, err := os.Pipe() // no file: vng's qemu opens it anew
	if err != nil {
		return nil, nil, nil, err
	}
	defer all.Close()
	cmd.Stdout, cmd.Stderr = all, all
	_, err = cmd.StdinPipe() // its other end stays open as long as this program is there
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		output.Close()
		return nil, nil, nil, err
	}
	ended = make(chan struct{})
	go func() {
		_ = cmd.Wait() // it was killed
		close(ended)
	}()
	stop = func() {
		select {
		case <-ended:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
	}
	return stop, ended, output, nil
}

func socketPath(scratch string, i int) string { return filepath.Join(scratch, strconv.Itoa(i)) }

func listen(path string) (*socket, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w; a shorter TMPDIR may help: a path of a socket has at most 107 bytes", err)
	}
	return &socket{listener: l}, nil
}

// A socket is read when somebody has connected to it; it is at its end if nobody
// ever does. One goroutine reads and closes it.
type socket struct {
	listener *net.UnixListener
	peer     net.Conn
}

func (s *socket) Read(p []byte) (int, error) {
	if s.peer == nil {
		peer, err := s.listener.Accept()
		if err != nil {
			return 0, io.EOF
		}
		s.peer = peer
	}
	return s.peer.Read(p)
}

func (s *socket) Close() error {
	s.listener.Close()
	if s.peer != nil {
		return s.peer.Close()
	}
	return nil
}
