// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// rounds is how often something is done that can be done over and over: TSEM_ROUNDS times
// (make soak), or the few times that it is worth on every run.
func rounds(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("TSEM_ROUNDS")
	if text == "" {
		return few
	}
	times, err := strconv.Atoi(text)
	check(t, err)
	return times
}

// repeat runs a round so often. It ends with the first one that fails.
func repeat(t *testing.T, few int, round func(*testing.T)) {
	t.Helper()
	times := rounds(t, few)
	if times == 1 {
		round(t)
		return
	}
	for i := range times {
		if !t.Run(fmt.Sprintf("round %d of %d", i+1, times), round) {
			return
		}
	}
}

// laborer is a process in a namespace whose events wait: what it does, and how often, is
// in TSEM_LABOR: a name, and perhaps a number and a path. It says one line for whatever went
// wrong, and what the test waits for.
func laborer(labor string) {
	words := append(strings.Fields(labor), "", "")
	n, _ := strconv.Atoi(words[1])
	switch words[0] {
	case "agent":
		agent()
		return
	case "crowd":
		crowd()
		return
	case "knock":
		knock(words[2])
		return
	case "obey":
		obey(words[2])
		return
	case "trace":
		trace(n)
		return
	case "wait":
		waitMany(n)
	case "open":
		openMany(n)
	case "rename":
		renameMany(n)
	case "remount":
		must(unix.Mount("", words[2], "", unix.MS_REMOUNT, ""))
	case "early":
		earlyMany(n, words[2])
	case "fill":
		fillMagazine(n)
	}
	fmt.Println("done")
}

// waitMany opens as many files at once, each in a thread of its own, and tells which open
// has returned.
func waitMany(n int) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			fd, err := unix.Open(fmt.Sprint(held, ".", i), unix.O_RDONLY, 0)
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(i)
			must(unix.Close(fd))
		})
	}
	group.Wait()
}

// openMany opens a file often, while signals that it catches come.
func openMany(n int) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR1)
	fmt.Println("ready")
	for range n {
		fd, err := unix.Open(held, unix.O_RDONLY, 0)
		if err != nil {
			fmt.Println(err)
			continue
		}
		must(unix.Close(fd))
	}
	<-caught // at least one
}

// early are things whose hooks cannot sleep. Each returns how it ended.
var early = map[string]func() error{
	"task_kill": func() error { return unix.Kill(os.Getpid(), 0) },
	"shm_shmat": func() error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
		must(err)
		// Not by SysvShmAttach, which then asks how large it is, and an untrusted thread may not.
		memory, _, errno := unix.Syscall(unix.SYS_SHMAT, uintptr(id), 0, 0)
		if errno == 0 {
			call(unix.SYS_SHMDT, memory)
		}
		_, removed := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		if !errors.Is(removed, unix.EPERM) { // an untrusted thread may not even do that
			must(removed)
		}
		if errno != 0 {
			return errno
		}
		return nil
	},
	"unix_stream_connect": func() error {
		to := &unix.SockaddrUnix{Name: fmt.Sprintf("@tsem.%d", unix.Gettid())}
		listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(err)
		must(unix.Bind(listener, to))
		must(unix.Listen(listener, 1))
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(err)
		err = unix.Connect(fd, to)
		must(unix.Close(fd))
		must(unix.Close(listener))
		return err
	},
}

// earlyMany lets n threads, one after the other, open a file often and then do something early; it
// says how many could not.
func earlyMany(n int, what string) {
	refused := 0
	for range n {
		ended := make(chan error)
		go func() {
			runtime.LockOSThread() // and ends with it: an untrusted thread is so until it ends
			for range 20 {
				fd, err := unix.Open(held, unix.O_RDONLY, 0)
				must(err)
				must(unix.Close(fd))
			}
			ended <- early[what]()
		}()
		switch err := <-ended; err {
		case nil:
		case unix.EPERM:
			refused++
		default:
			must(err)
		}
	}
	fmt.Println(refused)
}

// fillMagazine does two things, one in a hook that can sleep and one in a hook that cannot,
// until there is no room for their records, n times at most, and tells how each ended. Large
// values fill a magazine soon.
func fillMagazine(n int) {
	fd, err := unix.Open(held, unix.O_RDONLY, 0)
	must(err)
	debug.SetGCPercent(-1) // without room it could have no memory, either
	value, pid := make([]byte, 60_000), os.Getpid()
	var set, kill error
	for i := 0; i < n && set != unix.ENOMEM; i++ {
		set = unix.Fsetxattr(fd, "user.fill", value, 0)
	}
	for i := 0; i < n && kill != unix.ENOMEM; i++ {
		kill = unix.Kill(pid, 0)
	}
	fmt.Println(set, kill)
}

