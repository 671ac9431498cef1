// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// What can happen to a task while it waits for a verdict: most of it ends no wait, and some
// of it ends the task.

// obey is a laborer with several threads that does what its standard input says. "open":
// another thread tells its number, opens a file so that nothing is left in it, and tells
// how that ended.
func obey(path string) {
	// Caught, not ignored: such a signal interrupts what can be interrupted.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "open":
			go func() {
				runtime.LockOSThread()
				fmt.Println(unix.Gettid())
				fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC, 0)
				if err == nil {
					err = unix.Close(fd)
				}
				fmt.Println("opened:", err)
			}()
		case "exit":
			os.Exit(0)
		case "exec":
			must(syscall.Exec("/bin/true", []string{"true"}, nil))
		}
	}
}

// trace is a laborer that traces a thread. It tells when that has stopped, which is when it
// is back in user space, and then its standard input says when to let go of it.
func trace(tid int) {
	runtime.LockOSThread()
	if os.Getenv("TSEM_ATTACH") != "" {
		must(unix.PtraceAttach(tid))
	} else {
		must(unix.PtraceSeize(tid))
		must(unix.PtraceInterrupt(tid))
	}
	fmt.Println("traced")
	var status unix.WaitStatus
	_, err := unix.Wait4(tid, &status, unix.WALL, nil)
	must(err)
	if !status.Stopped() {
		return // killed
	}
	fmt.Println("stopped")
	go func() {
		// Who is killed is not gone before its tracer has seen that.
		if _, err := unix.Wait4(tid, nil, unix.WALL, nil); err == nil {
			os.Exit(0)
		}
	}()
	bufio.NewScanner(os.Stdin).Scan()
	must(unix.PtraceDetach(tid))
}

// A subject is a process to which something happens.
type subject struct {
	cmd    *exec.Cmd
	tid    int // the thread that opens the file
	tell   io.Writer
	says   *bufio.Scanner
	cgroup string
	tracer *subject
}

// startSubject starts a laborer in or out of a namespace.
func startSubject(t *testing.T, start func(*exec.Cmd) error, labor string, env ...string) *subject {
	t.Helper()
	cmd := exec.Command(work + "/actor")
	cmd.Env = append(append(os.Environ(), "TSEM_LABOR="+labor), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, start(cmd))
	s := &subject{cmd: cmd, tell: in, says: bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return s
}

func (s *subject) say(t *testing.T, line string) {
	t.Helper()
	_, err := fmt.Fprintln(s.tell, line)
	check(t, err)
}

// opens lets a thread of the subject open its file, and returns when it waits there.
func (s *subject) opens(t *testing.T, waits func() bool) {
	t.Helper()
	s.say(t, "open")
	var err error
	s.tid, err = strconv.Atoi(next(t, s.says))
	check(t, err)
	waitFor(t, "a thread that waits", time.Minute, waits)
}

// inFunction says whether a function of the kernel is in the stack of a thread.
func inFunction(tid int, function string) bool {
	stack, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stack", tid))
	return bytes.Contains(stack, []byte(function))
}

// state returns the letter that /proc has for a state of the thread.
func (s *subject) state(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.tid))
	check(t, err)
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

func (s *subject) signal(t *testing.T, sent syscall.Signal) {
	t.Helper()
	check(t, s.cmd.Process.Signal(sent))
}

// signalThread sends a signal to one thread.
func (s *subject) signalThread(t *testing.T, tid int, sent unix.Signal) {
	t.Helper()
	check(t, unix.Tgkill(s.cmd.Process.Pid, tid, sent))
}

func (s *subject) kill(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
}

// pester sends signals that do not end the process.
func (s *subject) pester(t *testing.T) {
	t.Helper()
	for range 3 {
		s.signalThread(t, s.tid, unix.SIGUSR1)
		s.signal(t, syscall.SIGURG)
	}
}

// leave does nothing to it.
func (s *subject) leave(*testing.T) {}

