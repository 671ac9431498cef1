// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// places are where the guest finds its request, and makes its root.
type places struct {
	request string
	lower   string // the host's root
	layer   string // what is written
	newRoot string
}

var (
	ownPlaces = places{requestFile, "/host", "/layer", "/root"}
	// The request is below lower. The root of virtme-ng's init is read-only, but for /run.
	vngPlaces = places{"", "/run/vmtest/host", "/run/vmtest/layer", "/run/vmtest/root"}
)

// guestOfVng is guest where virtme-ng's init starts it, and nowhere else: it would turn
// any other machine off.
func guestOfVng(request string) {
	port, err := openPort(portAnswer)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm: not in a machine of vmtest/run --vng:", err)
		os.Exit(1)
	}
	port.Close()
	at := vngPlaces
	at.request = request
	guest(at)
}

// guest is /init, or what virtme-ng's init starts. It never returns; the host ends the
// machine when it has the answer.
func guest(at places) {
	a, err := serve(at)
	if err != nil {
		a.Error = err.Error()
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	if err := reply(a); err != nil {
		fmt.Fprintln(os.Stderr, "vm: the answer cannot be sent:", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	for {
		time.Sleep(time.Hour)
	}
}

func serve(at places) (answer, error) {
	var a answer
	data, err := os.ReadFile(at.request)
	if err != nil {
		return a, err
	}
	var r request
	if err := json.Unmarshal(data, &r); err != nil {
		return a, err
	}
	for _, name := range r.Modules {
		if err := loadModule(filepath.Join(moduleDir, name)); err != nil {
			return a, fmt.Errorf("module %s: %w", name, err)
		}
	}
	if os.Getpid() == 1 {
		err = mountHost(at.lower)
	} else {
		// Orphans of the command are for us to reap, as they are for /init.
		err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	if err != nil {
		return a, err
	}
	if err := at.mountRoot(r); err != nil {
		return a, err
	}
	if err := loopbackUp(); err != nil {
		return a, fmt.Errorf("loopback: %w", err)
	}
	// What systemd gives to services; the kernel's own hard limit of 4096 is of another time.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1024, Max: 512 << 10}); err != nil {
		return a, fmt.Errorf("limit of open files: %w", err)
	}
	if err := reply(answer{Begun: true}); err != nil {
		return a, err
	}
	return run(r)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// A mount; the target is made if it is not there.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	optional             bool // not in every kernel; the tests that need it say so
}

func (m mount) do(root string) error {
	target := filepath.Join(root, m.target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		if m.optional {
			return nil // sysfs has the folder only where the kernel has the filesystem
		}
		return err
	}
	err := unix.Mount(m.source, target, m.kind, m.flags, m.data)
	switch {
	case errors.Is(err, unix.ENODEV) && m.optional:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("mount %s on %s: %w: this kernel does not have it; docs/vm.md lists the options", m.kind, target, err)
	case err != nil:
		return fmt.Errorf("mount %s on %s: %w", m.kind, target, err)
	}
	return nil
}

// nodev: what is in there is neither a device nor a program.
const nodev = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountHost mounts the host's root. In a machine of virtme-ng its init has done that.
func mountHost(lower string) error {
	for _, m := range []mount{
		{"devtmpfs", "/dev", "devtmpfs", 0, "", false},
		{"sysfs", "/sys", "sysfs", nodev, "", false},
		{"host", lower, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=512000,cache=loose", false},
	} {
		if err := m.do("/"); err != nil {
			return err
		}
	}
	return nil
}

// mountRoot makes newRoot: the host's files with a layer in memory over them, and
// what a system has mounted that does not need a service manager for it.
func (at places) mountRoot(r request) error {
	if err := (mount{"layer", at.layer, "tmpfs", 0, "", false}).do("/"); err != nil {
		return err
	}
	for _, dir := range []string{at.layer + "/up", at.layer + "/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, m := range []mount{
		{"root", at.newRoot, "overlay", 0, "lowerdir=" + at.lower + ",upperdir=" + at.layer + "/up,workdir=" + at.layer + "/work", false},
		{"proc", at.newRoot + "/proc", "proc", nodev, "", false},
		{"sysfs", at.newRoot + "/sys", "sysfs", nodev, "", false},
		{"devtmpfs", at.newRoot + "/dev", "devtmpfs", unix.MS_NOSUID, "", false},
		{"devpts", at.newRoot + "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", false},
		{"shm", at.newRoot + "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
		{"tmp", at.newRoot + "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
		{"run", at.newRoot + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755", false},
		{"cgroup2", at.newRoot + "/sys/fs/cgroup", "cgroup2", nodev, "", true},
		{"bpf", at.newRoot + "/sys/fs/bpf", "bpf", nodev, "mode=700", true},
		{"securityfs", at.newRoot + "/sys/kernel/security", "securityfs", nodev, "", true},
		{"debugfs", at.newRoot + "/sys/kernel/debug", "debugfs", nodev, "", true},
		{"tracefs", at.newRoot + "/sys/kernel/tracing", "tracefs", nodev, "", true},
	} {
		if err := m.do("/"); err != nil {
			return err
		}
	}
	if r.KernelModules != "" {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return err
		}
		target := at.newRoot + "/lib/modules/" + unix.ByteSliceToString(name.Release[:])
		if err := (mount{at.lower + r.KernelModules, target, "", unix.MS_BIND, "", false}).do("/"); err != nil {
			return err
		}
	}
	// The kernel does not make these; elsewhere udev does, and virtme-ng's init makes others.
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.RemoveAll(at.newRoot + "/dev/" + name); err != nil {
			return err
		}
		if err := os.Symlink("/proc/self/fd"+target, at.newRoot+"/dev/"+name); err != nil {
			return err
		}
	}
	for i, dir := range hidden(r.Show) {
		if err := at.showAgain(dir, fmt.Sprintf("%s/show%d", at.layer, i)); err != nil {
			return err
		}
	}
	return switchRoot(at.newRoot)
}

// hidden gives those of the folders that lie below a mount of the guest, without
// the ones inside another of them.
func hidden(dirs []string) []string {
	var found []string
	dirs = slices.Sorted(slices.Values(dirs)) // an outer folder comes before its inner ones
	for _, dir := range dirs {
		inside := func(outer string) bool { return strings.HasPrefix(dir+"/", outer+"/") && dir != outer }
		if slices.ContainsFunc([]string{"/tmp", "/run", "/dev/shm"}, inside) &&
			!slices.Contains(found, dir) && !slices.ContainsFunc(found, inside) {
			found = append(found, dir)
		}
	}
	return found
}

// showAgain mounts a folder of the host over itself, with a layer of its own so
// that it can be written to.
func (at places) showAgain(dir, layer string) error {
	for _, d := range []string{layer + "/up", layer + "/work"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// Mount options are separated by commas, so a path is not put among them.
	if err := os.Symlink(at.lower+dir, layer+"/low"); err != nil {
		return err
	}
	return mount{"show", at.newRoot + dir, "overlay", 0,
		"lowerdir=" + layer + "/low,upperdir=" + layer + "/up,workdir=" + layer + "/work", false}.do("/")
}

// switchRoot makes newRoot the root of the mount namespace, as switch_root(8) does.
func switchRoot(newRoot string) error {
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Sethostname([]byte("vm"))
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
}

// openPort finds a virtio port by name. The device may appear a moment after its driver.
func openPort(name string) (*os.File, error) {
	if _, err := os.Stat("/sys/class/virtio-ports"); err != nil {
		return nil, fmt.Errorf("this kernel has no virtio_console, which the machine needs; docs/vm.md lists the options: %w", err)
	}
	for range 3000 { // 30 s, for a machine with much else to do
		ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, path := range ports {
			if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == name {
				device := "/dev/" + filepath.Base(filepath.Dir(path))
				return os.OpenFile(device, os.O_RDWR|syscall.O_CLOEXEC, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("virtio port %s did not appear", name)
}

func reply(a answer) error {
	port, err := openPort(portAnswer)
	if err != nil {
		return err
	}
	defer port.Close() // only one can have it open
	return json.NewEncoder(port).Encode(a)
}

// A stream that the command writes into; a pipe and not the port itself, which
// only one can have open, so that /dev/stdout works.
type stream struct {
	end    *os.File // for the command
	copied chan int64
}

func newStream(name string) (*stream, error) {
	port, err := openPort(name)
	if err != nil {
		return nil, err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &stream{to, make(chan int64, 1)}
	go func() {
		// Not io.Copy: it would splice, which the port does in single pages.
		n, _ := io.CopyBuffer(struct{ io.Writer }{port}, struct{ io.Reader }{from}, make([]byte, 64<<10))
		s.copied <- n
	}()
	return s, nil
}

func run(r request) (answer, error) {
	var a answer
	stdout, err := newStream(portStdout)
	if err != nil {
		return a, err
	}
	stderr, err := newStream(portStderr)
	if err != nil {
		return a, err
	}
	a.Status, err = command(r, stdout.end, stderr.end)
	if err != nil {
		fmt.Fprintln(stderr.end, "vmtest/run:", err)
	}
	stdout.end.Close()
	stderr.end.Close()
	// What the command left running has the pipes open.
	_ = unix.Kill(-1, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			break
		}
	}
	a.Stdout, a.Stderr = <-stdout.copied, <-stderr.copied
	// Through the kernel's log, so that it comes after every warning there; a
	// new kernel writes to the console when it finds the time.
	return a, os.WriteFile("/dev/kmsg", []byte("<0>"+consoleEnd), 0)
}

// command runs the command and reaps whatever else ends meanwhile. Its error says
// why there was no command; the status is then the shell's.
func command(r request, stdout, stderr *os.File) (int, error) {
	words := make([]string, len(r.Words))
	for i, w := range r.Words {
		words[i] = string(w)
	}
	env := make([]string, len(r.Env))
	for i, e := range r.Env {
		env[i] = string(e)
		if path, ok := strings.CutPrefix(env[i], "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
	if err := os.Chdir(r.Dir); err != nil {
		return 126, err
	}
	program, err := exec.LookPath(words[0])
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return 127, err
		}
		return 126, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 126, err
	}
	pid, err := syscall.ForkExec(program, words, &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{null.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 126, fmt.Errorf("%s: %w", words[0], err)
	}
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 126, err
		case ended != pid:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
