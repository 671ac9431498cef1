// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/verdict"
	"github.com/tsem-bpf/tsem-bpf/verdict/gateproc"
)

const (
	gateIndex = 2 // of the namespace of a keptGate in its map
	gateSlot  = 1 // in which tasks wait at it
	// As long as a keeper of these tests can be kept from beating at most, by far.
	gateLate = 5 * time.Second
	// What only hangs exceeds.
	gateLimit = time.Minute
)

// A keptGate is a gate with all that its keeper has of it. Its maps are its own: the
// kernel half has no part in these tests.
type keptGate struct {
	device  *os.File
	state   *bpf.Namespace
	gate    *verdict.Gate
	served  chan error
	process *gateproc.Process
}

// newGate makes a gate at which every task waits until somebody decides; asked is called
// when one does.
func newGate(late time.Duration, asked func()) (*keptGate, error) {
	slots, err := mappable(unsafe.Sizeof(bpf.Slot{}), gateSlot+1)
	if err != nil {
		return nil, err
	}
	defer slots.Close()
	verdicts, err := verdict.MapSlots(slots)
	if err != nil {
		return nil, err
	}
	const size, entries = unsafe.Sizeof(bpf.Namespace{}), gateIndex + 1
	namespaces, err := mappable(size, entries)
	if err != nil {
		return nil, err
	}
	defer namespaces.Close()
	memory, err := unix.Mmap(namespaces.FD(), 0, int(size)*entries, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	g := &keptGate{served: make(chan error, 1)}
	g.state = &unsafe.Slice((*bpf.Namespace)(unsafe.Pointer(unsafe.SliceData(memory))), entries)[gateIndex]
	if g.device, err = gateproc.Open(); err != nil {
		return nil, err
	}
	program, err := gateproc.Program()
	if err != nil {
		return nil, err
	}
	g.gate, err = verdict.New(verdict.Config{
		Slots: verdicts, Device: int(g.device.Fd()), Program: program,
		Look: asked, Beat: g.beat, BeatEvery: 50 * time.Millisecond, Deadline: time.Hour,
	})
	if err != nil {
		return nil, err
	}
	go func() { g.served <- g.gate.Serve() }()
	g.process, err = gateproc.Start(gateproc.Config{
		Device: g.device, Namespaces: namespaces.FD(), Index: gateIndex, Late: late,
	})
	if err != nil {
		g.gate.Close()
		return nil, errors.Join(err, <-g.served)
	}
	return g, nil
}

func mappable(size uintptr, entries uint32) (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: entries, Flags: unix.BPF_F_MMAPABLE,
	})
}

// beat is the heartbeat, as long as nobody has stopped it with stopBeat.
func (g *keptGate) beat(int) {
	var now unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	for {
		last := atomic.LoadUint64(&g.state.Beat)
		if last == stopBeat || atomic.CompareAndSwapUint64(&g.state.Beat, last, uint64(now.Nano())) {
			return
		}
	}
}

const stopBeat = 1

func (g *keptGate) exe() string { return fmt.Sprintf("/proc/%d/exe", g.process.PID()) }

// ask asks at a gate as the kernel half does, and returns when that was answered.
func ask(exe string) error {
	_, err := unix.Getxattr(exe, "user.tsem", make([]byte, gateSlot))
	return err
}

// A waiter is a task that waits at a gate.
type waiter chan error

// wait lets a task wait at the gate, until it does.
func (g *keptGate) wait(t *testing.T) waiter {
	t.Helper()
	w := make(waiter, 1)
	exe := g.exe()
	go func() { w <- ask(exe) }()
	waitFor(t, "a task that waits at the gate", gateLimit, func() bool { return g.gate.Stats().Asked > 0 })
	return w
}

// woken returns what a waiter was woken with.
func (w waiter) woken(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w:
		return err
	case <-time.After(gateLimit):
		t.Fatalf("it still waits after %v", gateLimit)
		return nil
	}
}

// expectAborted expects that a waiter wakes because its connection ends.
func (w waiter) expectAborted(t *testing.T) {
	t.Helper()
	if err := w.woken(t); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("the task that waited: %v, want %v", err, unix.ECONNABORTED)
	}
}

// testGate makes a gate for a test.
func testGate(t *testing.T, late time.Duration) *keptGate {
	t.Helper()
	g, err := newGate(late, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.process.Close(); err != nil {
			t.Error(err)
		}
		g.device.Close()
	})
	return g
}

// expectEnd expects that the connection has ended: nothing is served, the task that
// waited is awake and was given no answer, and the process has ended because of that.
func (g *keptGate) expectEnd(t *testing.T, w waiter, why error) {
	t.Helper()
	w.expectAborted(t)
	select {
	case err := <-g.served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(gateLimit):
		t.Fatalf("the connection goes on after %v", gateLimit)
	}
	select {
	case <-g.process.Exited():
	case <-time.After(gateLimit):
		t.Fatalf("the gate process runs after %v", gateLimit)
	}
	if err := g.process.Err(); !errors.Is(err, why) {
		t.Errorf("the gate process ended with %v, want %v", err, why)
	}
}

