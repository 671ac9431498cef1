// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A watched is a tsem-bpf run --metrics. When its CMD is killed, that raises no event.
type watched struct {
	*exec.Cmd
	address string
	records string
	stderr  bytes.Buffer
	says    *bufio.Reader // what CMD says
	sleeper int           // the process id of CMD
}

// freeAddress returns an address at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// watch starts one, and waits until CMD rests.
func watch(t *testing.T, flags ...string) *watched {
	t.Helper()
	w := watchScript(t, "cat /etc/hostname >/dev/null; echo $$; exec sleep 1000", filepath.Join(t.TempDir(), "events.json"), flags...)
	waitFor(t, "rest of CMD", 2*time.Minute, func() bool {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", w.sleeper))
		return err == nil && strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_CLOCK_NANOSLEEP, " "))
	})
	return w
}

// watchScript starts one whose CMD is a shell script that says its process id.
func watchScript(t *testing.T, script, records string, flags ...string) *watched {
	t.Helper()
	w := &watched{address: freeAddress(t), records: records}
	words := append([]string{"run", "--metrics", w.address, "-o", w.records}, flags...)
	w.Cmd = exec.Command("tsem-bpf", append(words, "--", "sh", "-c", script)...)
	w.Stderr = &w.stderr
	w.WaitDelay = time.Second // CMD has the other end of stderr
	stdout, err := w.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.sleeper != 0 {
			_ = unix.Kill(w.sleeper, unix.SIGKILL)
		}
		_ = w.Process.Kill()
		_ = w.Wait()
	})
	w.says = bufio.NewReader(stdout)
	if _, err := fmt.Fscanln(w.says, &w.sleeper); err != nil {
		t.Fatalf("%v: %s", err, w.stderr.String())
	}
	return w
}

// An ordered is one whose CMD does nothing until it is told to.
type ordered struct {
	*watched
	orders *os.File // a FIFO, the descriptor 3 of CMD
}

// startOrdered starts one that then runs a shell script.
func startOrdered(t *testing.T, script, records string, flags ...string) *ordered {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	orders, err := os.OpenFile(fifo, os.O_RDWR, 0)
	check(t, err)
	t.Cleanup(func() { orders.Close() })
	return &ordered{watchScript(t, "exec 3<"+fifo+"; echo $$; read go <&3; "+script, records, flags...), orders}
}

// order lets CMD go on, from where it reads a line.
func (o *ordered) order(t *testing.T) {
	t.Helper()
	_, err := o.orders.WriteString("go\n")
	check(t, err)
}

