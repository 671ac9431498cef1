// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// victimWorkload takes about as long as the kernel half takes to install. It ends by itself
// when nothing is judged any more, too.
const victimWorkload = `echo begun
i=0; while [ $i -lt 500 ]; do read x </etc/hostname || echo refused; i=$((i+1)); done 2>/dev/null
echo ended`

// A victim is a tsem-bpf that is killed.
type victim struct {
	cmd                   *exec.Cmd
	begun, refused, ended atomic.Uint64 // what its command says
	over                  chan struct{} // closed when it and all that it started have ended
}

func startVictim(t *testing.T, enforce bool) *victim {
	t.Helper()
	words := []string{"run", "--events", "all", "-o", filepath.Join(t.TempDir(), "victim.json")}
	if enforce {
		words = append(words, "--external", "--enforce", "--deadline", "2m")
	}
	v := &victim{cmd: exec.Command("tsem-bpf", append(words, "--", "sh", "-c", victimWorkload)...), over: make(chan struct{})}
	stdout, stdin, err := os.Pipe()
	check(t, err)
	v.cmd.Stdout, v.cmd.Stderr = stdin, stdin
	check(t, v.cmd.Start())
	check(t, stdin.Close())
	go func() {
		count(bufio.NewReader(stdout), map[string]*atomic.Uint64{"begun": &v.begun, "refused": &v.refused, "ended": &v.ended})
		_ = stdout.Close()
		close(v.over)
	}()
	return v
}

// phase says how far the victim has come.
func (v *victim) phase() string {
	switch {
	case v.ended.Load() > 0:
		return "at its end"
	case v.begun.Load() > 0:
		return "while its command runs"
	case isPinned(pinned):
		return "when the kernel half is installed"
	}
	return "before the kernel half is installed"
}

func isPinned(folder string) bool {
	_, err := os.Stat(folder)
	return err == nil
}

// end waits for the end of the victim and of all that it has started.
func (v *victim) end(t *testing.T) {
	t.Helper()
	_ = v.cmd.Wait()
	waitFor(t, "the end of the command", 2*time.Minute, func() bool {
		select {
		case <-v.over:
			return true
		default:
			return false
		}
	})
}

// TestKilledAnytime: at whatever moment of its life a tsem-bpf is killed, or two at once, the next
// one works and leaves nothing behind, and what was refused to the tasks of the killed one is counted.
func TestKilledAnytime(t *testing.T) {
	random := chance(t)
	unload(t)
	defer reopen(t)
	before := belongingsNow(t)
	waits := engine.Support().Tier.Waits()
	start := time.Now()
	startVictim(t, waits).end(t)
	whole := time.Since(start)
	t.Logf("undisturbed it takes %v", whole)
	nothingLeft(t, before)
	victims := 0
	repeat(t, 2, func(t *testing.T) {
		victims = victims%2 + 1
		var all []*victim
		for range victims {
			all = append(all, startVictim(t, waits && (victims == 1 || random.IntN(2) == 0)))
		}
		moment := time.Duration(random.Int64N(int64(whole)))
		time.Sleep(moment)
		for _, v := range all {
			t.Logf("killed after %v, %s", moment, v.phase())
			_ = v.cmd.Process.Kill() // it may have ended
		}
		for _, v := range all {
			v.end(t)
		}
		accountedOrphans(t, all)

		path := filepath.Join(t.TempDir(), "next.json")
		next := exec.Command("tsem-bpf", "run", "--events", "all", "-o", path, "--", "cat", "/etc/hostname")
		var stderr bytes.Buffer
		next.Stderr = &stderr
		if err := next.Run(); err != nil {
			t.Fatalf("the next one: %v: %s", err, stderr.String())
		}
		complete(t, stderr.String(), path)
		nothingLeft(t, before)
	})
}

// accountedOrphans expects that every event of the namespaces that the victims have left is
// accounted for. That of one victim is there until somebody else comes.
func accountedOrphans(t *testing.T, victims []*victim) {
	t.Helper()
	if !isPinned(pinned) {
		return
	}
	var refused uint64
	for _, ns := range orphans(t) {
		t.Logf("%+v", ns)
		if ns.Raised != ns.Delivered+ns.Refused {
			t.Errorf("%d events raised, %d delivered, %d refused", ns.Raised, ns.Delivered, ns.Refused)
		}
		refused += ns.Refused
	}
	// One that was delivered may have waited for its verdict when the victim was killed.
	if said := victims[0].refused.Load(); len(victims) == 1 && said > refused+1 {
		t.Errorf("%d opens were refused, %d events", said, refused)
	}
}
