// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// prometheusFolder is where make leaves the programs of Debian's package.
const prometheusFolder = "../build/prometheus/usr/bin/"

// needPrometheus ends a test where nobody has fetched Prometheus. The machines of
// vmtest/kernels.list all run on hosts where make does that, so that there it is a failure.
func needPrometheus(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(prometheusFolder + "prometheus"); err == nil {
		return
	}
	const lacking = "Prometheus is not there: make build/prometheus fetches it"
	if os.Getenv("TSEM_LISTED_KERNEL") != "" {
		t.Fatal(lacking)
	}
	t.Skip(lacking)
}

// A prometheus is a running server that scrapes with the job, and judges by the rules, of
// deploy/prometheus.
type prometheus struct {
	address string
}

// startPrometheus starts one that scrapes other addresses than the job names, and more often: every 5 s,
// which is also how long a tsem-bpf may take to answer. An alert fires when the next evaluation finds it
// again, where the rule has a time for it, and not a minute or more later. The windows of the rules stay.
func startPrometheus(t *testing.T, targets []string) *prometheus {
	t.Helper()
	const deployed = "../deploy/prometheus/"
	dir := t.TempDir()
	adapt := func(file, pattern, replacement string) {
		text, err := os.ReadFile(deployed + file)
		check(t, err)
		adapted := regexp.MustCompile(pattern).ReplaceAllString(string(text), replacement)
		if adapted == string(text) {
			t.Fatalf("%s: nothing matches %s", file, pattern)
		}
		check(t, os.WriteFile(filepath.Join(dir, file), []byte(adapted), 0o600))
	}
	adapt("tsem.rules.yml", `\bfor: \d+m\b`, "for: 1s")
	adapt("scrape.yml", `(?s)(scrape_configs:.*)localhost:9560`,
		"global: {scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 1s}\n${1}"+strings.Join(targets, "\n          - "))

	p := &prometheus{freeAddress(t)}
	cmd := exec.Command(prometheusFolder+"prometheus", "--config.file", filepath.Join(dir, "scrape.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", p.address, "--log.level", "warn")
	var said bytes.Buffer
	cmd.Stderr = &said
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if said.Len() > 0 {
			t.Logf("Prometheus said:\n%s", said.String())
		}
	})
	waitFor(t, "Prometheus", 5*time.Minute, func() bool {
		answer, err := http.Get("http://" + p.address + "/-/ready")
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
	return p
}

// ask decodes the data of an answer of the HTTP API.
func (p *prometheus) ask(t *testing.T, path string, data any) {
	t.Helper()
	answer, err := http.Get("http://" + p.address + "/api/v1/" + path)
	check(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	check(t, err)
	if err := json.Unmarshal(text, &struct{ Data any }{data}); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v: %s", path, answer.StatusCode, err, text)
	}
}

type labels map[string]string

// query returns the labels of what an expression finds now.
func (p *prometheus) query(t *testing.T, expression string) (found []labels) {
	t.Helper()
	var data struct{ Result []struct{ Metric labels } }
	p.ask(t, "query?query="+url.QueryEscape(expression), &data)
	for _, r := range data.Result {
		found = append(found, r.Metric)
	}
	return found
}

// A rule is one of an alert.
type rule struct {
	Name           string
	State          string // inactive, pending, firing
	Health         string // ok, if it could be evaluated
	LastError      string
	LastEvaluation time.Time
	Alerts         []struct {
		State  string
		Labels labels
	}
}

func (p *prometheus) rules(t *testing.T) []rule {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	p.ask(t, "rules?type=alert", &data)
	if len(data.Groups) != 1 {
		t.Fatalf("%d groups of rules", len(data.Groups))
	}
	return data.Groups[0].Rules
}

// An alarm is an alert that has to fire, with some of its labels.
type alarm struct {
	name   string
	labels labels
}

// fires says whether a rule gives an alarm.
func (r *rule) fires(a alarm) bool {
	for _, alert := range r.Alerts {
		same := r.Name == a.name && alert.State == "firing"
		for name, value := range a.labels {
			same = same && alert.Labels[name] == value
		}
		if same {
			return true
		}
	}
	return false
}

// unstaged is the alert that nothing here brings about, because the programs of hooks are skipped on kernels of tier
// export alone, and the list has none. make alert-test has it.
var unstaged = []string{"TsemProgramsSkipped"}

// unstagedWithoutWaits are those of waits, where no event can wait.
var unstagedWithoutWaits = []string{"TsemVerdictsMissing", "TsemWaitIsLong", "TsemAgentFailed"}

// A faulty is a tsem-bpf that is well until something is done to it.
type faulty struct {
	*ordered
	fault  func()
	alarms func(namespace labels) []alarm // that this has to give
}

// startFaulty starts one whose CMD opens a file with a long name as often as it takes to fill a magazine, and
// more, but not before it is told to; then it rests again.
func startFaulty(t *testing.T, records string, flags ...string) *faulty {
	t.Helper()
	// An orphan says of each open that it was refused, where nobody reads any more: it would end by SIGPIPE at the first one.
	script := "exec 2>&-; i=0; while [ $i -lt 3000 ]; do read x <" + longName(t) + "; i=$((i+1)); done; read end <&3"
	if records == "" {
		records = filepath.Join(t.TempDir(), "events.json")
	}
	return &faulty{ordered: startOrdered(t, script, records, flags...)}
}

// startAgent starts one with an agent of its own, and returns how that is sent a signal.
func startAgent(t *testing.T, flags ...string) (f *faulty, send func(unix.Signal)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pid")
	agent := agentScript(t, "echo $$ >"+file+"; exec ../examples/distrust-shadow.py")
	f = startFaulty(t, "", append(flags, "--external", "--tma", agent)...)
	text, err := os.ReadFile(file)
	check(t, err)
	pid := number(t, strings.TrimSpace(string(text)), 0)
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) }) // also one that is stopped
	return f, func(sent unix.Signal) { check(t, unix.Kill(pid, sent)) }
}