// ask returns the status and text of an answer.
func (w *watched) ask(t *testing.T, path string) (int, string) {
	t.Helper()
	answer, err := http.Get("http://" + w.address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// scrape returns all series, by name and labels.
func (w *watched) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	status, text := w.ask(t, "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, text)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		blank := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[blank:]), 64)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all[line[:blank]] = value
	}
	return all
}

// engineSeries are those that every keeper shows, without what changes while nothing happens.
func engineSeries(all map[string]float64) map[string]float64 {
	still := make(map[string]float64)
	for name, value := range all {
		moves := strings.HasPrefix(name, "tsem_heartbeat_age_seconds{") || strings.HasPrefix(name, "tsem_engine_memory_bytes{") ||
			strings.HasPrefix(name, "tsem_program_run")
		if strings.HasPrefix(name, "tsem_") && !strings.HasPrefix(name, "tsem_keeper_") && !moves {
			still[name] = value
		}
	}
	return still
}

// sum adds up the series of a name that have labels.
func sum(all map[string]float64, name string, labels ...string) (total float64) {
	for series, value := range all {
		other := func(label string) bool { return !strings.Contains(series, label) }
		if strings.HasPrefix(series, name+"{") && !slices.ContainsFunc(labels, other) {
			total += value
		}
	}
	return total
}

// status asks tsem-bpf status, and returns what it says.
func status(t *testing.T, want int) (report struct {
	Healthy  bool
	Problems []struct {
		Problem   string
		Namespace uint64
	}
	Series map[string]float64
}) {
	t.Helper()
	cmd := exec.Command("tsem-bpf", "status", "--json")
	out, _ := cmd.Output()
	if err := json.Unmarshal(out, &report); err != nil || cmd.ProcessState.ExitCode() != want || report.Healthy != (want == 0) {
		t.Fatalf("status %d: %v: %s", cmd.ProcessState.ExitCode(), err, out)
	}
	return report
}

// TestMetrics: what is scraped from a keeper at rest is what its account says at the end, and what
// every other keeper and tsem-bpf status say; who never reads what he asked for holds nothing up.
func TestMetrics(t *testing.T) {
	var flags []string
	if engine.Support().Tier.Waits() {
		flags = []string{"--external", "--enforce"}
	}
	first, second := watch(t, flags...), watch(t)
	reluctant, err := net.Dial("tcp", first.address)
	if err != nil {
		t.Fatal(err)
	}
	defer reluctant.Close()
	if _, err := io.WriteString(reluctant, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 100)); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*watched{first, second} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, text := w.ask(t, path); status != http.StatusOK || text != "ok\n" {
				t.Errorf("%s: status %d: %s", path, status, text)
			}
		}
	}
	says(t, 125, "--metrics="+first.address+": listen tcp "+first.address+": bind: address already in use", "run", "--metrics", first.address, "--", "touch", work+"/started")
	if err := unix.Access(work+"/started", unix.F_OK); err == nil {
		t.Error("CMD has started without its metrics")
	}

	namespace := fmt.Sprintf("namespace=%q", waitForEvent(t, first.records, "cat", 0, "event.context"))
	var all map[string]float64
	waitFor(t, "rest", 2*time.Minute, func() bool {
		before := all
		all = first.scrape(t)
		own, other := engineSeries(all), engineSeries(second.scrape(t))
		return reflect.DeepEqual(own, other) && reflect.DeepEqual(own, engineSeries(before)) &&
			sum(all, "tsem_keeper_events_written_total", namespace) == sum(all, "tsem_events_raised_total", namespace)
	})
	if shown := engineSeries(status(t, 0).Series); !reflect.DeepEqual(shown, engineSeries(all)) {
		t.Errorf("tsem-bpf status says %v, and the keeper %v", shown, engineSeries(all))
	}
	for name, value := range all {
		if strings.HasPrefix(name, "tsem_hook_attached{") && value != 1 {
			t.Errorf("%s is %v", name, value)
		}
	}
	says(t, 0, "healthy\n", "status")
	kind := "export"
	if flags != nil {
		kind = "external"
	}
	id := strings.Trim(strings.TrimPrefix(namespace, "namespace="), `"`)
	if got, want := strings.Join(topRow(t, id), " "), fmt.Sprintf("%s %s 1 0 0 0 - %d 0 0 %%", id, kind, first.Process.Pid); got != want {
		t.Errorf("tsem-bpf top says %q, want %q", got, want)
	}

	if err := unix.Kill(first.sleeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	said := first.stderr.String()
	if status := first.ProcessState.ExitCode(); status != 128+int(syscall.SIGKILL) {
		t.Errorf("status %d: %s", status, said)
	}
	account := accounted(t, said, 1)[0]
	for name, want := range map[string]uint64{
		"tsem_events_raised_total": account.raised, "tsem_events_delivered_total": account.delivered, "tsem_events_refused_total": account.refused,
		"tsem_keeper_events_read_total": account.delivered, "tsem_keeper_event_types_total": account.delivered,
		"tsem_keeper_events_written_total": uint64(len(written(t, first.records))), "tsem_tasks": 1,
	} {
		if got := sum(all, name, namespace); got != float64(want) {
			t.Errorf("%s was %v; at the end: %s", name, got, said)
		}
	}
	if trusted := sum(all, "tsem_verdicts_total", namespace, `verdict="trusted"`); flags != nil && !strings.Contains(said, fmt.Sprintf("verdicts: %v trusted", trusted)) {
		t.Errorf("%v verdicts were scraped; at the end: %s", trusted, said)
	} else if timed := sum(all, "tsem_keeper_decision_seconds_count", namespace); timed != trusted {
		t.Errorf("the times of %v decisions were scraped, and %v verdicts", timed, trusted)
	}
	if got := sum(second.scrape(t), "tsem_tasks", namespace); got != 0 {
		t.Errorf("the namespace has ended, and has %v tasks", got)
	}
}

// topRow asks tsem-bpf top, which looks for a second, and returns the words of the row that begins with
// a word; none if there is no such row.
func topRow(t *testing.T, word string) []string {
	t.Helper()
	out, err := exec.Command("tsem-bpf", "top", "--once", "--interval", "1s").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == word {
			return words
		}
	}
	return nil
}

