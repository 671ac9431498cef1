// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/namespace"
)

const flooders = 8

// counters is what the flooders share with the test: how often each did it.
type counters [flooders]atomic.Uint64

// shared returns memory that all who name the same file share; T has no pointers.
func shared[T any](path string) *T {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o600)
	must(err)
	size := int(unsafe.Sizeof(*new(T)))
	must(unix.Ftruncate(fd, int64(size)))
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	must(unix.Close(fd))
	return (*T)(unsafe.Pointer(unsafe.SliceData(memory)))
}

func (c *counters) read() (counts [flooders]uint64) {
	for i := range c {
		counts[i] = c[i].Load()
	}
	return counts
}

// each says whether every flooder did it so many times more than before.
func (c *counters) each(before [flooders]uint64, more uint64) bool {
	for i, count := range c.read() {
		if count < before[i]+more {
			return false
		}
	}
	return true
}

// actFlood opens a file for ever, in several processes, and counts. They are killed as
// one process group.
func actFlood(dir string, know func(string, string, ...any)) func() {
	if len(os.Args) == 1 {
		return func() {
			for i := range flooders {
				cmd := exec.Command("/proc/self/exe", strconv.Itoa(i))
				cmd.Stderr = os.Stderr
				must(cmd.Start())
			}
			unix.Pause()
		}
	}
	i, err := strconv.Atoi(os.Args[1])
	must(err)
	count := &shared[counters](dir + "/counters")[i]
	return func() {
		for {
			must(unix.Close(open(plain(dir), unix.O_RDONLY, 0)))
			count.Add(1)
		}
	}
}