// sibling returns another thread than the one that opens.
func (s *subject) sibling(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", s.cmd.Process.Pid))
	check(t, err)
	for _, e := range entries {
		if tid, _ := strconv.Atoi(e.Name()); tid != s.tid {
			return tid
		}
	}
	t.Fatal("it has one thread only")
	return 0
}

// traced starts a process that traces the thread.
func (s *subject) traced(t *testing.T, env ...string) {
	t.Helper()
	s.tracer = startSubject(t, (*exec.Cmd).Start, fmt.Sprint("trace ", s.tid), env...)
	if said := next(t, s.tracer.says); said != "traced" {
		t.Fatal(said)
	}
}

// letGo lets the tracer detach, when the thread has come to a stop.
func (s *subject) letGo(t *testing.T) {
	t.Helper()
	if said := next(t, s.tracer.says); said != "stopped" {
		t.Fatal(said)
	}
	s.tracer.say(t, "detach")
	check(t, s.tracer.cmd.Wait())
}

// freeze freezes the process in a cgroup of its own.
func (s *subject) freeze(t *testing.T) {
	t.Helper()
	s.cgroup = fmt.Sprintf("/sys/fs/cgroup/tsem.%d", s.cmd.Process.Pid)
	check(t, os.MkdirAll(s.cgroup, 0o755))
	check(t, os.WriteFile(s.cgroup+"/cgroup.procs", []byte(strconv.Itoa(s.cmd.Process.Pid)), 0))
	check(t, os.WriteFile(s.cgroup+"/cgroup.freeze", []byte("1"), 0))
}

func (s *subject) thaw(t *testing.T) {
	t.Helper()
	check(t, os.WriteFile(s.cgroup+"/cgroup.freeze", []byte("0"), 0))
}

// frozen waits until all threads are, that is, none in the kernel any more.
func (s *subject) frozen(t *testing.T) {
	t.Helper()
	waitFor(t, "a frozen cgroup", time.Minute, func() bool {
		events, err := os.ReadFile(s.cgroup + "/cgroup.events")
		check(t, err)
		return bytes.Contains(events, []byte("frozen 1"))
	})
}

func needCgroup(t *testing.T) {
	t.Helper()
	needFile(t, "/sys/fs/cgroup/cgroup.procs", "CONFIG_CGROUPS")
}

// A heldWait is a wait for a verdict about the held file.
type heldWait struct {
	slot   uint32
	ticket uint64
}

// disturbed makes a namespace in which whoever opens the held file waits until the test has
// decided. done expects that everything that was raised is accounted for.
func disturbed(t *testing.T) (n *namespace.Namespace, waiting chan heldWait, done func()) {
	t.Helper()
	waiting = make(chan heldWait, 1)
	n, err := namespace.New(engine, namespace.Config{
		Enforce: true, Deadline: namespace.MaxDeadline,
		Judge: func(r *event.Record) verdict.Verdict {
			if !opens(r, held) {
				return verdict.Trusted
			}
			waiting <- heldWait{r.Slot(), r.Ticket()}
			return verdict.None
		},
	})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	read := make(chan error, 1)
	go func() { read <- n.Export(t.Context(), event.Current, io.Discard) }()
	return n, waiting, func() {
		t.Helper()
		n.Shut()
		if err := <-read; err != nil {
			t.Error(err)
		}
		totals := completeAccount(t, engine, n)
		if _, gates := n.GateStats(); gates != gatesWanted() {
			t.Errorf("%d gates, %+v", gates, totals)
		}
	}
}

// TestDisturbed: signals, stops, tracers and a frozen cgroup neither end a wait nor change
// its verdict. What they want of the task happens when the wait is over.
func TestDisturbed(t *testing.T) {
	needVerdicts(t)
	needCgroup(t)
	repeat(t, 1, testDisturbed)
}