// renameMany creates, renames and removes files of one directory in several processes.
func renameMany(n int) {
	runtime.LockOSThread()
	dir := work + "/busy"
	for i := range n {
		one, other := fmt.Sprintf("%s/%d", dir, os.Getpid()), fmt.Sprintf("%s/%d.%d", dir, os.Getpid(), i)
		fd, err := unix.Open(one, unix.O_CREAT|unix.O_WRONLY, 0o600)
		must(err)
		must(unix.Close(fd))
		must(unix.Rename(one, other))
		// The name of another process: most are gone when it comes to that.
		names, err := filepath.Glob(dir + "/*")
		must(err)
		var stat unix.Stat_t
		_ = unix.Stat(names[rand.IntN(len(names))], &stat)
		must(unix.Unlink(other))
	}
}

// A labored is laborers at work in a namespace.
type labored struct {
	n    *namespace.Namespace
	cmds []*exec.Cmd
	says *bufio.Scanner
	read chan error
}

func startLabor(t *testing.T, config namespace.Config, labor string, count int) *labored {
	t.Helper()
	if err := os.WriteFile(held, []byte("held\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n, err := namespace.New(engine, config)
	if err != nil {
		t.Fatal(err)
	}
	l := &labored{n: n, read: make(chan error, 1)}
	t.Cleanup(func() {
		for _, cmd := range l.cmds {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	go func() { l.read <- n.Export(t.Context(), event.Current, io.Discard) }()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	defer in.Close()
	for range count {
		cmd := exec.Command(work + "/actor")
		cmd.Env = append(os.Environ(), "TSEM_LABOR="+labor)
		cmd.Stdout, cmd.Stderr = in, os.Stderr
		if err := n.Start(cmd); err != nil {
			t.Fatal(err)
		}
		l.cmds = append(l.cmds, cmd)
	}
	l.says = bufio.NewScanner(out)
	return l
}

// next returns the next line that a laborer says.
func (l *labored) next(t *testing.T) string {
	t.Helper()
	if !l.says.Scan() {
		t.Fatal("the laborers have ended")
	}
	return l.says.Text()
}

// end expects every laborer to say that it is done, and no wait to have ended in another
// way than by a verdict of the agent.
func (l *labored) end(t *testing.T) {
	t.Helper()
	for range l.cmds {
		if line := l.next(t); line != "done" {
			t.Errorf("a laborer said: %s", line)
		}
	}
	stats, gates := l.n.GateStats()
	t.Logf("%+v", stats)
	if stats.Late != 0 || stats.Killed != 0 || stats.Bad != 0 || gates != gatesWanted() {
		t.Errorf("%d gates, %+v", gates, stats)
	}
	l.n.Shut()
	if err := <-l.read; err != nil {
		t.Error(err)
	}
	completeAccount(t, engine, l.n)
}

// TestManyWait: so many tasks wait at the same time, everybody else goes on, and the one
// that is released is the one that wakes.
func TestManyWait(t *testing.T) {
	needVerdicts(t)
	repeat(t, 1, testManyWait)
}

func testManyWait(t *testing.T) {
	tasks := 500
	if !hasGates() {
		tasks = 20 // each of them keeps a CPU busy
	}
	type wait struct {
		slot   uint32
		ticket uint64
		file   string
	}
	waiting := make(chan wait, tasks)
	for i := range tasks {
		if err := os.WriteFile(fmt.Sprint(held, ".", i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := startLabor(t, namespace.Config{Enforce: true, Deadline: namespace.MaxDeadline, Judge: func(r *event.Record) verdict.Verdict {
		if r.Hook().String() != "file_open" {
			return verdict.Trusted
		}
		if _, file, ok := strings.Cut(string(r.File().Path.Text), held+"."); ok {
			waiting <- wait{r.Slot(), r.Ticket(), file}
			return verdict.None
		}
		return verdict.Trusted
	}}, fmt.Sprint("wait ", tasks), 1)
	var waits []wait
	for range tasks {
		waits = append(waits, <-waiting)
	}
	for cpu := range runtime.NumCPU() {
		if out, err := exec.Command("taskset", "-c", strconv.Itoa(cpu), "cat", held).CombinedOutput(); err != nil {
			t.Errorf("on CPU %d: %v %s", cpu, err, out)
		}
	}
	rand.Shuffle(tasks, func(i, j int) { waits[i], waits[j] = waits[j], waits[i] })
	for _, w := range waits {
		outcome, err := l.n.Decide(w.slot, w.ticket, verdict.Trusted)
		if err != nil || !outcome.Won {
			t.Fatal(outcome, err)
		}
		if woken := l.next(t); woken != w.file {
			t.Fatalf("%s was released, and %s woke", w.file, woken)
		}
	}
	l.end(t)
}

// TestSignalsWhileWaiting: signals that do not end the task end no wait.
func TestSignalsWhileWaiting(t *testing.T) {
	needVerdicts(t)
	repeat(t, 1, testSignalsWhileWaiting)
}

func testSignalsWhileWaiting(t *testing.T) {
	const often = 10_000
	type wait struct {
		slot   uint32
		ticket uint64
		tid    uint32
	}
	slow := make(chan wait, 1)
	var judged int
	l := startLabor(t, namespace.Config{Enforce: true, Deadline: namespace.MaxDeadline, Judge: func(r *event.Record) verdict.Verdict {
		if !opens(r, held) {
			return verdict.Trusted
		}
		if judged++; judged%20 != 0 {
			return verdict.Trusted
		}
		slow <- wait{r.Slot(), r.Ticket(), r.TID()}
		return verdict.None
	}}, fmt.Sprint("open ", often), 1)
	if line := l.next(t); line != "ready" {
		t.Fatal(line)
	}
	var over atomic.Bool
	var group sync.WaitGroup
	var sent int
	group.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; !over.Load(); <-tick.C {
			_ = l.cmds[0].Process.Signal(syscall.SIGUSR1)
			sent++
		}
	})
	group.Go(func() {
		for w := range slow {
			_ = unix.Tgkill(l.cmds[0].Process.Pid, int(w.tid), unix.SIGUSR1) // to the very thread
			time.Sleep(3 * time.Millisecond)                                 // and more, from the other sender
			_, _ = l.n.Decide(w.slot, w.ticket, verdict.Trusted)
		}
	})
	l.end(t)
	over.Store(true)
	close(slow)
	group.Wait()
	stats, _ := l.n.GateStats()
	t.Logf("%d signals, of which %d came while the task slept", sent, stats.Interrupted)
	if hasGates() && stats.Interrupted == 0 || judged != often {
		t.Errorf("%d of %d signals came while the task slept; %d opens were judged", stats.Interrupted, sent, judged)
	}
}

// TestLockedDirectory: hooks that wait with a directory locked do not hold each other up
// for ever.
func TestLockedDirectory(t *testing.T) {
	needVerdicts(t)
	repeat(t, 1, testLockedDirectory)
}

func testLockedDirectory(t *testing.T) {
	if err := os.MkdirAll(work+"/busy", 0o755); err != nil {
		t.Fatal(err)
	}
	startLabor(t, namespace.Config{Enforce: true, Deadline: namespace.MaxDeadline, Judge: trustAll}, "rename 300", 4).end(t)
}

// TestLockedSuperblock: while an event waits with a superblock locked, files of that filesystem are found and
// read as a namespace does for their digests.
func TestLockedSuperblock(t *testing.T) {
	needVerdicts(t)
	needHook(t, "sb_remount")
	dir := t.TempDir()
	mount := func() { check(t, exec.Command("mount", "-o", "loop", otherImage, dir).Run()) }
	unmount := func() error { return exec.Command("umount", dir).Run() }
	mount()
	check(t, os.WriteFile(dir+"/read", []byte(content), 0o644))
	check(t, unmount())
	mount() // again, so that nothing of the file is in memory
	t.Cleanup(func() {
		check(t, os.Remove(dir+"/read"))
		check(t, unmount())
	})
	type wait struct {
		slot   uint32
		ticket uint64
	}
	waiting := make(chan wait, 1)
	l := startLabor(t, namespace.Config{Enforce: true, Deadline: namespace.MaxDeadline, Judge: func(r *event.Record) verdict.Verdict {
		if r.Hook().String() != "sb_remount" {
			return verdict.Trusted
		}
		waiting <- wait{r.Slot(), r.Ticket()}
		return verdict.None
	}}, "remount 1 "+dir, 1)
	w := <-waiting
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/read", l.cmds[0].Process.Pid, dir))
	if err != nil || string(text) != content {
		t.Errorf("read %q, %v", text, err)
	}
	if outcome, err := l.n.Decide(w.slot, w.ticket, verdict.Trusted); err != nil || !outcome.Won {
		t.Error(outcome, err)
	}
	l.end(t)
}