// waitFor looks until something is so, for a time that only what hangs needs.
func waitFor(t *testing.T, what string, limit time.Duration, so func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !so() {
		if time.Since(begin) > limit {
			t.Fatalf("%s: not after %v", what, limit)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

// TestKeeperKilled: a keeper that is killed under load takes its programs with it, and
// sets its workload free at once.
func TestKeeperKilled(t *testing.T) {
	needSleep(t, "file_open")
	dir := folder(t, "flood")
	programs := bpfObjects(t, "prog")
	_ = os.Remove(dir + "/counters") // of an earlier run
	count := shared[counters](dir + "/counters")
	cmd := exec.Command("tsem-bpf", "run", "-o", "/tmp/flood", "--wait", "5m", "--", work+"/actor")
	cmd.Env = append(os.Environ(), "TSEM_ACTOR=flood", "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }()
	waitFor(t, "flood", 2*time.Minute, func() bool { return count.each([flooders]uint64{}, 100) })
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The longest that a process which does not wait stands still.
	const still = 3 * time.Second
	before, since := count.read(), time.Now()
	waitFor(t, "all wait for room", 2*time.Minute, func() bool {
		if now := count.read(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > still
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	took := waitFor(t, "waiters free", 2*time.Minute, func() bool { return count.each(before, 1) })
	t.Logf("%d waiting processes free %v after the keeper was killed", flooders, took)
	// More than would find room in a magazine without a reader.
	took = waitFor(t, "flood without a keeper", 2*time.Minute, func() bool { return count.each(before, 20_000) })
	t.Logf("each opened the file 20,000 times in %v", took)
	took = waitFor(t, "programs gone", 4*time.Minute, func() bool { return bpfObjects(t, "prog") == programs })
	t.Logf("programs gone %v after that", took)
	_ = cmd.Wait()
}

// TestBirthsEnd: a thread of a keeper that ends before it has started the first task of a namespace
// takes its entry with it.
func TestBirthsEnd(t *testing.T) { birthsEnd(t) }

func birthsEnd(t *testing.T) {
	t.Helper()
	births := engine.Map("births")
	bornAndGone(t)
	waitFor(t, "the end of the entry", time.Minute, func() bool {
		var thread uint64
		return errors.Is(births.NextKey(nil, &thread), ebpf.ErrKeyNotExist)
	})
}

// TestExitSkipped: where the kernel skips the program of the tracepoint when a task exits, all is
// made good when the task is freed. That program is taken away here.
func TestExitSkipped(t *testing.T) {
	unload(t)
	defer reopen(t)
	says(t, 0, "", "engine", "install")
	check(t, os.Remove(pinned+"/link_task_exit"))
	reopen(t)
	birthsEnd(t)

	waits := engine.Support().Tier.Waits()
	words := []string{"run", "-o", "/dev/null"}
	if waits {
		words = append(words, "--external", "--enforce")
	}
	killed := exec.Command("tsem-bpf", append(words, "--", "sh", "-c", "echo begun; read go")...)
	stdin, stdout := piped(t, killed)
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	check(t, killed.Process.Kill())
	_, _ = killed.Process.Wait()
	waitFor(t, "a namespace without keeper", time.Minute, func() bool {
		s, err := engine.Status()
		check(t, err)
		return len(s.Keepers) == 1 && len(s.Namespaces) == 1 && s.Namespaces[0].Keeper == 0 && s.Namespaces[0].Orphaned == waits
	})
	check(t, engine.Close())
	if waits {
		says(t, 1, "which hold tasks back though nobody keeps them (tsem-bpf ns end)", "engine", "remove")
	}
	check(t, stdin.Close())
	waitFor(t, "the end of its tasks", time.Minute, func() bool { return exec.Command("tsem-bpf", "engine", "remove").Run() == nil })
}

// bornAndGone lets a thread announce a task, and end. It is not the first one of the process, which
// stays until that ends.
func bornAndGone(t *testing.T) {
	t.Helper()
	announced, end, begun := make(chan bool), make(chan bool), make(chan bool)
	for range 2 {
		go func() {
			runtime.LockOSThread() // for ever: the thread ends with the goroutine
			begun <- true
			if end := <-end; end || unix.Gettid() == os.Getpid() {
				announced <- false
				return
			}
			if err := engine.Announce(1); err != nil {
				t.Error(err)
			}
			announced <- true
		}()
	}
	<-begun
	<-begun
	end <- false
	if <-announced {
		end <- true
	} else {
		end <- false
	}
	<-announced
}

// TestManyBirths: as many threads can be about to start the first task of a namespace as there
// can be namespaces.
func TestManyBirths(t *testing.T) {
	births := engine.Map("births")
	for i := range engine.NamespacesMax() - 1 {
		thread := uint64(1 + i) // no address of a task
		if err := births.Put(thread, i+1); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		defer func() { check(t, births.Delete(thread)) }()
	}
}

// piped starts a command whose standard input and output are the test's.
func piped(t *testing.T, cmd *exec.Cmd) (stdin io.WriteCloser, stdout io.ReadCloser) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return stdin, stdout
}

// keeperWithID starts tsem-bpf with the process id that another one had.
func keeperWithID(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Skipf("%v (CONFIG_CHECKPOINT_RESTORE is needed)", err)
		}
		// Only the right one goes on to be a keeper.
		cmd := exec.Command("sh", "-c", "read go && exec tsem-bpf run -o /dev/null -- sh -c 'echo kept; exec sleep 1000'")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		stdin, stdout := piped(t, cmd)
		if cmd.Process.Pid != pid {
			_ = stdin.Close()
			_ = cmd.Wait()
			continue
		}
		if _, err := stdin.Write([]byte("go\n")); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "kept\n" {
			t.Fatalf("%q, %v", line, err)
		}
		return cmd
	}
	t.Fatalf("the process id %d did not come again", pid)
	return nil
}

// TestKeeperOfSameID: a keeper that has the process id of one that was killed is not taken
// for it.
func TestKeeperOfSameID(t *testing.T) {
	needExternal(t)
	cmd := exec.Command("tsem-bpf", "run", "--external", "--enforce", "--deadline", "2m", "-o", "/dev/null", "--", "sh", "-c", "echo $$; read wait")
	stdin, stdout := piped(t, cmd)
	defer stdin.Close()
	var task int
	if _, err := fmt.Fscan(stdout, &task); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(task, unix.SIGKILL) }()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait() // not of cmd, which would wait for what the task holds
	held := orphans(t)
	if len(held) != 1 || held[0].Keeper != 0 {
		t.Fatalf("orphans: %+v", held)
	}
	again := keeperWithID(t, cmd.Process.Pid)
	defer func() {
		_ = unix.Kill(-again.Process.Pid, unix.SIGKILL)
		_ = again.Wait()
	}()
	if held := orphans(t); len(held) != 1 || held[0].Keeper != 0 {
		t.Errorf("orphans: %+v", held)
	}
	says(t, 0, "", "ns", "end", fmt.Sprint(held[0].ID))
	if held := orphans(t); len(held) != 0 {
		t.Errorf("orphans after their end: %+v", held)
	}
}

// longName makes a file with a line, and a name of 3 KiB, so that few records fill a magazine: 4 MiB or 8 MiB of
// it are full after 3,000.
func longName(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + strings.Repeat("/"+strings.Repeat("long", 50), 15)
	check(t, os.MkdirAll(filepath.Dir(path), 0o700))
	check(t, os.WriteFile(path, []byte("a line\n"), 0o600))
	return path
}

// fill starts a task in a namespace that nobody reads, until it waits for room. It reads a file until there is none
// any more. The wait has begun after the returned time, and before fill returns.
func fill(t *testing.T, wait time.Duration) (n *namespace.Namespace, cmd *exec.Cmd, file string, since time.Time) {
	t.Helper()
	n, err := namespace.New(engine, namespace.Config{Wait: wait})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	file = longName(t)
	cmd = exec.Command("sh", "-c", "while read line <"+file+"; do :; done; exit 0")
	check(t, n.Start(cmd))
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	now := time.Now()
	waitFor(t, "full magazine", 2*time.Minute, func() bool {
		since, now = now, time.Now()
		return n.Totals().Waited > 0
	})
	return n, cmd, file, since
}

// TestWaitEnds: a task that waits for room can be killed, and waits no longer once the namespace is shut.
func TestWaitEnds(t *testing.T) {
	needSleep(t, "file_open")
	for _, by := range []string{"SIGKILL", "Shut"} {
		t.Run(by, func(t *testing.T) {
			n, cmd, file, _ := fill(t, namespace.MaxWait)
			begin := time.Now()
			if by == "SIGKILL" {
				check(t, cmd.Process.Kill())
			} else {
				check(t, os.Remove(file))
				n.Shut()
			}
			_ = cmd.Wait()
			took := time.Since(begin)
			t.Logf("it has ended after %v", took)
			// Far from what a slow machine needs, and from what the wait had left.
			if took > namespace.MaxWait/5 {
				t.Errorf("a task that waits ended %v after %s", took, by)
			}
		})
	}
}

// TestWaitLasts: an event waits for room as long as it was told, and then it goes on, so that the next one waits.
func TestWaitLasts(t *testing.T) {
	const wait = 2 * time.Second
	needSleep(t, "file_open")
	n, _, _, since := fill(t, wait)
	waitFor(t, "the next event", 2*time.Minute, func() bool { return n.Totals().Waited > 1 })
	took := time.Since(since)
	t.Logf("it waited %v at most", took)
	if took < wait {
		t.Errorf("an event waited less than %v for room, it was to be %v", took, wait)
	}
}
