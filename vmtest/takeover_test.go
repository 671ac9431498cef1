// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The workload of TestTakeover opens what its agent trusts and what it does not, over and
// over, in children: its shell stays trusted. One more process is not (knock).
const takeoverWorkload = `TSEM_LABOR="knock 0 $2" "$1" &
echo $$
while :; do
	cat /etc/shadow >/dev/null && echo leak
	if cat /etc/hostname >/dev/null; then echo done; else echo refused; fi
done 2>/dev/null`

// knock loses its trust, and then opens a file that it is not to open a thousand times a
// second, whenever what it last read from a FIFO is "go". It tells how each of them went.
func knock(fifo string) {
	runtime.LockOSThread() // it is a thread that is not trusted
	orders, err := os.Open(fifo)
	must(err)
	try := func(path string) {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		switch err {
		case unix.EPERM:
			fmt.Println("held")
		case nil:
			fmt.Println("leak")
			must(unix.Close(fd))
		default:
			must(err)
		}
	}
	try("/etc/shadow")
	var knocking atomic.Bool
	go func() {
		for lines := bufio.NewScanner(orders); lines.Scan(); {
			knocking.Store(lines.Text() == "go")
		}
	}()
	for range time.Tick(time.Millisecond) {
		if knocking.Load() {
			try("/etc/hostname")
		}
	}
}

// A keeping is a tsem-bpf that keeps a namespace, or tries to.
type keeping struct {
	*exec.Cmd
	records string
	stderr  bytes.Buffer
	ended   chan struct{}
}

func keep(t *testing.T, words ...string) *keeping {
	t.Helper()
	k := &keeping{records: filepath.Join(t.TempDir(), "events.json"), ended: make(chan struct{})}
	words = append([]string{"run", "--tma", "exec:../examples/distrust-shadow.py", "--deadline", "2m", "-o", k.records}, words...)
	k.Cmd = exec.Command("tsem-bpf", words...)
	k.Stderr = &k.stderr
	k.WaitDelay = time.Second // its agent may have the other end of stderr
	return k
}

// begin starts it, and waits for its end beside.
func (k *keeping) begin(t *testing.T) {
	t.Helper()
	if err := k.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = k.Wait()
		close(k.ended)
	}()
}

// status waits for the end, and returns the exit status.
func (k *keeping) status(t *testing.T) int {
	t.Helper()
	select {
	case <-k.ended:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%v does not end", k.Args)
	}
	return k.ProcessState.ExitCode()
}

