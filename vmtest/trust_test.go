// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// distrusting lets a shell do something that is not trusted, then open a file, signal
// itself, and let a child do both; it is a child itself, of a shell that opens a file in the
// end. What it opens it reads with a builtin.
const distrusting = `sh -c '%s; read x </etc/hostname && echo own; kill -0 $$ && echo signal; (read x </etc/hostname && echo child)' 2>/dev/null
read x </etc/hostname && echo parent`

// openSecret is not trusted by judgeSecret.
const openSecret = "read x <%s && echo secret"

func judgeSecret(r *event.Record) verdict.Verdict {
	if opens(r, "/secret") {
		return verdict.Untrusted
	}
	return verdict.Trusted
}

func writeSecret(t *testing.T) (path string) {
	t.Helper()
	path = work + "/secret"
	if err := os.WriteFile(path, []byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTrust: after an event that is not trusted its task and the children that it then has
// are untrusted, its parent is not; nobody is asked about what they do, and the action of the
// type of event decides.
func TestTrust(t *testing.T) {
	needVerdicts(t)
	secret := writeSecret(t)
	open, _ := event.Lookup("file_open")
	for name, test := range map[string]struct {
		config namespace.Config
		want   string
		action func(kind string) string
	}{
		"enforcing": {
			namespace.Config{Enforce: true}, "parent\n", func(string) string { return "DENY" },
		},
		"not enforcing": {
			namespace.Config{}, "secret\nown\nsignal\nchild\nparent\n", func(string) string { return "LOG" },
		},
		"opens are denied": {
			namespace.Config{Deny: []event.Hook{open}}, "signal\nparent\n",
			func(kind string) string {
				if kind == "file_open" {
					return "DENY"
				}
				return "LOG"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []uint64 // the numbers of the events that were judged
			test.config.Judge = func(r *event.Record) verdict.Verdict {
				asked = append(asked, r.Number())
				return judgeSecret(r)
			}
			out, o := shell(t, test.config, fmt.Sprintf(distrusting, fmt.Sprintf(openSecret, secret)))
			if out != test.want {
				t.Errorf("%q, want %q", out, test.want)
			}
			kinds := make(map[string]int)
			var denied uint64
			for _, r := range o.all {
				if at(r, "export.type") != "log" {
					continue
				}
				kind := at(r, "log.event").(string)
				kinds[kind]++
				if got, want := at(r, "log.action"), test.action(kind); got != want {
					t.Errorf("%s: action %v, want %v", kind, got, want)
				}
				if at(r, "log.action") == "DENY" {
					denied++
				}
				if at(r, "event.type") != kind || at(r, "log.process") != at(r, "event.process") || at(r, kind) == nil {
					t.Errorf("not a whole event: %v", r)
				}
				if slices.Contains(asked, toNumber(t, at(r, "event.number"))) {
					t.Errorf("somebody was asked about %v", r)
				}
			}
			// The shell and its child open a file, the shell signals.
			if kinds["file_open"] < 2 || kinds["task_kill"] != 1 {
				t.Errorf("log records: %v", kinds)
			}
			if test.action("file_open") == "DENY" {
				denied++ // the open of the secret
			}
			logged := 0
			for _, n := range kinds {
				logged += n
			}
			if o.totals.Denied != denied || o.totals.Logged != uint64(logged) || o.totals.Verdicts[verdict.Untrusted] != 1 {
				t.Errorf("counted: %d denied, want %d; %d logged, want %d; verdicts %v",
					o.totals.Denied, denied, o.totals.Logged, logged, o.totals.Verdicts)
			}
		})
	}
}

// TestTrustNoRoom: what nobody can be told of, for lack of room, does not happen, enforced or
// not, and is counted.
func TestTrustNoRoom(t *testing.T) {
	needVerdicts(t)
	if err := os.WriteFile(held, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, enforce := range []bool{true, false} {
		n, err := namespace.New(engine, namespace.Config{Judge: trustAll, Enforce: enforce, Wait: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		cmd := exec.Command(work + "/actor")
		cmd.Env = append(os.Environ(), "TSEM_LABOR=fill 10000", "GOMAXPROCS=1")
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := n.Start(cmd); err != nil {
			t.Fatal(err)
		}
		const want = "cannot allocate memory cannot allocate memory\ndone\n"
		if err := cmd.Wait(); err != nil || out.String() != want {
			t.Errorf("enforce %v: %v, %q", enforce, err, out.String())
		}
		n.Shut()
		if err := n.Export(context.Background(), event.Current, io.Discard); err != nil {
			t.Fatal(err)
		}
		b := account(t, engine, n).Balance
		if err := b.Err(); err != nil || b.Refused[0].Count < 2 {
			t.Errorf("enforce %v: %v, %+v", enforce, err, b)
		}
	}
}

// TestTrustAsync: an event that does not wait, and is not trusted, is over when that is said;
// it makes its task untrusted all the same, before the next event happens.
func TestTrustAsync(t *testing.T) {
	needVerdicts(t)
	judge := func(r *event.Record) verdict.Verdict {
		if r.Kind() == event.KindAsync && r.Hook().String() == "task_kill" {
			return verdict.Untrusted
		}
		return verdict.Trusted
	}
	out, o := shell(t, namespace.Config{Judge: judge, Enforce: true}, fmt.Sprintf(distrusting, "kill -0 $$"))
	if out != "parent\n" {
		t.Errorf("%q", out)
	}
	var kinds []string
	for _, r := range o.all {
		if at(r, "event.type") == "task_kill" {
			kinds = append(kinds, at(r, "export.type").(string))
		}
	}
	if got := strings.Join(kinds, " "); got != "async_event log" {
		t.Errorf("signals: %s", got)
	}
}
