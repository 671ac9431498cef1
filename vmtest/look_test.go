// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// needLookout ends a test where nobody can look while somebody else runs.
func needLookout(t *testing.T) {
	t.Helper()
	needVerdicts(t)
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("there is one CPU")
	}
	check(t, os.WriteFile(held, nil, 0o644))
}

// TestInTime: while tsem-bpf is awake the verdict about an event of a hook that cannot sleep
// is there before the hook returns, and then the event itself is refused. All others are
// counted.
func TestInTime(t *testing.T) {
	needLookout(t)
	for name := range early {
		t.Run(name, func(t *testing.T) { testInTime(t, name) })
	}
}

func testInTime(t *testing.T, name string) {
	const events = 100
	hook, _ := event.Lookup(name)
	config := namespace.Config{Enforce: true, Judge: func(r *event.Record) verdict.Verdict {
		if r.Hook() == hook {
			return verdict.Untrusted
		}
		return verdict.Trusted
	}}
	// How many are in time is a matter of how busy the machine is: 1 of 100 has been seen. None at
	// all for minutes is a defect.
	for begin := time.Now(); time.Since(begin) < 5*time.Minute; {
		l := startLabor(t, config, fmt.Sprintf("early %d %s", events, name), 1)
		refused, err := strconv.ParseUint(l.next(t), 10, 64)
		check(t, err)
		l.end(t)
		totals := l.n.Totals()
		// One whose verdict comes after its look, and before it has decided itself, is refused for its
		// task, which is untrusted from then on.
		if got := totals.Verdicts[verdict.Untrusted]; got > refused || refused > totals.Denied {
			t.Fatalf("%d were refused, %d found the verdict, %d were denied", refused, got, totals.Denied)
		}
		if late := totals.Verdicts[verdict.Unwaited]; late+refused < events {
			t.Fatalf("%d of %d were refused, and only %d events were too early for their verdict", refused, events, late)
		}
		fmt.Printf("in time: %d of %d verdicts about %s\n", refused, events, name)
		if refused > 0 {
			return
		}
	}
	t.Error("no verdict was in time")
}

// TestLookInVain: all CPUs look at once for verdicts of keepers that say they are awake, and
// never answer. Each look ends, so does each event, and who has looked takes the mark away.
func TestLookInVain(t *testing.T) {
	needLookout(t)
	const signals = 100
	kill, _ := event.Lookup("task_kill")
	config := namespace.Config{Enforce: true, NoLook: true, Judge: func(r *event.Record) verdict.Verdict {
		if r.Hook() == kill {
			return verdict.None
		}
		return verdict.Trusted
	}}
	var all []*labored
	var marks []func() int
	for range runtime.NumCPU() {
		l := startLabor(t, config, fmt.Sprintf("early %d task_kill", signals), 1)
		all = append(all, l)
		marks = append(marks, markAwake(t, l.n))
	}
	for _, l := range all {
		if said := l.next(t); said != "0" {
			t.Errorf("%s signals were refused", said)
		}
	}
	for _, end := range marks {
		if end() < 2 {
			t.Error("nobody has looked, or taken the mark away")
		}
	}
	for _, l := range all {
		l.end(t)
		if got := l.n.Totals().Verdicts[verdict.Unwaited]; got < signals {
			t.Errorf("%d events without a verdict", got)
		}
	}
}

// markAwake says again and again that the keeper of a namespace is awake, until end, which returns how often the mark was gone.
func markAwake(t *testing.T, n *namespace.Namespace) (end func() int) {
	t.Helper()
	state, _ := kernelState(t, n.ID())
	var over atomic.Bool
	marked := make(chan int)
	go func() {
		marks := 0
		for !over.Load() {
			if atomic.SwapUint32(&state.Awake, 1) == 0 {
				marks++
			}
			runtime.Gosched()
		}
		marked <- marks
	}()
	return func() int {
		over.Store(true)
		return <-marked
	}
}