// TestTakeover: when the tsem-bpf of an enforcing namespace is killed another one takes it
// over, and only one: what was trusted happens again; what was not does not happen before, between or
// afterwards, though it is tried a thousand times a second; no number is written twice, and the
// account balances.
func TestTakeover(t *testing.T) {
	needExternal(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	orders, err := os.OpenFile(fifo, os.O_RDWR, 0)
	check(t, err)
	defer orders.Close()
	order := func(order string) {
		t.Helper()
		_, err := fmt.Fprintln(orders, order)
		check(t, err)
	}
	says(t, 125, "no such namespace: 4711", "run", "--takeover", "4711", "-o", "/dev/null")

	// With another digest than the default one, which the successors have to find out.
	first := keep(t, "--external", "--enforce", "--digest", "sha512", "--", "sh", "-c", takeoverWorkload, "sh", work+"/actor", fifo)
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	first.Stdout = stdin
	first.begin(t)
	_ = stdin.Close()
	group := -first.Process.Pid
	defer func() { _ = unix.Kill(group, unix.SIGKILL) }()
	var shell int
	lines := bufio.NewReader(stdout)
	if _, err := fmt.Fscan(lines, &shell); err != nil {
		t.Fatalf("%v: %s", err, first.stderr.String())
	}
	var done, refused, held, leaked atomic.Uint64
	go count(lines, map[string]*atomic.Uint64{"done": &done, "refused": &refused, "held": &held, "leak": &leaked})
	growsBy := func(what string, n *atomic.Uint64, by uint64) {
		t.Helper()
		before := n.Load()
		waitFor(t, what, 2*time.Minute, func() bool { return n.Load() >= before+by })
	}
	grows := func(what string, n *atomic.Uint64) {
		t.Helper()
		growsBy(what, n, 4)
	}
	grows("trusted opens", &done)
	waitFor(t, "distrust", 2*time.Minute, func() bool { return held.Load() > 0 })
	id := waitForEvent(t, first.records, "sh", shell, "event.context")
	taskID := waitForEvent(t, first.records, "sh", shell, "event.task_id")
	if len(taskID) != 128 {
		t.Errorf("the TASK_ID of the shell is %s", taskID)
	}
	says(t, 125, fmt.Sprintf("namespace %s: the namespace has a keeper: process %d", id, first.Process.Pid), "run", "--takeover", id, "-o", "/dev/null")

	now, all := first, []*keeping{first}
	for range rounds(t, 4) {
		order("go")
		growsBy("refused opens", &held, 100)
		check(t, now.Process.Kill())
		grows("opens without a keeper", &refused)
		growsBy("refused opens without a keeper", &held, 1000)
		one, other := keep(t, "--takeover", id), keep(t, "--takeover", id)
		one.begin(t)
		other.begin(t)
		waitFor(t, "records of a successor", 2*time.Minute, func() bool { return hasRecords(one) || hasRecords(other) })
		growsBy("refused opens", &held, 100)
		order("wait") // there is a record of each
		select {
		case <-one.ended:
			one, other = other, one
		case <-other.ended:
		case <-time.After(2 * time.Minute):
			t.Fatal("two keepers of one namespace")
		}
		if want := fmt.Sprintf("has a keeper: process %d", one.Process.Pid); other.status(t) != 125 || !strings.Contains(other.stderr.String(), want) {
			t.Errorf("status %d: %s; want %s", other.status(t), other.stderr.String(), want)
		}
		grows("trusted opens", &done)
		now, all = one, append(all, one)
		if got := waitForEvent(t, now.records, "cat", 0, "event.p_task_id"); got != taskID {
			t.Errorf("the TASK_ID of the shell is %s, it was %s", got, taskID)
		}
	}

	// A signal gives the namespace back, for one more.
	if err := now.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := now.status(t); status != 0 || !strings.Contains(now.stderr.String(), "still running, held back") {
		t.Errorf("status %d: %s", status, now.stderr.String())
	}
	grows("opens without a keeper", &refused)
	last := keep(t, "--takeover", id)
	last.begin(t)
	grows("trusted opens", &done)
	if err := unix.Kill(group, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	status, said := last.status(t), last.stderr.String()
	said = said[strings.Index(said, "tsem-bpf: "):]
	t.Logf("%s%d done, %d refused, %d held", said, done.Load(), refused.Load(), held.Load())
	if status != 0 || !strings.Contains(said, " read by an earlier tsem-bpf") {
		t.Errorf("status %d: %s", status, said)
	}
	for _, wrong := range []string{"unaccounted", "too many", "missing", " lost", "without a number", "unreadable", "still running", "written"} {
		if strings.Contains(said, wrong) {
			t.Errorf("%s: %s", wrong, said)
		}
	}
	if n := leaked.Load(); n != 0 {
		t.Errorf("%d opens happened that are not trusted", n)
	}
	numbers := make(map[any]bool)
	for _, k := range append(all, last) {
		for _, r := range written(t, k.records) {
			if number := at(r, "event.number"); numbers[number] {
				t.Errorf("event %v is written twice", number)
			} else {
				numbers[number] = true
			}
		}
	}
}

// hasRecords says whether a keeping has written any.
func hasRecords(k *keeping) bool {
	info, err := os.Stat(k.records)
	return err == nil && info.Size() > 0
}

// count counts lines, by what stands there, until there are no more.
func count(lines *bufio.Reader, counts map[string]*atomic.Uint64) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if n := counts[strings.TrimSpace(line)]; n != nil {
			n.Add(1)
		}
	}
}
