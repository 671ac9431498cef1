// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
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
	var marking sync.WaitGroup
	var over atomic.Bool
	for range runtime.NumCPU() {
		l := startLabor(t, config, fmt.Sprintf("early %d task_kill", signals), 1)
		all = append(all, l)
		state, _ := kernelState(t, l.n.ID())
		marking.Go(func() {
			marks := 0
			for !over.Load() {
				if atomic.SwapUint32(&state.Awake, 1) == 0 {
					marks++
				}
				runtime.Gosched()
			}
			if marks < 2 {
				t.Error("nobody has looked, or taken the mark away")
			}
		})
	}
	for _, l := range all {
		if said := l.next(t); said != "0" {
			t.Errorf("%s signals were refused", said)
		}
	}
	over.Store(true)
	marking.Wait()
	for _, l := range all {
		l.end(t)
		if got := l.n.Totals().Verdicts[verdict.Unwaited]; got < signals {
			t.Errorf("%d events without a verdict", got)
		}
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