// putForeign puts a record into a magazine that is none of the kernel half, by a program of its own.
func putForeign(t *testing.T, magazine *ebpf.Map) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Syscall, Flags: unix.BPF_F_SLEEPABLE, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, -1),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, magazine.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.Mov.Imm(asm.R3, 8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnRingbufOutput.Call(),
			asm.Return(),
		},
	})
	check(t, err)
	defer program.Close()
	if status, err := program.Run(&ebpf.RunOptions{}); err != nil || status != 0 {
		t.Fatalf("status %d, %v", status, err)
	}
}

// with returns labels with one more.
func (l labels) with(name, value string) labels {
	more := labels{name: value}
	for name, value := range l {
		more[name] = value
	}
	return more
}

// faults starts all that can be staged on this kernel.
func faults(t *testing.T) (all []*faulty) {
	t.Helper()
	add := func(f *faulty, fault func(), alarms func(namespace labels) []alarm) {
		f.fault, f.alarms = fault, alarms
		all = append(all, f)
	}
	notScraped := func(f *faulty) alarm { return alarm{"TsemNotScraped", labels{"instance": f.address}} }

	// Nobody reads the magazine, and no event waits for room.
	unread := startFaulty(t, "", "--wait", "1ms")
	add(unread, func() {
		check(t, unread.Process.Signal(unix.SIGSTOP))
		unread.order(t)
	}, func(namespace labels) []alarm {
		return []alarm{
			notScraped(unread), {"TsemProblem", labels{"problem": "full"}}, {"TsemMagazineFills", namespace},
			{"TsemEventsRefused", namespace.with("reason", "magazine_full")},
		}
	})

	// Nobody reads the output, in which what CMD does before it rests has room.
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	check(t, err)
	t.Cleanup(func() { reader.Close() })
	_, err = unix.FcntlInt(reader.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	check(t, err)
	stuck := startFaulty(t, fifo, "--wait", "5m")
	add(stuck, func() { stuck.order(t) }, func(namespace labels) []alarm {
		return []alarm{{"TsemOutputStuck", namespace}}
	})

	// The disk of the output has room for what CMD does before it is told to, and not for the rest.
	full := startFaulty(t, filepath.Join(smallDisk(t, "1m"), "events.json"))
	add(full, func() { full.order(t) }, func(namespace labels) []alarm {
		return []alarm{{"TsemOutputFailed", namespace}}
	})

	// Where there is no room for the state of one more task, one is born; and somebody else puts a record
	// into the magazine.
	crowded := startOrdered(t, "(:); read end <&3", filepath.Join(t.TempDir(), "events.json"))
	add(&faulty{ordered: crowded}, func() {
		states := engine.Map("tasks")
		var err error
		for address := uint64(1); err == nil; address++ { // of no task
			err = states.Put(address, make([]byte, states.ValueSize()))
		}
		if !errors.Is(err, unix.E2BIG) {
			t.Fatal(err)
		}
		crowded.order(t)
		id, err := strconv.ParseUint(waitForEvent(t, crowded.records, "sh", 0, "event.context"), 10, 64)
		check(t, err)
		_, index := kernelState(t, id)
		putForeign(t, magazineAt(t, index))
	}, func(namespace labels) []alarm {
		return []alarm{{"TsemTasksNotModeled", namespace}, {"TsemRecordsUnreadable", namespace}}
	})
	if !engine.Support().Tier.Waits() {
		return all
	}

	orphaned := startFaulty(t, "", "--external", "--enforce", "--deadline", "2m")
	add(orphaned, func() {
		check(t, orphaned.Process.Kill())
		_ = orphaned.Wait()
		orphaned.order(t)
	}, func(namespace labels) []alarm {
		return []alarm{notScraped(orphaned), {"TsemProblem", labels{"problem": "orphaned"}}, {"TsemEventsRefused", namespace.with("reason", "orphaned")}}
	})

	// Two scrapes come in the time that an event waits, so that one of them finds it longer than 5 s there.
	silent, send := startAgent(t, "--deadline", "11s")
	add(silent, func() {
		send(unix.SIGSTOP)
		silent.order(t)
	}, func(namespace labels) []alarm {
		return []alarm{{"TsemWaitIsLong", namespace}, {"TsemVerdictsMissing", namespace.with("verdict", "late")}}
	})

	ended, end := startAgent(t, "--deadline", "2m")
	add(ended, func() {
		end(unix.SIGKILL)
		ended.order(t)
	}, func(namespace labels) []alarm {
		return []alarm{{"TsemAgentFailed", namespace}, {"TsemVerdictsMissing", namespace.with("verdict", "closed")}}
	})

	if engine.Gate() != nil { // else nobody looks for signs of life
		stopped := startFaulty(t, "", "--external")
		add(stopped, func() { check(t, stopped.Process.Signal(unix.SIGSTOP)) }, func(labels) []alarm {
			return []alarm{notScraped(stopped), {"TsemProblem", labels{"problem": "silent"}}}
		})
	}
	return all
}

// TestPrometheus: a real Prometheus takes what a tsem-bpf shows, raises no alert while all is well, and
// the alert of each fault that can be staged.
func TestPrometheus(t *testing.T) {
	needPrometheus(t)
	if missing := engine.Missing(); len(missing) > 0 {
		lacks(t, "hooks, which is an alert: "+strings.Join(missing, " "))
	}
	// Installed to stay, so that no process but the bpffs holds the links, of which one will be removed.
	unload(t)
	says(t, 0, "", "engine", "install")
	reopen(t)
	t.Cleanup(func() { // after those of all that is started here
		check(t, engine.Close())
		waitFor(t, "the end of what was staged", 2*time.Minute, func() bool { return exec.Command("tsem-bpf", "engine", "remove").Run() == nil })
		reopen(t)
	})

	well := startFaulty(t, "")
	lint := exec.Command(prometheusFolder+"promtool", "check", "metrics")
	_, text := well.ask(t, "/metrics")
	lint.Stdin = strings.NewReader(text)
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v: %s", err, out)
	}

	staged := faults(t)
	all := append(staged, well)
	var targets []string
	for _, f := range all {
		targets = append(targets, f.address)
	}
	p := startPrometheus(t, targets)
	for _, expression := range []string{`up{job="tsem-bpf"} == 1`, "tsem_keeper_events_written_total > 0", "count by (instance) (tsem_events_raised_total > 0)"} {
		waitFor(t, fmt.Sprintf("%s for %d targets", expression, len(all)), 5*time.Minute, func() bool {
			time.Sleep(time.Second)
			return len(p.query(t, expression)) == len(all)
		})
	}
	seen := time.Now()
	waitFor(t, "an evaluation of all rules", 5*time.Minute, func() bool {
		time.Sleep(time.Second)
		return !slices.ContainsFunc(p.rules(t), func(r rule) bool { return r.LastEvaluation.Before(seen) })
	})
	for _, r := range p.rules(t) {
		if r.Health != "ok" || r.State != "inactive" {
			t.Errorf("%s is %s while all is well, and its rule %s: %s: %v", r.Name, r.State, r.Health, r.LastError, r.Alerts)
		}
	}

	missing := []alarm{{"TsemProblem", labels{"problem": "detached"}}, {"TsemHookNotAttached", labels{"hook": "key_alloc"}}}
	for _, f := range staged {
		kept := p.query(t, fmt.Sprintf(`group by (namespace) (tsem_namespace_info{keeper="%d"})`, f.Process.Pid))
		if len(kept) != 1 {
			t.Fatalf("the process %d keeps %v", f.Process.Pid, kept)
		}
		missing = append(missing, f.alarms(kept[0])...)
	}
	names := slices.Clone(unstaged)
	if !engine.Support().Tier.Waits() {
		names = append(names, unstagedWithoutWaits...)
	}
	for _, a := range missing {
		if slices.Contains(names, a.name) {
			t.Errorf("%s is staged, and said not to be", a.name)
		}
	}
	for _, r := range p.rules(t) {
		if !slices.Contains(names, r.Name) && !slices.ContainsFunc(missing, func(a alarm) bool { return a.name == r.Name }) {
			t.Errorf("%s is neither staged nor said not to be", r.Name)
		}
	}

	check(t, os.Remove(pinned+"/link_key_alloc"))
	for _, f := range staged {
		f.fault()
	}
	begin := time.Now()
	defer func() {
		for _, a := range missing {
			t.Errorf("%s %v did not fire", a.name, a.labels)
		}
	}()
	waitFor(t, "alerts", 10*time.Minute, func() bool {
		time.Sleep(time.Second)
		rules := p.rules(t)
		missing = slices.DeleteFunc(missing, func(a alarm) bool {
			fires := slices.ContainsFunc(rules, func(r rule) bool { return r.fires(a) })
			if fires {
				t.Logf("after %v: %s %v", time.Since(begin).Round(time.Second), a.name, a.labels)
			}
			return fires
		})
		return len(missing) == 0
	})
}