func testDisturbed(t *testing.T) {
	n, waiting, done := disturbed(t)
	s := startSubject(t, n.Start, "obey 0 "+held)
	interrupted := func() uint64 {
		stats, _ := n.GateStats()
		return stats.Interrupted
	}
	for _, d := range []struct {
		name   string
		before func(*testing.T) // while it waits
		after  func(*testing.T) // it has its verdict
	}{
		{"signals", s.pester, s.leave},
		{"stopped", func(t *testing.T) { s.signal(t, syscall.SIGSTOP) }, func(t *testing.T) {
			waitFor(t, "a stopped thread", time.Minute, func() bool { return s.state(t) == "T" })
			s.signal(t, syscall.SIGCONT)
		}},
		{"stopped and continued", func(t *testing.T) {
			s.signal(t, syscall.SIGSTOP)
			s.signal(t, syscall.SIGCONT)
			s.signalThread(t, s.tid, unix.SIGUSR1) // what has come before may never have been seen
		}, s.leave},
		{"seized", func(t *testing.T) { s.traced(t) }, s.letGo},
		{"attached", func(t *testing.T) { s.traced(t, "TSEM_ATTACH=1") }, s.letGo},
		{"tracer killed", func(t *testing.T) {
			s.traced(t)
			s.tracer.signal(t, syscall.SIGKILL)
			_ = s.tracer.cmd.Wait()
		}, s.leave},
		{"frozen", s.freeze, func(t *testing.T) {
			s.frozen(t)
			s.thaw(t)
		}},
		{"frozen and thawed", func(t *testing.T) {
			s.freeze(t)
			waitFor(t, "somebody frozen", time.Minute, func() bool { return inFunction(s.sibling(t), "get_signal") })
			s.thaw(t)
		}, s.leave},
	} {
		t.Run(d.name, func(t *testing.T) {
			for v, want := range map[verdict.Verdict]string{
				verdict.Trusted: "opened: <nil>", verdict.Untrusted: "opened: operation not permitted",
			} {
				check(t, os.WriteFile(held, []byte("held\n"), 0o644))
				before := interrupted()
				s.opens(t, func() bool { return waitsNow(t, s.tid) })
				w := <-waiting
				d.before(t)
				if hasGates() { // which are told
					waitFor(t, "a wait that is interrupted", time.Minute, func() bool { return interrupted() > before })
				}
				time.Sleep(30 * time.Millisecond) // three looks of the gate at the signals of the task
				if !waitsNow(t, s.tid) {
					t.Error("it does not wait any more")
				}
				if outcome, err := n.Decide(w.slot, w.ticket, v); err != nil || !outcome.Won {
					t.Fatalf("the verdict: %v, %v", outcome, err)
				}
				d.after(t)
				if said := next(t, s.says); said != want {
					t.Errorf("%v: it says %q, want %q", v, said, want)
				}
				left, err := os.ReadFile(held)
				check(t, err)
				if emptied := len(left) == 0; emptied != (v == verdict.Trusted) {
					t.Errorf("%v: %q is left in the file", v, left)
				}
			}
		})
	}
	s.kill(t)
	_ = s.cmd.Wait()
	if s.cgroup != "" {
		check(t, os.Remove(s.cgroup)) // nobody is left in it
	}
	stats, _ := n.GateStats()
	if stats.Late != 0 || stats.Killed != 0 || stats.Bad != 0 {
		t.Errorf("%+v", stats)
	}
	done()
}

