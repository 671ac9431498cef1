// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// needVerdicts ends a test where no event can wait for a verdict, after it has seen that such
// a namespace is refused and that the reason is said.
func needVerdicts(t *testing.T) {
	t.Helper()
	tier := engine.Support().Tier
	if tier.Waits() {
		return
	}
	n, err := namespace.New(engine, namespace.Config{Judge: trustAll})
	if err == nil {
		n.Close()
		t.Fatal("a namespace where events wait was made on a kernel where they cannot")
	}
	if !errors.Is(err, namespace.ErrNoSleep) || !strings.Contains(err.Error(), string(tier)) {
		t.Fatal(err)
	}
	t.Skip(err)
}

// hasGates says whether tasks sleep in a gate; else they wait by looking again and again.
func hasGates() bool { return engine.Support().Tier == loader.TierSleep }

// gatesWanted is how many gates a namespace has in which no accident has happened.
func gatesWanted() uint64 {
	if hasGates() {
		return 1
	}
	return 0
}

// waitsNow says whether a thread waits for a verdict: asleep in the gate, where there is one.
func waitsNow(t *testing.T, tid int) bool {
	t.Helper()
	if hasGates() {
		return inFunction(tid, "fuse_getxattr")
	}
	slots, err := verdict.MapSlots(engine.Map("slots"))
	check(t, err)
	defer slots.Close()
	return slices.ContainsFunc(slots.Waits(), func(w verdict.Wait) bool { return int(w.TID) == tid })
}

func trustAll(*event.Record) verdict.Verdict { return verdict.Trusted }

// opens says whether a record is about the open of a file with that name.
func opens(r *event.Record, name string) bool {
	return r.Hook().String() == "file_open" && bytes.HasSuffix(r.File().Path.Text, []byte(name))
}

// shell runs a script in a namespace and returns what it wrote.
func shell(t *testing.T, config namespace.Config, script string) (string, *observation) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	o := runIn(t, config, cmd)
	return out.String(), o
}

// TestVerdictTrusted: with an agent that trusts everything a workload runs as without, and
// every event that could wait was judged before it happened.
func TestVerdictTrusted(t *testing.T) {
	needVerdicts(t)
	judged := make(map[uint64]bool)
	judge := func(r *event.Record) verdict.Verdict {
		judged[r.Number()] = true
		return verdict.Trusted
	}
	out, o := shell(t, namespace.Config{Judge: judge, Enforce: true}, "for i in 1 2 3; do cat /etc/hostname >/dev/null || exit; done; echo done")
	if out != "done\n" || o.exit != nil {
		t.Errorf("%q, %v", out, o.exit)
	}
	for _, e := range o.all {
		header := e["event"].(object)
		if number := header["number"]; e["type"] == "event" && !judged[toNumber(t, number)] {
			t.Errorf("nobody was asked about event %v (%v)", number, header["type"])
		}
	}
	if len(judged) < 20 {
		t.Errorf("only %d events were judged", len(judged))
	}
}

