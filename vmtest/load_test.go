// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

const crypto512 = crypto.SHA512

const (
	openers      = 8
	kprobeEvents = "/sys/kernel/tracing/kprobe_events"
	kprobe       = "/sys/kernel/tracing/events/tsem/opens"
)

// opensOfEach is how often an opener opens its file, if TSEM_OPENS does not say otherwise.
func opensOfEach() int {
	text, given := os.LookupEnv("TSEM_OPENS")
	if !given {
		return 2500
	}
	opens, err := strconv.Atoi(text)
	must(err)
	return opens
}

// actOpens starts the openers, or is one.
func actOpens(dir string, know func(string, string, ...any)) func() {
	if len(os.Args) > 1 {
		return func() {
			for range opensOfEach() {
				must(unix.Close(open(plain(work+"/opens"), unix.O_RDONLY, 0)))
			}
		}
	}
	return func() {
		var started []*exec.Cmd
		for range openers {
			cmd := exec.Command("/proc/self/exe", "one")
			// Its own descriptors: os/exec would open /dev/null.
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
			must(cmd.Start())
			started = append(started, cmd)
		}
		for _, cmd := range started {
			must(cmd.Wait())
		}
	}
}

// TestCompleteness compares with a counter that is not ours: a kprobe on
// security_file_open with a histogram by thread.
func TestCompleteness(t *testing.T) {
	needFile(t, kprobeEvents, "CONFIG_KPROBE_EVENTS")
	folder(t, "opens")
	write := func(path, text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(text + "\n")
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(kprobeEvents, "p:tsem/opens security_file_open")
	defer write(kprobeEvents, "-:tsem/opens")
	needFile(t, kprobe+"/hist", "CONFIG_HIST_TRIGGERS")
	// As many entries as there may be threads while it counts.
	write(kprobe+"/trigger", "hist:keys=common_pid:size=4096")
	cmd := actorCommand("opens")
	cmd.Stderr = os.Stderr
	o := runIn(t, namespace.Config{}, cmd)
	if o.exit != nil {
		t.Fatal(o.exit)
	}
	hist, err := os.ReadFile(kprobe + "/hist")
	if err != nil {
		t.Fatal(err)
	}
	write(kprobe+"/trigger", "!hist:keys=common_pid:size=4096")

	ours := make(map[string]int)
	opens := make(map[string]int)
	for _, r := range o.all {
		if at(r, "event.type") == "file_open" {
			pid := at(r, "event.pid").(string)
			ours[pid]++
			if at(r, "file_open.file.path.pathname") == work+"/opens/plain" {
				opens[pid]++
			}
		}
	}
	if len(opens) != openers {
		t.Fatalf("%d threads opened the file, want %d", len(opens), openers)
	}
	theirs := make(map[string]int)
	for _, m := range regexp.MustCompile(`common_pid: +(\d+) *} hitcount: +(\d+)`).FindAllStringSubmatch(string(hist), -1) {
		theirs[m[1]], _ = strconv.Atoi(m[2])
	}
	total := 0
	for pid, count := range opens {
		if count != opensOfEach() {
			t.Errorf("thread %s: %d opens of the file, want %d", pid, count, opensOfEach())
		}
		// All that an opener opens is regular, so no bypass rule applies.
		if ours[pid] != theirs[pid] {
			t.Errorf("thread %s: %d records, the kprobe counted %d", pid, ours[pid], theirs[pid])
		}
		total += ours[pid]
	}
	t.Logf("%d opens by %d processes, each with a record; %v", total, len(opens), o.totals.Balance)
}

// TestForks: several shells at a time fork, and each child is described. Every tenth
// executes a program, which takes far longer.
func TestForks(t *testing.T) {
	const shells, forks = 4, 250
	file := folder(t, "forks") + "/plain"
	loop := fmt.Sprintf("i=0; while [ $i -lt %d ]; do if [ $((i %% 10)) = 0 ]; then cat %s; else (: <%[2]s); fi >/dev/null; i=$((i+1)); done", forks, file)
	cmd := exec.Command("sh", "-c", fmt.Sprintf("for s in $(seq %d); do (%s) & done; wait", shells, loop))
	cmd.Stderr = os.Stderr
	o := runIn(t, namespace.Config{}, cmd)
	if o.exit != nil {
		t.Fatal(o.exit)
	}
	tasks := make(map[any]int)
	for _, r := range o.all {
		if at(r, "event.type") == "file_open" && at(r, "file_open.file.path.pathname") == file {
			tasks[at(r, "event.tnum")]++
		}
	}
	for task, opens := range tasks {
		if opens != 1 {
			t.Errorf("task %v opened the file %d times", task, opens)
		}
	}
	if len(tasks) != shells*forks {
		t.Errorf("%d of %d children were seen to open the file; %+v", len(tasks), shells*forks, o.totals)
	}
}

// runUnread runs a command in a namespace while nobody reads, and reads when it has ended:
// what did not fit is refused. The namespace lives as long as the test.
func runUnread(t *testing.T, cmd *exec.Cmd) (*namespace.Namespace, *observation) {
	t.Helper()
	n, err := namespace.New(engine, namespace.Config{Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	cmd.Stderr = os.Stderr
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	n.Shut()
	var out bytes.Buffer
	if err := n.Export(context.Background(), event.Current, &out); err != nil {
		t.Fatal(err)
	}
	o := &observation{totals: account(t, engine, n)}
	o.decode(t, out.String())
	return n, o
}

// TestFullMagazine: with nobody reading, what does not fit is refused and counted, and
// what fits is numbered without a gap.
func TestFullMagazine(t *testing.T) {
	const opens = 500
	loop := fmt.Sprintf("i=0; while [ $i -lt %d ]; do read line <%s; i=$((i+1)); done", opens, longName(t))
	_, o := runUnread(t, exec.Command("sh", "-c", fmt.Sprintf("for s in $(seq %d); do (%s) & done; wait", openers, loop)))
	if err := o.totals.Balance.Err(); err != nil {
		t.Error(err)
	}
	refused := o.totals.Balance.Refused[0]
	if refused.Name != "magazine_full" || refused.Count == 0 || o.totals.Balance.Raised < openers*opens {
		t.Errorf("nothing was refused: %+v", o.totals)
	}
	t.Log(o.totals.Balance)
}

// bpfObjects counts what bpftool sees.
func bpfObjects(t *testing.T, kind string) int {
	t.Helper()
	out, err := exec.Command("bpftool", "-j", kind, "show").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []object
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// noMore waits until there are no more objects of a kind than before; there may be fewer, when
// something from before was still on its way out.
func noMore(t *testing.T, kind string, before int) {
	t.Helper()
	eventually(t, fmt.Sprintf("no more than %d of %s", before, kind), true, func() bool { return bpfObjects(t, kind) <= before })
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// entries counts what stands in a hash of the kernel half.
func entries(t *testing.T, m *ebpf.Map) int {
	t.Helper()
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	count, all := 0, m.Iterate()
	for all.Next(&key, &value) {
		count++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return count
}

// eventually waits for what the kernel gives back after a grace period, such as a hundred programs one by one, for a
// time that only what hangs needs.
func eventually[T comparable](t *testing.T, what string, want T, get func() T) {
	t.Helper()
	begin := time.Now()
	for got := get(); got != want; got = get() {
		if time.Since(begin) > 2*time.Minute {
			t.Errorf("%s: %v, want %v", what, got, want)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestNothingLeaks: 1,000 namespaces, and 2,000 forks in one.
func TestNothingLeaks(t *testing.T) {
	maps := bpfObjects(t, "map")
	count := descriptors(t)
	hashes := make(map[string]int)
	for _, name := range []string{"births", "creators", "ipc_objects", "tasks"} {
		hashes[name] = entries(t, engine.Map(name)) // files of earlier tests are still there
	}
	for range 1000 {
		n, err := namespace.New(engine, namespace.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	noMore(t, "map", maps)
	eventually(t, "descriptors", count, func() int { return descriptors(t) })

	n, err := namespace.New(engine, namespace.Config{})
	if err != nil {
		t.Fatal(err)
	}
	exported := make(chan error, 1)
	go func() { exported <- n.Export(context.Background(), event.Current, &bytes.Buffer{}) }()
	cmd := exec.Command("sh", "-c", `i=0; while [ $i -lt 2000 ]; do (: >`+work+`/forked); i=$((i+1)); done; rm `+work+`/forked`)
	cmd.Stderr = os.Stderr
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	// Task storage goes with the task, after a grace period.
	eventually(t, "tasks", 0, func() int { return int(n.Tasks()) })
	n.Shut()
	if err := <-exported; err != nil {
		t.Fatal(err)
	}
	completeAccount(t, engine, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for name, before := range hashes {
		eventually(t, "entries of "+name, before, func() int { return entries(t, engine.Map(name)) })
	}
	noMore(t, "map", maps)
	eventually(t, "descriptors", count, func() int { return descriptors(t) })
}

// TestCommandLine is about the binary, as a user has it.
func TestCommandLine(t *testing.T) {
	programs, maps := bpfObjects(t, "prog"), bpfObjects(t, "map")
	t.Cleanup(func() {
		noMore(t, "prog", programs)
		noMore(t, "map", maps)
	})
	script := work + "/not-executable"
	if err := os.WriteFile(script, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		words  []string
		uid    uint32
		status int
		says   string
	}{
		{"status", []string{"run", "-o", "/tmp/o", "--", "sh", "-c", "exit 3"}, 0, 3, "events raised"},
		{"signal", []string{"run", "-o", "/tmp/o", "sh", "-c", "kill -9 $$"}, 0, 137, "events raised"},
		{"not found", []string{"run", "no-such-command"}, 0, 127, "no-such-command: command not found"},
		{"not executable", []string{"run", script}, 0, 126, "not-executable: not executable"},
		{"directory", []string{"run", "/etc"}, 0, 126, "/etc: is a directory"},
		{"no command", []string{"run"}, 0, 2, "which command?"},
		{"unknown flag", []string{"run", "--frobnicate", "true"}, 0, 2, "--frobnicate"},
		{"bad dialect", []string{"run", "--dialect=v9", "true"}, 0, 2, "v9"},
		{"too long a wait", []string{"run", "--wait=999999h", "true"}, 0, 2, "--wait=999999h0m0s: more than 0, at most 5m0s"},
		{"bad cache", []string{"run", "--cache=0", "true"}, 0, 2, "--cache=0"},
		{"output", []string{"run", "-o", "/no/such/folder", "true"}, 0, 125, "/no/such/folder"},
		{"full disk", []string{"run", "-o", "/dev/full", "true"}, 0, 125, "/dev/full: no space left on device"},
		{"no privilege", []string{"run", "true"}, 65534, 125, "run as root"},
		{"no command at all", []string{"frobnicate"}, 0, 2, "frobnicate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Another user cannot execute what lies below a home directory of mode 0700.
			cmd := exec.Command(work+"/tsem-bpf", test.words...)
			if test.uid != 0 {
				cmd.SysProcAttr = credential(test.uid)
			}
			out, err := cmd.CombinedOutput()
			if status := cmd.ProcessState.ExitCode(); status != test.status {
				t.Errorf("status %d (%v), want %d: %s", status, err, test.status, out)
			}
			if !strings.Contains(string(out), test.says) {
				t.Errorf("it says %q, want %q in it", out, test.says)
			}
			balances(t, string(out))
		})
	}
}

// TestRun: the records of a shell, on standard output, valid by the specification.
func TestRun(t *testing.T) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("tsem-bpf", "run", "--", "sh", "-c", "cat /etc/hostname >/dev/null; true")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	account := accounted(t, stderr.String(), 1)[0]
	if account.refused != 0 {
		t.Errorf("events were refused: %s", account.line)
	}
	o := account.records(t, stdout.String())
	valid := specification(t)
	for i, r := range o.all {
		if err := valid(r); err != nil {
			t.Errorf("%v: %s", err, o.lines[i])
		}
	}
}

// TestCoefficients: each event has one, unless something of it is not known; and the same
// program that does the same has the same ones, in another namespace too.
func TestCoefficients(t *testing.T) {
	run := func() (coefficients []string) {
		const records = "/tmp/coefficients"
		cmd := exec.Command("tsem-bpf", "run", "-q", "--coefficients", "--events", "file_open,mmap_file", "-o", records, "--", "cat", "/etc/hostname")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text, err := os.ReadFile(records)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var record object
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			coefficient, ok := at(record, "event.coefficient").(string)
			if unknown := strings.Contains(line, strings.Repeat("f", 64)); ok == unknown || ok && len(coefficient) != 64 {
				t.Errorf("coefficient %q in %s", coefficient, line)
			}
			coefficients = append(coefficients, coefficient)
		}
		slices.Sort(coefficients)
		return coefficients
	}
	first := run()
	if diff := cmp.Diff(first, run()); diff != "" || len(first) < 2 || first[0] == first[len(first)-1] {
		t.Errorf("%d events, and again (-first +second):\n%s", len(first), diff)
	}
}

// TestClosedPipe: nobody reads any more.
func TestClosedPipe(t *testing.T) {
	out, err := exec.Command("bash", "-c", `set -o pipefail; tsem-bpf run -- sh -c 'for i in 1 2 3; do cat /etc/hostname; done >/dev/null' | head -1 >/dev/null`).CombinedOutput()
	if status := err.(*exec.ExitError).ExitCode(); status != 125 || !strings.Contains(string(out), "standard output: broken pipe") {
		t.Errorf("status %d: %s", status, out)
	}
}

// TestSignal: a signal goes to CMD, and its end is ours.
func TestSignal(t *testing.T) {
	cmd := exec.Command("tsem-bpf", "run", "-o", "/tmp/signal", "--", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if text, _ := os.ReadFile("/tmp/signal"); bytes.Contains(text, []byte(`"process": "sleep"`)) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 128+15 {
		t.Errorf("status %d", status)
	}
}

// openAgain lets a task open a file again and again until the end of the test, which this
// process, a keeper, cannot do in its place: it is not described.
func openAgain(t *testing.T) (file string) {
	t.Helper()
	file = work + "/seen-by-export"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "while :; do read x <"+file+"; sleep 0.1; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return file
}

// TestExportRoot: the whole host but tsem-bpf itself.
func TestExportRoot(t *testing.T) {
	marker := openAgain(t)
	cmd := exec.Command("tsem-bpf", "export", "--root", "-o", "/tmp/host")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an open of a task that is older than the namespace", 2*time.Minute, func() bool {
		text, _ := os.ReadFile("/tmp/host")
		return bytes.Contains(text, []byte(marker))
	})
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	text, err := os.ReadFile("/tmp/host")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(marker)) {
		t.Error("an open of the older task is not among the records")
	}
	if bytes.Contains(text, []byte(`"process": "tsem-bpf"`)) {
		t.Error("tsem-bpf describes itself")
	}
	if !strings.Contains(stderr.String(), "0 refused") {
		t.Error(stderr.String())
	}
}

// TestExportRootOnce: two that describe the whole host would describe each other.
func TestExportRootOnce(t *testing.T) {
	openAgain(t)
	first := exec.Command("tsem-bpf", "export", "--root", "-o", "/tmp/host-1")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Process.Kill() }()
	waitFor(t, "records", 2*time.Minute, func() bool {
		info, err := os.Stat("/tmp/host-1")
		return err == nil && info.Size() > 0
	})
	other := func() *exec.Cmd {
		return exec.Command("tsem-bpf", "export", "--root", "-o", "/tmp/host-2", "--duration", "1ms")
	}
	out, err := other().CombinedOutput()
	if err == nil || !strings.Contains(string(out), loader.ErrHostTaken.Error()) {
		t.Errorf("a second one: %v, %s", err, out)
	}
	if err := first.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	if out, err := other().CombinedOutput(); err != nil {
		t.Errorf("one after that: %v, %s", err, out)
	}
}
