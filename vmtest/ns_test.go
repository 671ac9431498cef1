// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// nsReport is what tsem-bpf ns list --json and ns show --json print of a namespace.
type nsReport struct {
	ID        uint64
	Keeper    int
	Command   string
	External  bool
	Enforcing bool
	Orphaned  bool
	Sealed    bool
	Tasks     uint64
	Deny      []string
	Deadline  float64
	Wait      float64
	Refused   uint64
	Series    map[string]float64
}

// listed returns the namespaces that a process keeps.
func listed(t *testing.T, keeper int) (all []nsReport) {
	t.Helper()
	out, err := exec.Command("tsem-bpf", "ns", "list", "--json").Output()
	check(t, err)
	for line := range bytes.Lines(out) {
		var r nsReport
		check(t, json.Unmarshal(line, &r))
		if r.Keeper == keeper {
			all = append(all, r)
		}
	}
	return all
}

// TestNamespaceCommands: a namespace is shown, made to refuse what is not trusted though its tsem-bpf
// was not told to, sealed, and held back when that is killed.
func TestNamespaceCommands(t *testing.T) {
	needExternal(t)
	cmd := exec.Command("tsem-bpf", "run", "--external", "--deadline", "2m", "--tma", "exec:../examples/distrust-shadow.py", "-o", "/dev/null", "--",
		"sh", "-c", "while read line; do cat /etc/shadow >/dev/null && echo done || echo refused; done")
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	lines := bufio.NewScanner(stdout)
	tries := func(want string) {
		t.Helper()
		fmt.Fprintln(stdin)
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("it is %q, want %q", lines.Text(), want)
		}
	}
	tries("done")
	found := listed(t, cmd.Process.Pid)
	if len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	ns := found[0]
	if !ns.External || ns.Enforcing || ns.Sealed || ns.Tasks != 1 || len(ns.Deny) != 0 || ns.Deadline != 120 || !strings.Contains(ns.Command, "--deadline 2m") {
		t.Errorf("%+v", ns)
	}
	id := fmt.Sprint(ns.ID)
	says(t, 0, " LOG ", "ns", "list")
	completed := exec.Command("tsem-bpf", "__complete")
	completed.Env = append(os.Environ(), "COMP_LINE=tsem-bpf ns end ", "COMP_POINT=16")
	if out, err := completed.Output(); err != nil || !slices.Contains(strings.Fields(string(out)), id) {
		t.Errorf("%v: %q can be completed to, want %s", err, out, id)
	}

	says(t, 0, "", "ns", "enforce", id)
	tries("refused")
	says(t, 0, "", "ns", "enforce", id)
	says(t, 0, "", "ns", "seal", id)
	says(t, 1, "namespace "+id+" is sealed", "ns", "enforce", id)
	says(t, 1, "namespace "+id+" is sealed", "ns", "seal", id)
	out, err := exec.Command("tsem-bpf", "ns", "show", id, "--json").Output()
	check(t, err)
	var shown nsReport
	check(t, json.Unmarshal(out, &shown))
	if !shown.Enforcing || !shown.Sealed || !slices.Contains(shown.Deny, "file_open") || shown.Series["tsem_tasks"] != 1 || shown.Series["tsem_events_denied_total"] == 0 {
		t.Errorf("%s", out)
	}
	says(t, 0, "deadline ", "ns", "show", id)
	says(t, 1, "the namespace has a keeper: process "+fmt.Sprint(cmd.Process.Pid), "ns", "end", id)
	for _, command := range []string{"show", "enforce", "seal", "end"} {
		says(t, 1, "no such namespace: 4711", "ns", command, "4711")
	}

	check(t, cmd.Process.Kill())
	_, err = cmd.Process.Wait()
	check(t, err)
	waitFor(t, "a namespace without keeper", time.Minute, func() bool {
		orphaned := listed(t, 0)
		return len(orphaned) == 1 && orphaned[0].Orphaned && orphaned[0].Sealed
	})
	tries("refused") // what cat does for its start is refused, and so "cat" is as well
	says(t, 0, "", "ns", "end", id)
	check(t, stdin.Close())
}

// TestNamespaceSealed: what the control plane seals, tsem-bpf ns does not change, and the other way
// round.
func TestNamespaceSealed(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "tsem")
	_, lines := startDaemon(t, folder)
	const begin = `cd "$1" || exit 10
mkfifo "$2" || exit 11
sh -c 'echo export >control && read -r line' <"$2" &
exec 4>"$2"
until read -r id 2>/dev/null <id; do sleep 0.01; done
`
	run := func(script string) {
		t.Helper()
		orchestrate(t, begin+script, folder, filepath.Join(t.TempDir(), "fifo"))
	}
	run(`tsem-bpf ns seal $id || exit 1
echo enforce >control && exit 2
echo seal >control && exit 3
exit 0`)
	for _, command := range []string{"enforce", "seal"} {
		expectLine(t, lines, " wrote to control: "+command+": namespace ")
	}
	run(`echo enforce >control || exit 1
echo seal >control || exit 2
tsem-bpf ns enforce $id && exit 3
tsem-bpf ns seal $id && exit 4
tsem-bpf ns list | grep "^$id .* DENY *yes " || exit 5`)
}