func toNumber(t *testing.T, text any) (n uint64) {
	t.Helper()
	if _, err := fmt.Sscan(text.(string), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestVerdictUntrusted: the very event that is not trusted does not happen, where that is
// enforced; those before and after it do.
func TestVerdictUntrusted(t *testing.T) {
	needVerdicts(t)
	secret := writeSecret(t)
	script := "cat /etc/hostname >/dev/null && echo before; cat " + secret + "; cat /etc/hostname >/dev/null && echo after"
	for _, enforce := range []bool{true, false} {
		out, _ := shell(t, namespace.Config{Judge: judgeSecret, Enforce: enforce}, script)
		want := "before\nsecret\nafter\n"
		if enforce {
			want = "before\ncat: " + secret + ": Operation not permitted\nafter\n"
		}
		if out != want {
			t.Errorf("enforce %v: %q, want %q", enforce, out, want)
		}
	}
}

// TestVerdictSleep: who waits is asleep in the gate, uses no CPU, and is woken by the
// verdict.
func TestVerdictSleep(t *testing.T) {
	needVerdicts(t)
	if !hasGates() {
		t.Skip("nobody sleeps on this kernel")
	}
	type wait struct {
		slot   uint32
		ticket uint64
		tid    uint32
	}
	waiting := make(chan wait, 1)
	judge := func(r *event.Record) verdict.Verdict {
		if opens(r, "/etc/hostname") {
			waiting <- wait{r.Slot(), r.Ticket(), r.TID()}
			return verdict.None
		}
		return verdict.Trusted
	}
	n, err := namespace.New(engine, namespace.Config{Judge: judge, Enforce: true, Deadline: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	cmd := exec.Command("cat", "/etc/hostname")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	w := <-waiting
	dir := fmt.Sprintf("/proc/%d/", w.tid)
	waitFor(t, "a task in the gate", time.Minute, func() bool {
		stack, _ := os.ReadFile(dir + "stack")
		return bytes.Contains(stack, []byte("fuse_getxattr")) && bytes.Contains(stack, []byte("security_file_open"))
	})
	before, err := os.ReadFile(dir + "schedstat")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // that it does not run in this time is the point
	if after, _ := os.ReadFile(dir + "schedstat"); !bytes.Equal(before, after) {
		t.Errorf("it ran while it waited: %s, then %s", before, after)
	}
	if outcome, err := n.Decide(w.slot, w.ticket-1, verdict.Untrusted); err != nil || outcome.Won {
		t.Errorf("a verdict about the wait before: %v, %v", outcome, err)
	}
	if outcome, err := n.Decide(w.slot, w.ticket, verdict.Trusted); err != nil || !outcome.Won {
		t.Errorf("the verdict: %v, %v", outcome, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestVerdictNever: without a verdict a task waits for the deadline, and then it depends on
// whether trust is enforced.
func TestVerdictNever(t *testing.T) {
	needVerdicts(t)
	judge := func(r *event.Record) verdict.Verdict {
		if opens(r, "/etc/hostname") {
			return verdict.None
		}
		return verdict.Trusted
	}
	for _, enforce := range []bool{true, false} {
		start := time.Now()
		out, o := shell(t, namespace.Config{Judge: judge, Enforce: enforce, Deadline: time.Second},
			"read x 2>/dev/null </etc/hostname && echo read; read x 2>/dev/null </etc/os-release && echo trusted")
		if took := time.Since(start); took < time.Second {
			t.Errorf("enforce %v: it did not wait, %v", enforce, took)
		}
		want := "read\ntrusted\n"
		if enforce {
			want = ""
		}
		if out != want || o.totals.Verdicts[verdict.Late] != 1 {
			t.Errorf("enforce %v: %q, want %q; %d late", enforce, out, want, o.totals.Verdicts[verdict.Late])
		}
		if logged := o.totals.Logged > 0; logged != enforce {
			t.Errorf("enforce %v: %d events of untrusted tasks", enforce, o.totals.Logged)
		}
	}
}

// TestVerdictKill: a deadly signal ends a wait, after others that do not.
func TestVerdictKill(t *testing.T) {
	needVerdicts(t)
	waiting := make(chan struct{}, 1)
	judge := func(r *event.Record) verdict.Verdict {
		if opens(r, "/etc/hostname") {
			waiting <- struct{}{}
			return verdict.None
		}
		return verdict.Trusted
	}
	for _, signals := range [][]syscall.Signal{
		{syscall.SIGKILL}, {syscall.SIGUSR1, syscall.SIGKILL}, {syscall.SIGCONT, syscall.SIGUSR1, syscall.SIGTERM}, {syscall.SIGQUIT},
	} {
		n, err := namespace.New(engine, namespace.Config{Judge: judge, Enforce: true, Deadline: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		// With a handler, USR1 does not end it.
		cmd := exec.Command("sh", "-c", `trap : USR1; : </etc/hostname`)
		if err := n.Start(cmd); err != nil {
			t.Fatal(err)
		}
		<-waiting
		for _, s := range signals {
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // one after the other, so that each ends its own look
		}
		start := time.Now()
		_ = cmd.Wait()
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%v: dead after %v, which is nearly the deadline", signals, took)
		}
		if state := cmd.ProcessState.Sys().(syscall.WaitStatus); !state.Signaled() || state.Signal() != signals[len(signals)-1] {
			t.Errorf("%v: %v", signals, cmd.ProcessState)
		}
		t.Logf("%v: dead after %v", signals, time.Since(start))
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}
