// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// A pendingEvent is a line of tsem-bpf pending --json.
type pendingEvent struct {
	PID, Tnum, Namespace uint64
	Event, Ticket        string
	Command              string
	Seconds              float64
}

// pending waits until one event waits that is not that of another ticket.
func pending(t *testing.T, before string) (e pendingEvent) {
	t.Helper()
	waitFor(t, "an event that waits", time.Minute, func() bool {
		out, err := exec.Command("tsem-bpf", "pending", "--json").Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(out), "\n") != 1 {
			return false
		}
		if err := json.Unmarshal(out, &e); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return e.Ticket != before
	})
	return e
}

// release runs tsem-bpf release and compares its status and what it says.
func release(t *testing.T, status int, want string, words ...any) {
	t.Helper()
	says(t, status, want, append([]string{"release"}, strings.Fields(fmt.Sprintln(words...))...)...)
}

// TestPendingRelease: whoever waits is shown, and set free by hand; what is not true of the
// event that waits now is never applied to it.
func TestPendingRelease(t *testing.T) {
	needVerdicts(t)
	if err := os.WriteFile(held, []byte("held\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n, err := namespace.New(engine, namespace.Config{
		Enforce: true, Deadline: namespace.MaxDeadline,
		Judge: func(r *event.Record) verdict.Verdict {
			if opens(r, held) {
				return verdict.None
			}
			return verdict.Trusted
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	read := make(chan error, 1)
	go func() { read <- n.Export(context.Background(), event.Current, io.Discard) }()
	cmd := exec.Command("sh", "-c", fmt.Sprintf("read x <%s && echo one; echo two >&2; read x; read x <%[1]s || echo three", held))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	second, says, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	cmd.Stdout, cmd.Stderr = &out, says
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	says.Close()

	first := pending(t, "")
	if first.PID != uint64(cmd.Process.Pid) || first.Event != "file_open" || first.Command != "sh" || first.Namespace != n.ID() || first.Tnum == 0 {
		t.Errorf("%+v; the pid is %d, the namespace %d", first, cmd.Process.Pid, n.ID())
	}
	if table, err := exec.Command("tsem-bpf", "pending").Output(); err != nil || strings.Count(string(table), "\n") != 2 ||
		!strings.Contains(string(table), first.Ticket) {
		t.Errorf("%v: %s", err, table)
	}
	release(t, 1, "is in namespace", "trusted", "--pid", first.PID, "--namespace", first.Namespace+1)
	release(t, 1, "no such event waits", "trusted", "--tnum", first.Tnum+1000)
	release(t, 0, "", "trusted", "--pid", first.PID, "--tnum", first.Tnum, "--namespace", first.Namespace)
	if _, err := second.Read(make([]byte, 10)); err != nil { // it has said "two", and reads its input
		t.Fatal(err)
	}
	release(t, 1, "no such event waits", "untrusted", "--pid", first.PID)
	if late := n.Totals().LateReleases; late != 1 {
		t.Errorf("%d releases were late", late)
	}
	fmt.Fprintln(stdin)

	next := pending(t, first.Ticket)
	release(t, 1, "now waits with another event, "+next.Ticket, "trusted", "--pid", next.PID, "--ticket", first.Ticket)
	release(t, 1, "no such event waits", "trusted", "--ticket", first.Ticket)
	release(t, 0, "", "untrusted", "--ticket", next.Ticket)
	if err := cmd.Wait(); err != nil || out.String() != "one\nthree\n" {
		t.Errorf("%v: %q", err, out.String())
	}
	release(t, 1, "no such event waits", "trusted", "--pid", next.PID)
	n.Shut()
	if err := <-read; err != nil {
		t.Error(err)
	}
	completeAccount(t, engine, n)
}