// TestLookCost measures what hooks that cannot sleep cost where their tasks look for the verdict before they go on: beside the same
// without looking, where somebody answers at once, and where nobody does, so that each look is as long as one may be; and how many of
// the verdicts are there before the hook returns.
func TestLookCost(t *testing.T) {
	if os.Getenv("TSEM_EXACT") != "" || os.Getenv("TSEM_ROUNDS") == "" {
		t.Skip("make gate-cost runs this by time")
	}
	needLookout(t)
	folder(t, "asks")
	rounds, events := number(t, os.Getenv("TSEM_ROUNDS"), 3), number(t, os.Getenv("TSEM_OPENS"), 200)
	for name := range early {
		t.Run(name, func(t *testing.T) { testLookCost(t, name, rounds, events) })
	}
}

func testLookCost(t *testing.T, name string, rounds, events int) {
	t.Helper()
	t.Setenv("TSEM_EARLY", name)
	hook, _ := event.Lookup(name)
	// Of all events of hooks that cannot sleep: what is done here raises others beside that of its name.
	var asked float64
	var inTime []float64
	answer := func(r *event.Record) verdict.Verdict {
		if r.Kind() == event.KindAsync {
			asked++
		}
		return verdict.Trusted
	}
	count := func(n *namespace.Namespace) func() {
		asked = 0
		return func() {
			late := float64(n.Totals().Verdicts[verdict.Unwaited])
			inTime = append(inTime, (asked-late)/asked)
		}
	}
	mark := func(n *namespace.Namespace) func() {
		end := markAwake(t, n)
		return func() { end() }
	}
	never := func(r *event.Record) verdict.Verdict {
		if r.Hook() == hook {
			return verdict.None
		}
		return verdict.Trusted
	}
	const cache = 1024 // KiB: room for all, however long the reader has to wait for a CPU
	contestants := []contestant{
		{"plain", (*exec.Cmd).Output},
		{"exported", inNamespace(t, namespace.Config{Cache: cache})},
		{"no look", inNamespace(t, namespace.Config{Cache: cache, Judge: trustAll, NoLook: true})},
		{"answered", inNamespace(t, namespace.Config{Cache: cache, Judge: answer}, count)},
		{"in vain", inNamespace(t, namespace.Config{Cache: cache, Judge: never, NoLook: true}, mark)},
	}
	all := measure(t, contestants, rounds, events)
	slices.Sort(inTime)
	fmt.Printf("ns for %s: medians of %d rounds of %d; %.1f %% of the verdicts were in time\n", name, rounds, events, 100*inTime[len(inTime)/2])
	for _, c := range contestants {
		mine, unlooked := all[c.name], all["no look"]
		fmt.Printf("%-10s p50 %7.0f, p99 %8.0f; of no look: p50 %6.3f, p99 %6.3f\n", c.name, median(mine, p50), median(mine, p99),
			ratio(mine, unlooked, p50), ratio(mine, unlooked, p99))
	}
}

// TestIdle: a keeper that was awake and has nothing to do any more does not look.
func TestIdle(t *testing.T) {
	needLookout(t)
	n, err := namespace.New(engine, namespace.Config{Judge: trustAll})
	check(t, err)
	defer n.Close()
	cmd := exec.Command("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do cat "+held+"; done; exec sleep 1000")
	check(t, n.Start(cmd))
	state, _ := kernelState(t, n.ID())
	waitFor(t, "the sleep", time.Minute, func() bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return string(name) == "sleep\n"
	})
	waitFor(t, "a keeper that sleeps", time.Minute, func() bool { return atomic.LoadUint32(&state.Awake) == 0 })
	before, begin := cpuTime(), time.Now()
	time.Sleep(2 * time.Second) // that nothing runs in this time is the point
	if used, passed := cpuTime()-before, time.Since(begin); used > passed/2 {
		t.Errorf("an idle keeper has used a CPU for %v of %v", used, passed)
	}
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// cpuTime is how long the threads of this process have had a CPU.
func cpuTime() time.Duration {
	var usage unix.Rusage
	must(unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
