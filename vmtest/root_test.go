// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// recordsOf returns the records in a file, and fails if one line of it is none.
func recordsOf(t *testing.T, file string) []object {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	return objects(t, text)
}

// hostOf returns the namespace of the host, which a daemon keeps beside those of orchestrators.
func hostOf(t *testing.T, pid int) *nsReport {
	t.Helper()
	for _, r := range listed(t, pid) {
		if !r.External {
			return &r
		}
	}
	t.Fatalf("process %d does not describe the host", pid)
	return nil
}

// TestDaemonRoot: a daemon describes the host beside its namespaces, each event once and in one of them; the file can
// be given another name, and the next daemon goes on in it.
func TestDaemonRoot(t *testing.T) {
	needExternal(t)
	folder, file, records := filepath.Join(t.TempDir(), "tsem"), filepath.Join(t.TempDir(), "host"), filepath.Join(t.TempDir(), "records")
	marker := openAgain(t)
	const cut = `{"cut": ` // as the power cut leaves a line
	check(t, os.WriteFile(file, []byte(cut), 0o640))
	seen := func() bool {
		text, _ := os.ReadFile(file)
		return bytes.Contains(text, []byte(marker))
	}
	end := func(cmd *exec.Cmd, lines *bufio.Scanner) string {
		check(t, cmd.Process.Signal(unix.SIGTERM))
		return untilEnd(t, cmd, lines)
	}
	daemon, lines := configuredDaemon(t, folder, "root-export = "+file)
	waitFor(t, "an open of a task that is older than the daemon", 2*time.Minute, seen)
	host := hostOf(t, daemon.Process.Pid)
	said := orchestrate(t, orchestrator, folder, records)
	if !strings.Contains(said, "\nreleased ") || strings.Contains(said, "\nreleased 0") {
		t.Errorf("said %q", said)
	}
	check(t, os.Rename(file, file+".1"))
	check(t, daemon.Process.Signal(unix.SIGHUP))
	waitFor(t, "an open in the new file", 2*time.Minute, seen)
	descriptors, err := filepath.Glob("/proc/" + strconv.Itoa(daemon.Process.Pid) + "/task/*/fd/*")
	check(t, err)
	for _, d := range descriptors {
		if target, _ := os.Readlink(d); target == file+".1" {
			t.Errorf("the file before is still open: %s", d)
		}
	}
	account := end(daemon, lines)
	all := accounted(t, account, 1)[0]
	text, err := os.ReadFile(file + ".1")
	check(t, err)
	if info, err := os.Stat(file + ".1"); err != nil || info.Mode() != 0o640 || !bytes.HasPrefix(text, []byte(cut+"\n")) {
		t.Errorf("%v, %v, begins with %.80q", info.Mode(), err, text)
	}
	check(t, os.WriteFile(file+".1", text[len(cut)+1:], 0o600))
	described := append(recordsOf(t, file+".1"), recordsOf(t, file)...)
	if uint64(len(described)) != all.delivered || all.refused != 0 {
		t.Errorf("%d records: %s", len(described), account)
	}
	inside := make(map[any]bool)
	for _, r := range recordsOf(t, records) {
		inside[at(r, "event.tnum")] = true
	}
	for _, r := range described {
		if at(r, "event.context") != strconv.FormatUint(host.ID, 10) || at(r, "event.pid") == strconv.Itoa(daemon.Process.Pid) ||
			at(r, "event.number") == nil || inside[at(r, "event.tnum")] {
			t.Errorf("is no event of the host alone: %v", r)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the new file: %v, %v", info.Mode(), err)
	}
	before, err := os.ReadFile(file)
	check(t, err)
	daemon, lines = configuredDaemon(t, folder, "root-export = "+file+"\nroot-events = task_kill\n")
	check(t, exec.Command("sh", "-c", "kill -0 $$").Run())
	if said := end(daemon, lines); accounted(t, said, 1)[0].delivered == 0 {
		t.Error(said)
	}
	after, err := os.ReadFile(file)
	check(t, err)
	if rest, ok := bytes.CutPrefix(after, before); !ok || !bytes.Contains(rest, []byte(`"task_kill"`)) || bytes.Contains(rest, []byte(`"file_open"`)) {
		t.Errorf("%d bytes became %d", len(before), len(after))
	}
}

// TestDaemonRootStalled: while nobody takes the records of the host its tasks wait for nothing, orchestrators among them, and
// the events are refused by name; when somebody does again, there are no gaps but those.
func TestDaemonRootStalled(t *testing.T) {
	needExternal(t)
	folder, fifo := filepath.Join(t.TempDir(), "tsem"), filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	const wait = 300 // s; an event that waits for so long ends this test
	daemon, lines := configuredDaemon(t, folder, "root-export = "+fifo+"\nroot-wait = 5m\n")
	if host := hostOf(t, daemon.Process.Pid); host.Wait != wait {
		t.Errorf("an event waits %v s", host.Wait)
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	check(t, err)
	defer reader.Close()
	flood := exec.Command("sh", "-c", "while :; do read x <"+longName(t)+"; done")
	check(t, flood.Start())
	t.Cleanup(func() {
		_ = flood.Process.Kill()
		_ = flood.Wait()
	})
	waitFor(t, "a full magazine", 5*time.Minute, func() bool { return hostOf(t, daemon.Process.Pid).Refused > 0 })
	if host := hostOf(t, daemon.Process.Pid); host.Wait != 0 {
		t.Errorf("an event waits %v s", host.Wait)
	}
	if report := status(t, 1); len(report.Problems) != 1 || report.Problems[0].Problem != "full" {
		t.Errorf("the problems are %v", report.Problems)
	}
	said := orchestrate(t, orchestrator, folder, filepath.Join(t.TempDir(), "records"))
	released, ok := strings.CutPrefix(strings.TrimSpace(said[strings.LastIndex(said, "released "):]), "released ")
	if line := expectLine(t, lines, " releases late"); !ok || !strings.Contains(line, ", "+released+" released by its orchestrator, 0 not in time, 0 releases late") {
		t.Errorf("said %q; %s", said, line)
	}
	last := make(chan string)
	go func() {
		all, _ := io.ReadAll(reader)
		last <- string(all)
	}()
	waitFor(t, "an output that is read", 2*time.Minute, func() bool { return hostOf(t, daemon.Process.Pid).Wait == wait })
	check(t, flood.Process.Kill())
	check(t, daemon.Process.Signal(unix.SIGTERM))
	end := untilEnd(t, daemon, lines)
	all, text := accounted(t, end, 1)[0], <-last
	// Those are not written that came before there was a reader.
	if whole := strings.Count(text, "\n"); uint64(whole) > all.delivered || all.refused == 0 || !strings.HasSuffix(text, "}\n") {
		t.Errorf("%d lines: %s", whole, end)
	}
}

// TestDaemonRootFullDisk: while the disk is full a daemon says and shows that the records of the host are not written, and is not ready;
// when there is room it goes on.
func TestDaemonRootFullDisk(t *testing.T) {
	needExternal(t)
	openAgain(t)
	disk, w := smallDisk(t, "4m"), &watched{address: freeAddress(t)}
	file, other := filepath.Join(disk, "host"), filepath.Join(disk, "other")
	daemon, lines := configuredDaemon(t, filepath.Join(t.TempDir(), "tsem"),
		"root-export = "+file+"\nroot-events = file_open\nmetrics = "+w.address+"\n")
	waitUntil := func(what string, failed float64, ready int) {
		t.Helper()
		waitFor(t, what, 2*time.Minute, func() bool {
			status, _ := w.ask(t, "/readyz")
			all := w.scrape(t)
			return status == ready && sum(all, "tsem_keeper_output_failed") == failed && sum(all, "tsem_keeper_events_written_total") > 0
		})
	}
	waitUntil("a record", 0, http.StatusOK)
	if err := os.WriteFile(other, make([]byte, 4<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	waitUntil("a full disk", 1, http.StatusServiceUnavailable)
	expectLine(t, lines, file+": no space left on device; records are not written until that is mended")
	check(t, os.Remove(other))
	waitUntil("room", 0, http.StatusOK)
	expectLine(t, lines, "records are written to "+file+" again")
	check(t, daemon.Process.Signal(unix.SIGTERM))
	end := untilEnd(t, daemon, lines)
	if records, all := recordsOf(t, file), accounted(t, end, 1)[0]; uint64(len(records)) >= all.delivered {
		t.Errorf("%d records: %s", len(records), end)
	}
}

// TestWrongAccount: whoever keeps a namespace whose account does not balance has failed, a daemon that describes the host too.
func TestWrongAccount(t *testing.T) {
	spoil := func(id uint64) {
		check(t, loader.ChangeNamespace(id, func(ns *bpf.Namespace) error {
			atomic.AddUint64(&ns.Raised, 1)
			return nil
		}))
	}
	fails := func(cmd *exec.Cmd, said string) {
		t.Helper()
		err := cmd.Wait()
		if cmd.ProcessState.ExitCode() != 125 || !strings.Contains(said, "the account is wrong") || !strings.Contains(said, "1 unaccounted for") {
			t.Errorf("%v: %s", err, said)
		}
	}
	run := exec.Command("tsem-bpf", "run", "-o", "/dev/null", "--", "sleep", "1000")
	stderr, err := run.StderrPipe()
	check(t, err)
	check(t, run.Start())
	defer run.Process.Kill()
	waitFor(t, "the command", time.Minute, func() bool {
		all := listed(t, run.Process.Pid)
		return len(all) == 1 && all[0].Tasks > 0
	})
	spoil(listed(t, run.Process.Pid)[0].ID)
	check(t, run.Process.Signal(unix.SIGTERM))
	said, err := io.ReadAll(stderr)
	check(t, err)
	fails(run, string(said))

	needExternal(t)
	daemon, lines := configuredDaemon(t, filepath.Join(t.TempDir(), "tsem"), "root-export = /dev/null\nroot-events = task_kill\n")
	spoil(hostOf(t, daemon.Process.Pid).ID)
	check(t, daemon.Process.Signal(unix.SIGTERM))
	var all strings.Builder
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
	}
	fails(daemon, all.String())
}

// TestHostNoMore: the index of a namespace that was that of the host becomes that of another one without its tasks.
func TestHostNoMore(t *testing.T) {
	openAgain(t)
	indexOf := func(n *namespace.Namespace) (index uint32) {
		for index = 1; index < engine.NamespacesMax() && engine.Namespace(index).Id != n.ID(); index++ {
		}
		return index
	}
	first, err := namespace.New(engine, namespace.Config{})
	check(t, err)
	check(t, first.AdoptHost())
	waitFor(t, "a task of the host", 2*time.Minute, func() bool { return first.Tasks() > 0 })
	index := indexOf(first)
	check(t, first.Close())
	// As if there had been all others in between.
	atomic.AddUint64(&engine.Namespace(0).Id, uint64(engine.NamespacesMax())-2)
	second, err := namespace.New(engine, namespace.Config{})
	check(t, err)
	defer second.Close()
	if again := indexOf(second); again != index {
		t.Fatalf("index %d, want %d", again, index)
	}
	check(t, exec.Command("sh", "-c", "for i in 1 2 3 4 5; do read x </etc/hostname; done").Run())
	if tasks, raised := second.Tasks(), second.Totals().Balance.Raised; tasks > 0 || raised > 0 {
		t.Errorf("%d tasks of the host with %d events are in a namespace that nobody has made that of the host", tasks, raised)
	}
}
