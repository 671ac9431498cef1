// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// entering is a control plane in which every command puts whoever writes it into a namespace, if there is one.
type entering struct {
	plane
	namespace *namespace.Namespace
	callers   []loader.Caller
}

func (p *entering) Command(tid uint32, _ control.Command) error {
	c, err := engine.Caller(tid)
	if err == nil && p.namespace != nil {
		err = p.namespace.Enter(c)
	}
	p.with(func() { p.callers = append(p.callers, c) })
	return err
}

// servePlane mounts a control plane that the kernel half knows, until the test ends.
func servePlane(t *testing.T, p *entering, folder string) {
	t.Helper()
	serveFiles(t, p, folder)
	var stat unix.Stat_t
	check(t, unix.Stat(folder, &stat))
	check(t, engine.SetPlane(stat.Dev))
	t.Cleanup(func() { check(t, engine.SetPlane(0)) })
}

// TestPlaneEnter: who writes to the control plane is in a namespace when the write returns, and
// there what it opens of the control plane is no event.
func TestPlaneEnter(t *testing.T) {
	n, err := namespace.New(engine, namespace.Config{})
	check(t, err)
	defer func() { check(t, n.Close()) }()
	var out bytes.Buffer
	exported := make(chan error, 1)
	go func() { exported <- n.Export(context.Background(), event.Current, &out) }()
	folder := t.TempDir()
	p := &entering{namespace: n}
	servePlane(t, p, folder)
	cmd := exec.Command("sh", "-c", "cat /etc/shadow >/dev/null; echo seal >control; cat README /etc/hostname")
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	said, err := cmd.Output()
	check(t, err)
	n.Shut()
	check(t, <-exported)
	if len(p.callers) != 1 {
		t.Fatalf("%d callers", len(p.callers))
	}
	c := p.callers[0]
	if c.IoWorker != 0 || int(c.Tgid) != cmd.Process.Pid || int(c.Parent) != os.Getpid() || c.MacAdmin != 1 || c.Namespace != 0 {
		t.Errorf("the caller is %+v; it is process %d, child of %d", c, cmd.Process.Pid, os.Getpid())
	}
	if !strings.HasPrefix(string(said), "This is the control plane") {
		t.Errorf("the workload said %q", said)
	}
	opened := make(map[string]bool)
	for line := range strings.Lines(out.String()) {
		for _, name := range []string{"hostname", "shadow", "README"} {
			if strings.Contains(line, `"type": "file_open"`) && strings.Contains(line, "/"+name+`"`) {
				opened[name] = true
			}
		}
	}
	if !gomaps.Equal(opened, map[string]bool{"hostname": true}) {
		t.Errorf("file_open of %v, want hostname\n%s", opened, out.String())
	}
	if totals := completeAccount(t, engine, n); totals.Tasks != 0 {
		t.Errorf("tasks are left: %+v", totals)
	}
}

// TestPlaneClosed: a task that cannot join another namespace is left where it is.
func TestPlaneClosed(t *testing.T) {
	n, err := namespace.New(engine, namespace.Config{})
	check(t, err)
	defer func() { check(t, n.Close()) }()
	p := &entering{namespace: n}
	folder := t.TempDir()
	servePlane(t, p, folder)
	cmd := exec.Command("sh", "-c", "echo seal >control; read line")
	cmd.Dir = folder
	stdin, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	waitFor(t, "a task in the namespace", time.Minute, func() bool { return n.Tasks() == 1 })
	c, err := engine.Caller(uint32(cmd.Process.Pid))
	check(t, err)
	nobodys := engine.NamespacesMax() - 1
	if err := engine.Put(c, nobodys); !errors.Is(err, unix.EBUSY) {
		t.Errorf("put into a namespace that there is not: %v, want EBUSY", err)
	}
	again, err := engine.Caller(uint32(cmd.Process.Pid))
	check(t, err)
	if again.Namespace != n.ID() || n.Tasks() != 1 {
		t.Errorf("the task is in namespace %d, and %d tasks in namespace %d", again.Namespace, n.Tasks(), n.ID())
	}
	check(t, stdin.Close())
	_ = cmd.Wait()
}

// TestPlaneWorker: a worker of io_uring is known as one.
func TestPlaneWorker(t *testing.T) {
	p := new(entering)
	folder := t.TempDir()
	servePlane(t, p, folder)
	file, err := os.OpenFile(filepath.Join(folder, "control"), os.O_WRONLY, 0)
	check(t, err)
	defer file.Close()
	r, err := newRing(int(file.Fd()), 1, 0)
	check(t, err)
	defer func() { check(t, r.close()) }()
	command := []byte("seal\n")
	r.write(command)
	for over := false; !over; {
		check(t, r.enter(func(_ uint64, result int32) error {
			if over = true; int(result) != len(command) {
				return fmt.Errorf("the write by io_uring returned %d", result)
			}
			return nil
		}))
	}
	_, err = file.Write(command)
	check(t, err)
	if len(p.callers) != 2 || p.callers[0].IoWorker != 1 || p.callers[1].IoWorker != 0 {
		t.Errorf("the callers are %+v, want a worker and another one", p.callers)
	}
}

// TestPlaneThread: a thread that is not the first one of its process is known as well.
func TestPlaneThread(t *testing.T) {
	if _, err := engine.Caller(0x7fffffff); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a thread that there is not: %v", err)
	}
	done := make(chan struct{})
	defer close(done)
	threads := make(chan int)
	for range 2 { // each keeps its thread, and at most one has the first
		go func() {
			runtime.LockOSThread()
			threads <- unix.Gettid()
			<-done
		}()
	}
	tid, other := <-threads, <-threads
	if tid == os.Getpid() {
		tid = other
	}
	c, err := engine.Caller(uint32(tid))
	check(t, err)
	if int(c.Tgid) != os.Getpid() || int(c.Parent) != os.Getppid() {
		t.Errorf("thread %d is %+v; it is one of process %d, child of %d", tid, c, os.Getpid(), os.Getppid())
	}
}

// TestPlaneCapability: nobody opens a file of the control plane without CAP_MAC_ADMIN in the
// initial user namespace, whoever he is in another one.
func TestPlaneCapability(t *testing.T) {
	folder := t.TempDir()
	readme := filepath.Join(folder, "README")
	open := func(kind string) error {
		cmd := exec.Command("cat", readme)
		switch kind {
		case "without capability":
			cmd = exec.Command("setpriv", "--bounding-set=-mac_admin", "cat", readme)
		case "another user namespace":
			ids := []syscall.SysProcIDMap{{Size: 1}}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
		return err
	}
	kinds := map[string]bool{"root": true, "without capability": false, "another user namespace": false}
	t.Run("plane", func(t *testing.T) {
		servePlane(t, &entering{}, folder)
		for kind, can := range kinds {
			err := open(kind)
			if can != (err == nil) || err != nil && !strings.Contains(err.Error(), "Operation not permitted") {
				t.Errorf("%s: %v", kind, err)
			}
		}
	})
	serveFiles(t, &plane{}, folder)
	for kind := range kinds {
		if err := open(kind); err != nil {
			t.Errorf("%s, where it is no control plane any more: %v", kind, err)
		}
	}
}