// ends are what ends a process whose thread waits, after something that does not.
var ends = []struct {
	name       string
	before, do func(*subject, *testing.T)
	ended      string
}{
	{"SIGKILL", (*subject).leave, (*subject).kill, "signal: killed"},
	{"SIGKILL to the thread", (*subject).leave, func(s *subject, t *testing.T) { s.signalThread(t, s.tid, unix.SIGKILL) }, "signal: killed"},
	{"SIGKILL to another thread", (*subject).leave, func(s *subject, t *testing.T) { s.signalThread(t, s.sibling(t), unix.SIGKILL) }, "signal: killed"},
	{"SIGKILL after signals", (*subject).pester, (*subject).kill, "signal: killed"},
	{"exit_group", (*subject).leave, func(s *subject, t *testing.T) { s.say(t, "exit") }, "exit status 0"},
	{"exit_group after signals", (*subject).pester, func(s *subject, t *testing.T) { s.say(t, "exit") }, "exit status 0"},
	{"exec by another thread", (*subject).leave, func(s *subject, t *testing.T) { s.say(t, "exec") }, "exit status 0"},
	{"SIGKILL while stopped", func(s *subject, t *testing.T) { s.signal(t, syscall.SIGSTOP) }, (*subject).kill, "signal: killed"},
	{"SIGKILL while traced", func(s *subject, t *testing.T) { s.traced(t) }, (*subject).kill, "signal: killed"},
	{"SIGKILL while frozen", (*subject).freeze, (*subject).kill, "signal: killed"},
}

// TestKilledWhileWaiting: whatever ends a process whose thread waits ends the wait. What
// waited does not happen. How long that takes is compared with an open that waits for the
// other end of a FIFO, by a process in no namespace.
func TestKilledWhileWaiting(t *testing.T) {
	needVerdicts(t)
	needCgroup(t)
	fifo := work + "/fifo"
	_ = os.Remove(fifo) // of an earlier run
	check(t, unix.Mkfifo(fifo, 0o600))
	within, without := make(map[string][]time.Duration), make(map[string][]time.Duration)
	repeat(t, 1, func(t *testing.T) { testKilledWhileWaiting(t, fifo, within, without) })
	for _, end := range ends {
		a, b := within[end.name], without[end.name]
		slices.Sort(a)
		slices.Sort(b)
		if len(a) == 0 || len(b) == 0 {
			continue // a round that failed
		}
		t.Logf("%s, median of %d: ended after %v, at most %v; in no namespace after %v, at most %v",
			end.name, len(a), a[len(a)/2], a[len(a)-1], b[len(b)/2], b[len(b)-1])
		if slowest := a[len(a)-1]; slowest > namespace.MaxDeadline/10 {
			t.Errorf("%s: a process that waits ended after %v", end.name, slowest)
		}
	}
}

func testKilledWhileWaiting(t *testing.T, fifo string, within, without map[string][]time.Duration) {
	check(t, os.WriteFile(held, []byte("held\n"), 0o644))
	n, waiting, done := disturbed(t)
	for _, end := range ends {
		ended := func(s *subject) time.Duration {
			end.before(s, t)
			begin := time.Now()
			end.do(s, t)
			_ = s.cmd.Wait()
			took := time.Since(begin)
			if ended := s.cmd.ProcessState.String(); ended != end.ended {
				t.Errorf("%s: it ended with %s, want %s", end.name, ended, end.ended)
			}
			if s.cgroup != "" {
				check(t, os.Remove(s.cgroup)) // nobody is left in it
			}
			return took
		}
		s := startSubject(t, (*exec.Cmd).Start, "obey 0 "+fifo)
		s.opens(t, func() bool { return inFunction(s.tid, "fifo_open") })
		without[end.name] = append(without[end.name], ended(s))
		s = startSubject(t, n.Start, "obey 0 "+held)
		s.opens(t, func() bool { return waitsNow(t, s.tid) })
		<-waiting
		within[end.name] = append(within[end.name], ended(s))
	}
	if left, err := os.ReadFile(held); err != nil || string(left) != "held\n" {
		t.Errorf("%q is left in the file, %v", left, err)
	}
	done()
	// Unasked: the signal was there before the gate had read that the task waits.
	verdicts := n.Totals().Verdicts
	if killed := verdicts[verdict.Killed] + verdicts[verdict.Unasked]; killed != uint64(len(ends)) || verdicts[verdict.Late]+verdicts[verdict.Closed] != 0 {
		t.Errorf("%d waits ended because the task was killed, want %d; %v", killed, len(ends), verdicts)
	}
}