// TestGateProcess: the gate process runs on a mount that nobody sees, tasks wait at it,
// and none of what can happen to keeper or gate process lets them wait for ever.
func TestGateProcess(t *testing.T) {
	t.Run("device", testGateDevice)
	t.Run("private", testGatePrivate)
	t.Run("keeper's descriptors", testGateDescriptors)
	t.Run("answered", func(t *testing.T) {
		g := testGate(t, gateLate)
		w := g.wait(t)
		if outcome, err := g.gate.Decide(gateSlot, 0, verdict.Trusted); err != nil || !outcome.Won {
			t.Fatalf("%v, %v", outcome, err)
		}
		if err := w.woken(t); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		name string
		do   func(*keptGate)
		why  error
	}{
		{"life pipe closed", func(g *keptGate) { _ = g.process.Close() }, nil},
		{"namespace closed", func(g *keptGate) { atomic.StoreUint32(&g.state.Flags, bpf.NamespaceClosed) }, gateproc.ErrClosed},
		{"beat late", func(g *keptGate) { atomic.StoreUint64(&g.state.Beat, stopBeat) }, gateproc.ErrLate},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // with testKeeperStopped: each takes gateLate
			g := testGate(t, gateLate)
			w := g.wait(t)
			begin := time.Now()
			c.do(g)
			g.expectEnd(t, w, c.why)
			t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
		})
	}
	t.Run("gate process killed", testGateKilled)
	t.Run("keeper stopped", testKeeperStopped)
	t.Run("keeper killed", testGateKeeperKilled)
	t.Run("not served", testGateNotServed)
}

// testGateDevice: the module is loaded where it is not yet, and a host without the device
// is told what it lacks.
func testGateDevice(t *testing.T) {
	// Where it is built in, there is nothing to load.
	if out, err := exec.Command("modprobe", "-r", "fuse").CombinedOutput(); err != nil {
		t.Logf("modprobe -r fuse: %v: %s", err, out)
	}
	device, err := gateproc.Open()
	check(t, err)
	device.Close()
	const path, aside = "/dev/fuse", "/dev/fuse.aside"
	check(t, os.Rename(path, aside))
	device, err = gateproc.Open()
	if !errors.Is(err, fuse.ErrFUSE) || !strings.Contains(err.Error(), "modprobe fuse") {
		t.Errorf("without %s: %v", path, err)
	}
	device.Close()
	check(t, os.Rename(aside, path))
}

// testGateDescriptors: a keeper that is killed lets go of the connection and of the life
// pipe before the programs, and its workload has neither.
func testGateDescriptors(t *testing.T) {
	g := testGate(t, gateLate)
	pipe, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/5", g.process.PID()))
	check(t, err)
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	var wake []int // what ends the gate
	link := -1     // the highest of what takes long
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		check(t, err)
		target, _ := os.Readlink("/proc/self/fd/" + e.Name()) // that of the folder itself is closed
		switch {
		case target == "anon_inode:bpf_link":
			link = max(link, fd)
		case target == pipe, target == "/dev/fuse":
			wake = append(wake, fd)
		}
	}
	if len(wake) != 2 || link < 0 {
		t.Fatalf("connection and life pipe at %v, the last link at %d", wake, link)
	}
	for _, fd := range wake {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		check(t, err)
		if fd < link || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d has flags %#x, the last link is at %d", fd, flags, link)
		}
	}
}

