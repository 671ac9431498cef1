// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

// Package vmtest has the tests that need a kernel. They run inside the VM only:
//
//	make vm-test-6.12
//	go test -tags vmtest -exec "$PWD/vmtest/run -k 6.12 --" ./vmtest -run TestEvents
//
// (the second with GOTMPDIR in the checkout). The kernel half is loaded once for all
// tests of a run. A test that needs a task in a namespace names an actor: the test
// binary starts itself again as that actor (see actor_test.go). The kernel half is pinned, so
// that every tsem-bpf that a test runs shares it.
package vmtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/metrics"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

var (
	// engine is the kernel half for the tests of the packages.
	engine *loader.Engine
	// work is an ext4 filesystem of which everything is known.
	work = "/mnt/tsem"
)

const (
	workUUID  = "0123456789abcdef0123456789abcdef"
	ext4Magic = 0xef53
	// A smaller one, for actors that mount.
	otherImage = "/run/other"
	otherUUID  = "00112233445566778899aabbccddeeff"
)

// hyphened is a UUID as mkfs wants it.
func hyphened(uuid string) string {
	return uuid[:8] + "-" + uuid[8:12] + "-" + uuid[12:16] + "-" + uuid[16:20] + "-" + uuid[20:]
}

func TestMain(m *testing.M) {
	namespace.Main()
	if labor := os.Getenv("TSEM_LABOR"); labor != "" {
		laborer(labor)
		return
	}
	if name := os.Getenv("TSEM_ACTOR"); name != "" {
		actor(name)
		return
	}
	if err := insideVM(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := makeWork(); err != nil {
		fmt.Fprintln(os.Stderr, "work filesystem:", err)
		os.Exit(1)
	}
	var err error
	if engine, err = loader.Open(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := engine.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// insideVM keeps the programs off the kernel of whoever runs go test by hand. Only
// vmtest/run gives a machine ports of these names, its own as well as one of virtme-ng.
func insideVM() error {
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, port := range ports {
		if text, err := os.ReadFile(port); err == nil && strings.HasPrefix(string(text), "tsem.") {
			return nil
		}
	}
	return errors.New(`these tests load BPF programs and run in the VM only: make vm-test`)
}

// makeWork makes and mounts the ext4 filesystem, and copies this binary and tsem-bpf
// there, where every user can execute them.
func makeWork() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := exec.LookPath("tsem-bpf")
	if err != nil {
		return err
	}
	image := "/run/ext4"
	// Where they are built in there may be no modules to look among; the mount tells.
	_ = exec.Command("modprobe", "-a", "loop", "ext4").Run()
	for _, words := range [][]string{
		{"truncate", "-s", "200M", image},
		{"mkfs.ext4", "-q", "-U", hyphened(workUUID), image},
		{"truncate", "-s", "8M", otherImage},
		{"mkfs.ext4", "-q", "-U", hyphened(otherUUID), otherImage},
		{"mkdir", "-p", work},
		{"mount", "-o", "loop", image, work},
		{"cp", self, work + "/actor"},
		{"cp", program, work + "/tsem-bpf"},
	} {
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s (CONFIG_EXT4_FS and CONFIG_BLK_DEV_LOOP are needed)", strings.Join(words, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// object is a decoded JSON object; all values are strings or objects.
type object = map[string]any

// An observation is what came out of one actor's life in a namespace.
type observation struct {
	lines  []string
	all    []object // every record
	events []object // those between the actor's two marks
	facts  facts
	totals namespace.Totals
	exit   error
}

// observe runs an actor in a namespace and returns its records. That the account
// balances, that every number came once, and that every line is valid is checked for
// every test here.
func observe(t *testing.T, name string, config namespace.Config, args ...string) *observation {
	t.Helper()
	cmd := actorCommand(name, args...)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	o := runIn(t, config, cmd)
	if o.exit != nil {
		t.Fatalf("actor %s: %v", name, o.exit)
	}
	if err := json.Unmarshal(stdout.Bytes(), &o.facts); err != nil {
		t.Fatalf("actor %s said %q: %v", name, stdout.String(), err)
	}
	o.events = between(t, o.all, o.facts.PID)
	return o
}

func actorCommand(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(work+"/actor", args...)
	// Without the names that Go gives to its memory by prctl.
	cmd.Env = append(os.Environ(), "TSEM_ACTOR="+name, "GOMAXPROCS=1", "GODEBUG=decoratemappings=0")
	return cmd
}

// runIn runs a command in a namespace of its own until it ends.
func runIn(t *testing.T, config namespace.Config, cmd *exec.Cmd) *observation {
	t.Helper()
	n, err := namespace.New(engine, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	var out bytes.Buffer
	exported := make(chan error, 1)
	go func() { exported <- n.Export(context.Background(), event.Current, &out) }()
	if err := n.Start(cmd); err != nil {
		n.Shut()
		<-exported
		t.Fatal(err)
	}
	o := new(observation)
	o.exit = cmd.Wait()
	n.Shut()
	if err := <-exported; err != nil {
		t.Fatal(err)
	}
	o.totals = completeAccount(t, engine, n)
	o.decode(t, out.String())
	var types [len(o.totals.Types)]uint64
	for _, r := range o.all {
		name := cmp.Or(at(r, "log.event"), at(r, "event.type")) // a log record names it there
		hooks, err := event.ParseHooks(name.(string))
		check(t, err)
		types[hooks[0]]++
	}
	if types != o.totals.Types {
		t.Errorf("records by type: %v, counted: %v", types, o.totals.Types)
	}
	return o
}

// completeAccount returns the account of a namespace that has ended and is not closed, in which every
// event has to be written.
func completeAccount(t *testing.T, e *loader.Engine, n *namespace.Namespace) namespace.Totals {
	t.Helper()
	totals := account(t, e, n)
	if !totals.Complete() {
		t.Errorf("not complete: %+v", totals)
	}
	return totals
}

// account returns that of a namespace that has ended and is not closed. What /metrics shows of it has to
// be the same: that is read from the maps by way of the engine, as another process does.
func account(t *testing.T, e *loader.Engine, n *namespace.Namespace) namespace.Totals {
	t.Helper()
	totals := n.Totals()
	want := map[string]uint64{
		"events_raised": totals.Balance.Raised, "events_delivered": totals.Balance.Delivered, "events_cut": totals.Cut,
		"events_delayed": totals.Waited, "events_untrusted": totals.Logged, "events_denied": totals.Denied,
		"inner_calls": totals.Inner, "late_releases": totals.LateReleases, "tasks_lost": totals.TasksLost, "creations_lost": totals.CreationsLost,
	}
	labeled := func(name, label, value string, count uint64) {
		want[fmt.Sprintf("%s %s=%q", name, label, value)] = count
	}
	for _, r := range totals.Balance.Refused {
		labeled("events_refused", "reason", r.Name, r.Count)
	}
	for v := verdict.Trusted; int(v) < len(totals.Verdicts); v++ {
		labeled("verdicts", "verdict", v.String(), totals.Verdicts[v])
	}
	labeled("digests", "source", "ima", totals.DigestsIMA)
	labeled("digests", "source", "known", totals.DigestsCached)
	labeled("digests", "source", "none", totals.Volatile)

	series, err := (&metrics.Snapshot{Status: new(loader.Status), Support: e.Support(), States: e.States()}).Series()
	check(t, err)
	for what, count := range want {
		name, labels, _ := strings.Cut(what, " ")
		name = fmt.Sprintf("tsem_%s_total{%s}", name, strings.TrimSuffix(fmt.Sprintf(`engine="",namespace="%d",%s`, n.ID(), labels), ","))
		if shown, ok := series[name]; !ok || shown != float64(count) {
			t.Errorf("%s is shown as %v (%t), and is %d in the account", name, shown, ok, count)
		}
	}
	return totals
}

// decode reads the records, and puts them in the order of their numbers.
func (o *observation) decode(t *testing.T, text string) {
	t.Helper()
	type numbered struct {
		number uint64
		line   string
		record object
	}
	var records []numbered
	for line := range strings.Lines(text) {
		var record object
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if at(record, "export.type") == "aggregate" {
			continue // no event
		}
		number, err := strconv.ParseUint(at(record, "event.number").(string), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, numbered{number, line, record})
	}
	slices.SortFunc(records, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	for i, r := range records {
		if r.number != uint64(i+1) {
			t.Fatalf("numbers are not 1 to %d: %d is missing", len(records), i+1)
		}
		o.lines = append(o.lines, r.line)
		o.all = append(o.all, r.record)
	}
	if uint64(len(records)) != o.totals.Balance.Delivered {
		t.Fatalf("%d records, %d delivered", len(records), o.totals.Balance.Delivered)
	}
}

// at returns what stands at a path like "event.type" in a record; nil if nothing.
func at(record object, path string) any {
	var here any = record
	for key := range strings.SplitSeq(path, ".") {
		o, ok := here.(object)
		if !ok {
			return nil
		}
		here = o[key]
	}
	return here
}

// markSignal makes the marks: signal 0 of the actor to itself is a task_kill event.
const markSignal = syscall.Signal(0)

// between returns the records of a thread between its two marks. Without capable
// events: the kernel asks for capabilities as it likes, and differently in each
// version; TestCapable has its own.
func between(t *testing.T, all []object, pid int) []object {
	t.Helper()
	var marks int
	var found []object
	for _, r := range all {
		if at(r, "event.pid") != strconv.Itoa(pid) {
			continue
		}
		kind := at(r, "event.type").(string)
		if kind == "task_kill" && at(r, "task_kill.sig") == "0" && at(r, "task_kill.cross_ns") == "0" {
			marks++
			continue
		}
		if marks == 1 && kind != "capable" {
			found = append(found, r)
		}
	}
	if marks != 2 {
		t.Fatalf("%d marks of pid %d in %d records", marks, pid, len(all))
	}
	return found
}

func bootTime() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	return uint64(now.Nano())
}
