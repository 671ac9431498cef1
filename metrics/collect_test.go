// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// snapshot is that of a host where all is well, with one namespace.
func snapshot() *Snapshot {
	return &Snapshot{
		Status: &loader.Status{ID: "e", Version: "v", Pinned: true, Tier: loader.TierSleep, Memory: 4096, Keepers: []uint32{10, 11}},
		Support: &loader.Support{Kernel: "6.12.1", Hooks: []loader.HookSupport{
			{Name: "file_open", Present: true, Event: true}, {Name: "inode_set_acl"},
		}},
		Runs:   []loader.ProgramStatus{{Name: "file_open", Runs: 5, Time: 1500 * time.Millisecond, Skipped: 2}},
		States: []bpf.Namespace{{Id: 3, Keeper: 10, Magazine: 4 << 20, Reserve: 1 << 20, Share: 32 << 10, Tasks: 2}},
		Boot:   100 * time.Second, Mono: 50 * time.Second,
	}
}

func engineOf(s *Snapshot) prometheus.Collector {
	return NewEngineCollector(func() (*Snapshot, error) { return s, nil })
}

func keeperOf(own Own) prometheus.Collector {
	return NewKeeperCollector("e", 3, func() Own { return own })
}

// TestLint: the names, types and texts are as Prometheus wants them.
func TestLint(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(engineOf(snapshot()), keeperOf(Own{}))
	found, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range found {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// TestAllFamilies: of every family a series is there, with each value of its labels, also if
// nothing has happened.
func TestAllFamilies(t *testing.T) {
	quiet := snapshot()
	for _, hook := range event.Hooks() {
		quiet.States[0].RefusedTypes[hook] = 1 // the only ones that are not there from the beginning
	}
	all := gather(t, engineOf(quiet), keeperOf(Own{}))
	seen := make(map[string]bool)
	for _, s := range all {
		seen[s.name] = true
		for name, value := range s.labels {
			seen[s.name+" "+name+" "+value] = true
		}
	}
	information := []*family{engineInfo, namespaceInfo} // of which one value is true
	for _, f := range families {
		if !seen[f.name] {
			t.Errorf("no series of %s", f.name)
		}
		for _, l := range f.labels {
			for _, value := range l.values {
				if !seen[f.name+" "+l.name+" "+value] && !slices.Contains(information, f) {
					t.Errorf("no series of %s with %s=%s", f.name, l.name, value)
				}
			}
		}
	}
}

// TestEngine: the series of an engine are what the kernel half says.
func TestEngine(t *testing.T) {
	s := snapshot()
	s.States[0].Refused[bpf.RefusedNoBuffer] = 4
	s.States[0].RefusedTypes[85] = 4
	s.States[0].Verdicts[verdict.Late] = 6
	s.States[0].Flags = bpf.NamespaceExternal | bpf.NamespaceEnforcing | bpf.NamespaceSealed
	s.States[0].Beat = uint64(49 * time.Second)
	s.States[0].Shares[0].Claimed, s.States[0].Shares[0].Read = 700, 500
	s.States[0].Shares[2].Claimed = 30
	s.Waits = []verdict.Wait{{Namespace: 3, Since: uint64(98 * time.Second)}, {Namespace: 3, Since: uint64(99 * time.Second)}, {Namespace: 4}}
	for _, expected := range []string{`
# HELP tsem_engine_info ` + engineInfo.help + `
# TYPE tsem_engine_info gauge
tsem_engine_info{engine="e",kernel="6.12.1",tier="sleep",version="v"} 1
`, `
# HELP tsem_events_refused_total ` + eventsRefused.help + `
# TYPE tsem_events_refused_total counter
tsem_events_refused_total{engine="e",namespace="3",reason="describe"} 0
tsem_events_refused_total{engine="e",namespace="3",reason="magazine_full"} 0
tsem_events_refused_total{engine="e",namespace="3",reason="no_buffer"} 4
tsem_events_refused_total{engine="e",namespace="3",reason="orphaned"} 0
`, `
# HELP tsem_events_refused_types_total ` + eventsRefusedTypes.help + `
# TYPE tsem_events_refused_types_total counter
tsem_events_refused_types_total{engine="e",namespace="3",type="capable"} 4
`, `
# HELP tsem_namespace_info ` + namespaceInfo.help + `
# TYPE tsem_namespace_info gauge
tsem_namespace_info{enforcing="true",engine="e",external="true",keeper="10",namespace="3",sealed="true"} 1
`, `
# HELP tsem_namespace_state ` + namespaceState.help + `
# TYPE tsem_namespace_state gauge
tsem_namespace_state{engine="e",namespace="3",state="closed"} 0
tsem_namespace_state{engine="e",namespace="3",state="kept"} 1
tsem_namespace_state{engine="e",namespace="3",state="orphaned"} 0
`, `
# HELP tsem_magazine_unread_bytes ` + magazineUnread.help + `
# TYPE tsem_magazine_unread_bytes gauge
tsem_magazine_unread_bytes{engine="e",namespace="3"} 230
`, `
# HELP tsem_magazine_fullest_share_bytes ` + magazineFullest.help + `
# TYPE tsem_magazine_fullest_share_bytes gauge
tsem_magazine_fullest_share_bytes{engine="e",namespace="3"} 30
`, `
# HELP tsem_tasks_waiting ` + tasksWaiting.help + `
# TYPE tsem_tasks_waiting gauge
tsem_tasks_waiting{engine="e",namespace="3"} 2
`, `
# HELP tsem_longest_wait_seconds ` + longestWait.help + `
# TYPE tsem_longest_wait_seconds gauge
tsem_longest_wait_seconds{engine="e",namespace="3"} 2
`, `
# HELP tsem_heartbeat_age_seconds ` + heartbeatAge.help + `
# TYPE tsem_heartbeat_age_seconds gauge
tsem_heartbeat_age_seconds{engine="e",namespace="3"} 1
`, `
# HELP tsem_program_run_seconds_total ` + programSeconds.help + `
# TYPE tsem_program_run_seconds_total counter
tsem_program_run_seconds_total{engine="e",program="file_open"} 1.5
`} {
		name := strings.Fields(expected)[2]
		if err := testutil.CollectAndCompare(engineOf(s), strings.NewReader(expected), name); err != nil {
			t.Error(err)
		}
	}
	for _, s := range gather(t, engineOf(s)) {
		if s.name == verdicts.name && (s.value == 6) != (s.labels["verdict"] == "late") {
			t.Errorf("%v %v", s.labels, s.value)
		}
	}
}

// TestHooks: a hook that an older kernel does not have under that name is not missing; one that
// is missing, or has lost its link, is shown so.
func TestHooks(t *testing.T) {
	s := snapshot()
	s.Support.Hooks = append(s.Support.Hooks, loader.HookSupport{Name: "key_alloc"}, loader.HookSupport{Name: "task_kill", Present: true})
	s.Status.Missing, s.Status.Detached = []string{"key_alloc"}, []string{"task_kill"}
	expected := `
# HELP tsem_hook_attached ` + hookAttached.help + `
# TYPE tsem_hook_attached gauge
tsem_hook_attached{engine="e",hook="file_open"} 1
tsem_hook_attached{engine="e",hook="key_alloc"} 0
tsem_hook_attached{engine="e",hook="task_kill"} 0
`
	if err := testutil.CollectAndCompare(engineOf(s), strings.NewReader(expected), hookAttached.name); err != nil {
		t.Error(err)
	}
}

// TestSeries: what is not scraped has the same names and values.
func TestSeries(t *testing.T) {
	all, err := snapshot().Series()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(gather(t, engineOf(snapshot()))); len(all) != n {
		t.Errorf("%d series, not %d", len(all), n)
	}
	for name, want := range map[string]float64{
		`tsem_tasks{engine="e",namespace="3"}`:                    2,
		`tsem_program_runs_total{engine="e",program="file_open"}`: 5,
		`tsem_problems{engine="e",problem="full"}`:                0,
	} {
		if got, there := all[name]; !there || got != want {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
}

// TestSeriesOf: the series of a namespace are all that have its label, without it.
func TestSeriesOf(t *testing.T) {
	all, err := snapshot().Series()
	if err != nil {
		t.Fatal(err)
	}
	of, err := snapshot().SeriesOf(3)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for name := range all {
		if strings.Contains(name, `namespace="3"`) {
			n++
		}
	}
	if got, there := of["tsem_tasks"]; !there || got != 2 || len(of) != n {
		t.Errorf("%d series, not %d; tsem_tasks is %v", len(of), n, got)
	}
	if _, there := of[`tsem_events_refused_total{reason="no_buffer"}`]; !there {
		t.Errorf("no series of a reason: %v", of)
	}
	if none, err := snapshot().SeriesOf(4711); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

// TestUnreadable: what cannot be read makes the scrape fail; nothing is shown as 0.
func TestUnreadable(t *testing.T) {
	cause := errors.New("no")
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewEngineCollector(func() (*Snapshot, error) { return nil, cause }))
	if _, err := registry.Gather(); err == nil || !strings.Contains(err.Error(), cause.Error()) {
		t.Errorf("the error is %v", err)
	}
}

// TestEveryCounter: every number of the account has a series, or stands here with the reason
// why it has none.
func TestEveryCounter(t *testing.T) {
	const setting = "a setting, which does not change"
	without := map[string]string{
		"Flags": setting, "Digest": setting, "Wait": setting, "Deadline": setting, "Events[0]": setting, "Events[1]": setting,
		"Deny[0]": setting, "Deny[1]": setting, "Passing": setting,
		"Beat":         "shown as an age",
		"Awake":        "changes many times between two scrapes",
		"Orchestrator": "a process id",
		"TaskKey":      setting, "TmaKey": setting,
		"Claimed":     "the end of the ring: what is unread stands in the shares",
		"Shares":      "shown as what is unread",
		"Verdicts[0]": "none is no verdict",
	}
	var ns bpf.Namespace
	for v := bpf.VerdictMax; v < len(ns.Verdicts); v++ {
		without[fmt.Sprintf("Verdicts[%d]", v)] = "there is no such verdict"
	}
	noType := func(counts string) {
		for hook := range bpf.HookMax {
			if !slices.Contains(event.Hooks(), event.Hook(hook)) {
				without[fmt.Sprintf("%s[%d]", counts, hook)] = "no type of event"
			}
		}
	}
	noType("RefusedTypes")
	numbers := number(reflect.ValueOf(&ns).Elem(), without)
	ns.Flags, ns.Shares = 0, snapshot().States[0].Shares
	s := snapshot()
	s.States = []bpf.Namespace{ns}
	compare(t, "bpf.Namespace", numbers, without, gather(t, engineOf(s)))

	without = map[string]string{
		"Totals.Balance.Raised":  "shown of all namespaces: tsem_events_raised_total",
		"Totals.Balance.Refused": "shown of all namespaces: tsem_events_refused_total",
		"Totals.Balance.Missing": "which numbers did not come, in the account at the end",
		"Totals.Cut":             "shown of all namespaces", "Totals.Waited": "shown of all namespaces", "Totals.Tasks": "shown of all namespaces",
		"Totals.TasksLost": "shown of all namespaces", "Totals.CreationsLost": "shown of all namespaces",
		"Totals.DigestsIMA": "shown of all namespaces", "Totals.DigestsCached": "shown of all namespaces",
		"Totals.Inner": "shown of all namespaces", "Totals.Volatile": "shown of all namespaces", "Totals.Logged": "shown of all namespaces",
		"Totals.Denied": "shown of all namespaces", "Totals.LateReleases": "shown of all namespaces",
		"Gate.Asked":        "the sum of Immediate and Slept",
		"Decisions.Buckets": "the buckets of a histogram (TestDecisions)",
		"Decisions.Sum":     "the sum of a histogram (TestDecisions)",
	}
	for v := range bpf.VerdictMax {
		without[fmt.Sprintf("Totals.Verdicts[%d]", v)] = "shown of all namespaces"
	}
	for hook := range bpf.HookMax {
		without[fmt.Sprintf("Totals.RefusedTypes[%d]", hook)] = "shown of all namespaces: tsem_events_refused_types_total"
	}
	noType("Totals.Types")
	var own Own
	numbers = number(reflect.ValueOf(&own).Elem(), without)
	own.Stuck *= time.Duration(time.Second)
	compare(t, "Own", numbers, without, gather(t, keeperOf(own)))
}

// TestConditions: each thing that is so or not has its own series.
func TestConditions(t *testing.T) {
	for name, own := range map[string]Own{
		keeperHeld.name:         {Totals: namespace.Totals{Held: true}},
		keeperOutputFailed.name: {OutputFailed: true},
		keeperAgentFailed.name:  {AgentFailed: true},
	} {
		for _, s := range gather(t, keeperOf(own)) {
			if (s.value != 0) != (s.name == name) {
				t.Errorf("%s: %s is %v", name, s.name, s.value)
			}
		}
	}
}

// TestDecisions: what took a while is in the classic and in the native buckets that end after it.
func TestDecisions(t *testing.T) {
	var own Own
	own.Decisions.Buckets[-namespace.LeastDecision] = 3   // no more than a second
	own.Decisions.Buckets[-namespace.LeastDecision-3] = 2 // and than an eighth
	own.Decisions.Sum = 2500 * time.Millisecond
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(keeperOf(own))
	found, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(found, func(f *dto.MetricFamily) bool { return f.GetName() == keeperDecisions.name })
	if i < 0 {
		t.Fatal("no histogram")
	}
	h := found[i].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 5 || h.GetSampleSum() != 2.5 || h.GetSchema() != 0 {
		t.Errorf("%v", h)
	}
	for _, b := range h.GetBucket() {
		want := uint64(0)
		switch {
		case b.GetUpperBound() >= 1:
			want = 5
		case b.GetUpperBound() >= 0.125:
			want = 2
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d took no longer than %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if len(h.GetBucket()) != namespace.DecisionBuckets {
		t.Errorf("%d buckets", len(h.GetBucket()))
	}
	// Of schema 0 bucket 0 ends at 1 and bucket -3 at an eighth.
	var native []string
	index, count := int32(0), int64(0)
	deltas := h.GetPositiveDelta()
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count, deltas = count+deltas[0], deltas[1:]
			if count > 0 {
				native = append(native, fmt.Sprintf("%d:%d", index, count))
			}
			index++
		}
	}
	if got := strings.Join(native, " "); got != "-3:2 0:3" {
		t.Errorf("native buckets %s", got)
	}
}

// number gives every number in a structure a value of its own, and returns the values by the
// place of the number. What is no number has to stand in without.
func number(v reflect.Value, without map[string]string) map[string]float64 {
	numbers := make(map[string]float64)
	var next uint64 = 1000
	var walk func(v reflect.Value, place string)
	walk = func(v reflect.Value, place string) {
		next++
		numbers[place] = float64(next)
		switch {
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
			numbers[place] = 1
		case v.CanUint():
			v.SetUint(next)
		case v.CanInt():
			v.SetInt(int64(next))
		case v.Kind() == reflect.Array && without[place] == "":
			delete(numbers, place)
			for i := range v.Len() {
				walk(v.Index(i), fmt.Sprintf("%s[%d]", place, i))
			}
		case v.Kind() == reflect.Struct:
			delete(numbers, place)
			for i := range v.NumField() {
				if name := v.Type().Field(i).Name; name != "_" {
					walk(v.Field(i), strings.TrimPrefix(place+"."+name, "."))
				}
			}
		}
	}
	walk(v, "")
	return numbers
}

func compare(t *testing.T, what string, numbers map[string]float64, without map[string]string, all []series) {
	t.Helper()
	for place, value := range numbers {
		found := slices.ContainsFunc(all, func(s series) bool {
			if value == 1 {
				return s.value == 1 && strings.HasPrefix(s.name, "tsem_keeper_")
			}
			return s.value == value || slices.Contains(s.texts(), fmt.Sprint(value))
		})
		if reason, excepted := without[place]; found == excepted {
			t.Errorf("%s: %s has a series: %v; why it should not: %q", what, place, found, reason)
		}
	}
	for place := range without {
		if _, there := numbers[place]; !there {
			t.Errorf("%s has no %s", what, place)
		}
	}
}

// series is one line of what is scraped.
type series struct {
	name   string
	labels map[string]string
	value  float64
}

func (s series) texts() (all []string) {
	for _, value := range s.labels {
		all = append(all, value)
	}
	return all
}

func gather(t *testing.T, collectors ...prometheus.Collector) (all []series) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	found, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		for _, m := range f.GetMetric() {
			s := series{f.GetName(), make(map[string]string), m.GetGauge().GetValue() + m.GetCounter().GetValue()}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
			}
			all = append(all, s)
		}
	}
	return all
}