func testGatePrivate(t *testing.T) {
	g := testGate(t, gateLate)
	pid := g.process.PID()
	var fs unix.Statfs_t
	check(t, unix.Statfs(g.exe(), &fs))
	if fs.Type != unix.FUSE_SUPER_MAGIC {
		t.Errorf("it executes a file on file system %#x", fs.Type)
	}
	var stat unix.Stat_t
	check(t, unix.Stat(g.exe(), &stat))
	device := fmt.Sprintf(" %d:%d ", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	check(t, err)
	for _, table := range tables {
		text, err := os.ReadFile(table)
		if err != nil {
			continue // a process that has ended
		}
		if strings.Contains(string(text), device) {
			t.Errorf("%s has the mount:\n%s", table, text)
		}
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	check(t, err)
	var open []string
	for _, e := range entries {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		check(t, err)
		path, _, _ = strings.Cut(path, ":")
		open = append(open, e.Name()+" "+filepath.Base(path))
	}
	if want := []string{"4 abort", "5 pipe"}; !slices.Equal(open, want) {
		t.Errorf("it has open %q, want %q", open, want)
	}
	if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); err != nil || string(score) != "-1000\n" {
		t.Errorf("oom_score_adj %q, %v", score, err)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("it is in session %d, %v", sid, err)
	}
}

// testGateKilled: a keeper learns that its gate process is gone. Who waits goes on
// waiting for it, and a new gate works.
func testGateKilled(t *testing.T) {
	g := testGate(t, gateLate)
	w := g.wait(t)
	check(t, unix.Kill(g.process.PID(), unix.SIGKILL))
	select {
	case <-g.process.Exited():
	case <-time.After(gateLimit):
		t.Fatalf("not noticed after %v", gateLimit)
	}
	if err := g.process.Err(); !errors.Is(err, gateproc.ErrKilled) {
		t.Errorf("%v, want %v", err, gateproc.ErrKilled)
	}
	if _, err := g.gate.Decide(gateSlot, 0, verdict.Trusted); err != nil {
		t.Error(err)
	}
	if err := w.woken(t); err != nil {
		t.Errorf("the task that waited: %v", err)
	}
	again := testGate(t, gateLate)
	w = again.wait(t)
	if _, err := again.gate.Decide(gateSlot, 0, verdict.Trusted); err != nil {
		t.Error(err)
	}
	if err := w.woken(t); err != nil {
		t.Error(err)
	}
}

// actGatekeeper keeps a gate until its process has ended, and tells its number, then
// that a task waits, then how it ended.
func actGatekeeper(string, func(string, string, ...any)) func() {
	return func() {
		g, err := newGate(gateLate, func() { fmt.Println("asked") })
		must(err)
		fmt.Println(g.process.PID())
		<-g.process.Exited()
		fmt.Println(g.process.Err())
		os.Exit(0)
	}
}

// gatekeeper starts a keeper of its own, and a task that waits at its gate.
func gatekeeper(t *testing.T) (keeper *exec.Cmd, says *bufio.Scanner, pid int, w waiter) {
	t.Helper()
	keeper = exec.Command(work + "/actor")
	keeper.Env = append(os.Environ(), "TSEM_ACTOR=gatekeeper")
	keeper.Stderr = os.Stderr
	out, err := keeper.StdoutPipe()
	check(t, err)
	check(t, keeper.Start())
	t.Cleanup(func() {
		_ = keeper.Process.Kill()
		_ = keeper.Wait()
	})
	says = bufio.NewScanner(out)
	pid, err = strconv.Atoi(next(t, says))
	if err != nil {
		t.Fatal(err)
	}
	w = make(waiter, 1)
	go func() { w <- ask(fmt.Sprintf("/proc/%d/exe", pid)) }()
	if said := next(t, says); said != "asked" {
		t.Fatalf("the keeper says %q", said)
	}
	return keeper, says, pid, w
}

func next(t *testing.T, says *bufio.Scanner) string {
	t.Helper()
	if !says.Scan() {
		t.Fatalf("the keeper says no more: %v", says.Err())
	}
	return says.Text()
}

// testKeeperStopped: a keeper that is stopped does not beat. When it goes on it learns
// what has happened.
func testKeeperStopped(t *testing.T) {
	t.Parallel()
	keeper, says, _, w := gatekeeper(t)
	check(t, keeper.Process.Signal(syscall.SIGSTOP))
	begin := time.Now()
	w.expectAborted(t)
	t.Logf("awake after %v, the limit is %v", time.Since(begin).Round(time.Millisecond), gateLate)
	check(t, keeper.Process.Signal(syscall.SIGCONT))
	if said := next(t, says); said != gateproc.ErrLate.Error() {
		t.Errorf("the keeper says %q, want %q", said, gateproc.ErrLate)
	}
}

// testGateKeeperKilled: nothing is left of a keeper that is killed.
func testGateKeeperKilled(t *testing.T) {
	keeper, _, pid, w := gatekeeper(t)
	check(t, keeper.Process.Kill())
	begin := time.Now()
	w.expectAborted(t)
	t.Logf("awake after %v", time.Since(begin).Round(time.Millisecond))
	waitFor(t, "the end of the gate process", gateLimit, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// testGateNotServed: a helper that waits for a connection which nobody serves ends with
// the connection, because it has no descriptor of it any more.
func testGateNotServed(t *testing.T) {
	device, err := gateproc.Open()
	check(t, err)
	defer device.Close()
	namespaces, err := mappable(unsafe.Sizeof(bpf.Namespace{}), gateIndex+1)
	check(t, err)
	defer namespaces.Close()
	started := make(chan error, 1)
	go func() {
		_, err := gateproc.Start(gateproc.Config{Device: device, Namespaces: namespaces.FD(), Index: gateIndex})
		started <- err
	}()
	// The first request, which comes with the mount; there is none before.
	waitFor(t, "the mount", gateLimit, func() bool {
		n, err := unix.Read(int(device.Fd()), make([]byte, 16384))
		return err == nil && n > 0
	})
	check(t, device.Close())
	err = <-started
	if want := "start the gate process: change to the gate's file system: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
