// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// agentName is argv[1] of the test binary as an agent; the next one says what it does.
const agentName = "as-agent"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == agentName {
		agent(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// agent is a program that judges, well or badly. A record is "PID TNUM" here.
func agent(what string) {
	lines := bufio.NewScanner(os.Stdin)
	switch what {
	case "trusts":
		fmt.Fprintln(os.Stderr, "here I am")
		for lines.Scan() {
			fmt.Println(answer("trusted", lines.Text()))
		}
	case "backwards": // answers all at once, the last first
		var all []string
		for lines.Scan() && lines.Text() != "now" {
			all = append(all, answer("untrusted", lines.Text()))
		}
		for i := range all {
			fmt.Println(all[len(all)-1-i])
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "cuts": // ends in the middle of a line
		lines.Scan()
		fmt.Print(answer("trusted", lines.Text()))
		os.Exit(3)
	case "nonsense":
		lines.Scan()
		fmt.Println("I like it")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "endless":
		line := bytes.Repeat([]byte("x"), 1<<20)
		for {
			_, _ = os.Stdout.Write(line)
		}
	case "eager": // answers what nobody asked
		for {
			fmt.Println("trusted pid=1 tnum=1")
		}
	case "deaf": // reads nothing, and does not end
		signal.Ignore(syscall.SIGTERM)
		forever()
	case "mute": // closes its standard output, and does not end
		os.Stdout.Close()
		forever()
	case "gone":
		os.Stdin.Close()
		_, _ = io.Copy(io.Discard, os.Stdin)
		forever()
	case "lasting":
		for lines.Scan() {
			fmt.Println(answer("trusted", lines.Text()))
		}
		forever()
	}
}

func forever() {
	for {
		_ = syscall.Pause()
	}
}

func answer(v, record string) string {
	pid, tnum, _ := strings.Cut(record, " ")
	return v + " pid=" + pid + " tnum=" + tnum
}

// decisions is a namespace as an agent sees it.
type decisions struct {
	mu  sync.Mutex
	all map[uint32]verdict.Verdict // by slot
	got chan struct{}
}

func (d *decisions) decide(slot uint32, _ uint64, v verdict.Verdict) (verdict.Outcome, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if before, ok := d.all[slot]; ok {
		return verdict.Outcome{Earlier: before}, nil
	}
	d.all[slot] = v
	d.got <- struct{}{}
	return verdict.Outcome{Won: true}, nil
}

// want waits for so many decisions and compares those of slots 1 to n.
func (d *decisions) want(t *testing.T, want ...verdict.Verdict) {
	t.Helper()
	for range want {
		<-d.got
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, v := range want {
		if got := d.all[uint32(i+1)]; got != v {
			t.Errorf("slot %d: %v, want %v", i+1, got, v)
		}
	}
}

func startAgent(t *testing.T, what string, stuck time.Duration) (*Exec, *decisions, *bytes.Buffer) {
	t.Helper()
	var stderr bytes.Buffer
	a, err := New([]string{os.Args[0], agentName, what}, stuck, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	d := &decisions{all: make(map[uint32]verdict.Verdict), got: make(chan struct{}, 100)}
	if err := a.Start(d.decide, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a, d, &stderr
}

// record makes the record of a task that waits in a slot.
func record(t *testing.T, tnum uint64, slot uint32) event.Record {
	t.Helper()
	b := &eventtest.Builder{Header: eventtest.Header{
		Hook: 22, Kind: uint8(event.KindEvent), Slot: slot, Ticket: 1, Number: tnum, TID: uint32(tnum) + 100, Tnum: tnum,
	}}
	for range 4 { // of socket_create
		b.Cell(eventtest.Scalar, uint64(0))
	}
	r, err := event.Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ask lets tasks 1 to n wait in slots 1 to n, and tells the agent.
func ask(t *testing.T, a *Exec, n int) {
	t.Helper()
	for i := 1; i <= n; i++ {
		r := record(t, uint64(i), uint32(i))
		if v := a.Judge(&r); v != verdict.None {
			t.Errorf("decided at once: %v", v)
		}
		tell(t, a, fmt.Sprintf("%d %d\n", i+100, i))
	}
}

func tell(t *testing.T, a *Exec, text string) {
	t.Helper()
	if n, err := a.Write([]byte(text)); n != len(text) || err != nil {
		t.Errorf("%d of %d bytes, %v", n, len(text), err)
	}
}

func TestExecTrusts(t *testing.T) {
	a, d, stderr := startAgent(t, "trusts", time.Minute)
	ask(t, a, 3)
	d.want(t, verdict.Trusted, verdict.Trusted, verdict.Trusted)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if a.Err() != nil || a.Stats() != (Stats{Decided: 3}) || stderr.String() != "here I am\n" {
		t.Errorf("%v, %+v, %q", a.Err(), a.Stats(), stderr)
	}
	if state := a.cmd.ProcessState; !state.Success() {
		t.Error(state)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestExecLateWriter: an agent that reads has not failed when the time for a write has passed
// before the write was tried, as it has when this process was stopped and goes on.
func TestExecLateWriter(t *testing.T) {
	a, d, _ := startAgent(t, "trusts", time.Nanosecond)
	ask(t, a, 1)
	d.want(t, verdict.Trusted)
	if err := a.Err(); err != nil {
		t.Error(err)
	}
}

func TestExecAnyOrder(t *testing.T) {
	a, d, _ := startAgent(t, "backwards", time.Minute)
	ask(t, a, 50)
	tell(t, a, "now\n")
	want := make([]verdict.Verdict, 50)
	for i := range want {
		want[i] = verdict.Untrusted
	}
	d.want(t, want...)
}

// TestExecFails: however an agent fails, those who wait and those who come are decided
// Closed, it is said why, and it ends.
func TestExecFails(t *testing.T) {
	for _, test := range []struct {
		what  string
		want  error
		words string
	}{
		{"cuts", ErrEnded, "exit status 3"},
		{"nonsense", ErrReply, `"I like it"`},
		{"endless", ErrFlood, "a line of more than 65536 bytes"},
		{"eager", ErrFlood, "1001 replies more than records"},
		{"mute", ErrEnded, "closed its standard output"},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			a, d, _ := startAgent(t, test.what, time.Minute)
			r := record(t, 9, 1)
			first := a.Judge(&r)
			tell(t, a, "109 9\n")
			if first == verdict.None {
				d.want(t, verdict.Closed)
			}
			<-a.Failed()
			if err := a.Err(); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.words) || !strings.Contains(err.Error(), a.args[0]) {
				t.Errorf("%v, want %v, %s", err, test.want, test.words)
			}
			if v := a.Judge(&r); v != verdict.Closed {
				t.Errorf("afterwards: %v", v)
			}
			tell(t, a, "109 9\n")
			<-a.exited
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestExecWrites: an agent that reads nothing, or cannot any more, does not stop the
// writer for ever.
func TestExecWrites(t *testing.T) {
	lines := strings.Repeat(strings.Repeat("x", 999)+"\n", 4*pipeSize/1000)
	for what, want := range map[string]error{"deaf": ErrStuck, "gone": ErrEnded} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			a, _, _ := startAgent(t, what, 100*time.Millisecond)
			tell(t, a, lines)
			<-a.Failed()
			if err := a.Err(); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			tell(t, a, lines)
		})
	}
}

// TestExecClose: at the end an agent has time to end by itself, and does not keep anybody
// from ending.
func TestExecClose(t *testing.T) {
	a, d, _ := startAgent(t, "lasting", time.Minute)
	ask(t, a, 1)
	d.want(t, verdict.Trusted)
	err := a.Close()
	if err == nil || !strings.Contains(err.Error(), "killed") || a.Err() != nil {
		t.Errorf("%v; %v", err, a.Err())
	}
	if state := a.cmd.ProcessState.Sys().(syscall.WaitStatus); state.Signal() != syscall.SIGKILL {
		t.Error(a.cmd.ProcessState)
	}
}

// TestExecCloseWhileWriting: nor does it keep anybody from ending while a record is being written that it does not take.
func TestExecCloseWhileWriting(t *testing.T) {
	a, _, _ := startAgent(t, "deaf", time.Hour)
	var writing sync.WaitGroup
	writing.Go(func() { tell(t, a, strings.Repeat(strings.Repeat("x", 999)+"\n", 4*pipeSize/1000)) })
	for a.StuckFor() < 10*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "killed") || a.Err() != nil {
		t.Errorf("%v; %v", err, a.Err())
	}
	writing.Wait()
	if stuck := a.StuckFor(); stuck != 0 {
		t.Errorf("stuck for %v at the end", stuck)
	}
}

// TestExecGroup: what an agent has started ends with it, and a process that has left its
// group with the pipe in its hands stops nobody.
func TestExecGroup(t *testing.T) {
	for _, test := range []struct {
		start string
		ends  bool
	}{{"sleep 600", true}, {"setsid sleep 600", false}} {
		started := make(pidWriter, 1)
		a, err := New([]string{"sh", "-c", test.start + " & echo $! >&2; cat >&2"}, time.Minute, started)
		if err != nil {
			t.Fatal(err)
		}
		d := &decisions{all: make(map[uint32]verdict.Verdict), got: make(chan struct{}, 100)}
		if err := a.Start(d.decide, nil); err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(<-started)
		if err != nil {
			t.Fatal(err)
		}
		if !test.ends { // only when it has left the group
			waitForSession(t, process.Pid)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if ended := hasEnded(t, process.Pid, test.ends); ended != test.ends {
			t.Errorf("%s: ended %v", test.start, ended)
		}
		_ = process.Kill()
	}
}

// pidWriter hands on the number in the first line that is written to it.
type pidWriter chan int

func (w pidWriter) Write(b []byte) (int, error) {
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	w <- pid
	return len(b), err
}

// waitForSession waits until a process leads a session.
func waitForSession(t *testing.T, pid int) {
	t.Helper()
	for {
		switch sid, err := unix.Getsid(pid); {
		case err != nil:
			t.Fatal(err)
		case sid == pid:
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// hasEnded says whether a process has ended, after a wait if it is about to.
func hasEnded(t *testing.T, pid int, soon bool) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	timeout := 0
	if soon {
		timeout = 60_000
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestNewRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"/nowhere/agent"}, {"no-such-agent"}} {
		if _, err := New(args, time.Second, io.Discard); !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", args, err)
		}
	}
	a, err := New([]string{"true"}, time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("close without a start: %v", err)
	}
}

func TestTrust(t *testing.T) {
	r := record(t, 1, 1)
	if v := Trust(&r); v != verdict.Trusted {
		t.Error(v)
	}
}