// TestTop: tsem-bpf top shows no more events than there were, and which programs ran, if the kernel
// counts that.
func TestTop(t *testing.T) {
	const counting = "/proc/sys/kernel/bpf_stats_enabled"
	if err := os.WriteFile(counting, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(counting, []byte("0"), 0)
	watchScript(t, "echo $$; while :; do sleep 0.1; done", os.DevNull)
	raised := func() float64 { return sum(status(t, 0).Series, "tsem_events_raised_total") }
	before := raised()
	var rate float64
	waitFor(t, "events", 2*time.Minute, func() bool {
		if _, err := fmt.Sscan(topRow(t, "events/s")[1], &rate); err != nil {
			t.Fatal(err)
		}
		return rate > 0
	})
	if all := raised() - before; rate > all+0.05 { // half of the last decimal
		t.Errorf("%v events in one second, and %v in all", rate, all)
	}
	var runs, micros float64
	waitFor(t, "runs of file_open", 2*time.Minute, func() bool {
		row := topRow(t, "file_open")
		if row == nil {
			return false
		}
		if _, err := fmt.Sscan(strings.Join(row[1:], " "), &runs, &micros); err != nil {
			t.Fatalf("%v: %v", err, row)
		}
		return runs > 0 && micros > 0
	})
}

// TestStatusOrphaned: tsem-bpf status names a namespace whose keeper was killed while it enforced, and
// forgets it when it has ended.
func TestStatusOrphaned(t *testing.T) {
	needExternal(t)
	w := watch(t, "--external", "--enforce")
	id, err := strconv.ParseUint(waitForEvent(t, w.records, "cat", 0, "event.context"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = w.Wait()
	report := status(t, 1)
	if len(report.Problems) != 1 || report.Problems[0].Problem != "orphaned" || report.Problems[0].Namespace != id {
		t.Errorf("the problems are %v", report.Problems)
	}
	says(t, 1, fmt.Sprintf("not healthy:\n  namespace %d has no keeper and holds 1 tasks back", id), "status")
	if err := unix.Kill(w.sleeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of the namespace", time.Minute, func() bool {
		return exec.Command("tsem-bpf", "status").Run() == nil
	})
}

// TestMetricsOfDaemon: the process of the control plane shows the same of the host.
func TestMetricsOfDaemon(t *testing.T) {
	needExternal(t)
	d := &watched{address: freeAddress(t)}
	d.Cmd = exec.Command("tsem-bpf", "daemon", "--metrics", d.address, "--mount", filepath.Join(t.TempDir(), "plane"))
	d.Stderr = &d.stderr
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the control plane", 2*time.Minute, func() bool {
		answer, err := http.Get("http://" + d.address + "/readyz")
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
	if shown, all := engineSeries(status(t, 0).Series), engineSeries(d.scrape(t)); !reflect.DeepEqual(shown, all) {
		t.Errorf("tsem-bpf status says %v, and the daemon %v", shown, all)
	}
	if err := d.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.Wait(); err != nil {
		t.Errorf("%v: %s", err, d.stderr.String())
	}
}

// TestStatusFull: while the output takes nothing and the magazine is full, tsem-bpf status says so, and
// that process is healthy and not ready.
func TestStatusFull(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w := watchScript(t, "echo $$; while :; do read x <"+longName(t)+"; done", fifo, "--wait", "5m")
	waitFor(t, "a full magazine", 2*time.Minute, func() bool { return exec.Command("tsem-bpf", "status").Run() != nil })
	report := status(t, 1)
	if len(report.Problems) != 1 || report.Problems[0].Problem != "full" {
		t.Errorf("the problems are %v", report.Problems)
	}
	want := fmt.Sprintf("process %d, the keeper of namespace %d, does not keep up", w.Process.Pid, report.Problems[0].Namespace)
	if status, text := w.ask(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, want) {
		t.Errorf("status %d: %s; want %s", status, text, want)
	}
	if status, text := w.ask(t, "/healthz"); status != http.StatusOK {
		t.Errorf("status %d: %s", status, text)
	}
	if all := w.scrape(t); sum(all, "tsem_keeper_output_stuck_seconds") == 0 || sum(all, "tsem_events_refused_total") != 0 {
		t.Errorf("stuck for %v s, %v refused", sum(all, "tsem_keeper_output_stuck_seconds"), sum(all, "tsem_events_refused_total"))
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	waitFor(t, "room", 2*time.Minute, func() bool {
		status, _ := w.ask(t, "/readyz")
		return status == http.StatusOK
	})
}

// TestStatusStopped: a tsem-bpf that is stopped is seen by others, where there is a gate process for
// which it beats.
func TestStatusStopped(t *testing.T) {
	if engine.Gate() == nil {
		t.Skipf("tier %s", engine.Support().Tier)
	}
	stopped := watch(t, "--external")
	if err := stopped.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "silence", 2*time.Minute, func() bool { return exec.Command("tsem-bpf", "status").Run() != nil })
	if report := status(t, 1); len(report.Problems) != 1 || report.Problems[0].Problem != "silent" {
		t.Errorf("the problems are %v", report.Problems)
	}
	if err := stopped.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "beats", 2*time.Minute, func() bool { return exec.Command("tsem-bpf", "status").Run() == nil })
}

// TestUnhealthy: a tsem-bpf whose agent has failed says so.
func TestUnhealthy(t *testing.T) {
	needExternal(t)
	failed := watch(t, "--external", "--tma", agentScript(t, "read aggregate; read event; exit 3"))
	if status, text := failed.ask(t, "/healthz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "ended too early: exit status 3") {
		t.Errorf("status %d: %s", status, text)
	}
	if got := sum(failed.scrape(t), "tsem_keeper_agent_failed"); got != 1 {
		t.Errorf("tsem_keeper_agent_failed is %v", got)
	}
}
