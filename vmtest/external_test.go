// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// external runs tsem-bpf run --external with more words. Its deadline is long enough for
// the start of any agent.
func external(t *testing.T, words ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.Command("tsem-bpf", append([]string{"run", "--external", "--deadline", "2m"}, words...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	t.Logf("%q: status %d\n%s", words, cmd.ProcessState.ExitCode(), errs.String())
	balances(t, errs.String())
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// agentScript makes an agent of a shell script.
func agentScript(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return "exec:" + path
}

// needExternal ends a test where events cannot wait, when it has seen that tsem-bpf says so.
func needExternal(t *testing.T) {
	t.Helper()
	if engine.Support().Tier.Waits() {
		return
	}
	_, stderr, status := external(t, "--", "true")
	if status != 125 || !strings.Contains(stderr, "events cannot wait for verdicts on this kernel") {
		t.Errorf("status %d: %s", status, stderr)
	}
	t.Skipf("tier %s", engine.Support().Tier)
}

// TestExternalShadow: the agent of the README lets cat read one file and not the other; its
// shell goes on.
func TestExternalShadow(t *testing.T) {
	needExternal(t)
	records := filepath.Join(t.TempDir(), "events.json")
	stdout, stderr, status := external(t, "--enforce", "--tma", "exec:../examples/distrust-shadow.py", "-o", records, "--",
		"sh", "-c", "cat /etc/hostname >/dev/null && echo before; cat /etc/shadow /etc/hostname; echo $?; cat /etc/hostname >/dev/null && echo after")
	if stdout != "before\n1\nafter\n" || status != 0 {
		t.Errorf("status %d: %q", status, stdout)
	}
	for _, want := range []string{"cat: /etc/shadow: Operation not permitted\n", "cat: /etc/hostname: Operation not permitted\n", "distrust-shadow: cat opens /etc/shadow\n", " trusted, 1 untrusted", "0 refused"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not in it", want)
		}
	}
	all, err := os.ReadFile(records)
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		Export    struct{ Type string }
		Aggregate struct{ Value string }
	}
	line, rest, _ := bytes.Cut(all, []byte("\n"))
	if err := json.Unmarshal(line, &record); err != nil || record.Export.Type != "aggregate" || len(record.Aggregate.Value) != 64 {
		t.Errorf("the first record: %v: %s", err, line)
	}
	// What it does then is logged, and nothing but that.
	const log = `{"export": {"type": "log"}, "log": {"process": "cat", "event": "file_open", "action": "DENY"}, "event": {`
	if n := bytes.Count(rest, []byte(`"type": "log"`)); !bytes.Contains(rest, []byte(log)) || n != bytes.Count(rest, []byte(log)) {
		t.Errorf("%d log records, not all of them %s", n, log)
	}
}

// TestExternalTrust: who trusts everything changes nothing, and every event that waits is
// judged.
func TestExternalTrust(t *testing.T) {
	needExternal(t)
	_, stderr, status := external(t, "--enforce", "-o", "/dev/null", "--", "sh", "-c", "ls -lR /etc/ssl >/dev/null; exit 7")
	if status != 7 || !strings.Contains(stderr, " trusted") {
		t.Errorf("status %d", status)
	}
	for _, not := range []string{"untrusted", "late", "closed", "unasked", "killed"} {
		if strings.Contains(stderr, not) {
			t.Errorf("%s: %s", not, stderr)
		}
	}
}

// TestExternalFailure: an agent that fails is named, with the reason, and then the policy
// decides about everything, at once.
func TestExternalFailure(t *testing.T) {
	needExternal(t)
	ends := agentScript(t, "read aggregate; read event; exit 3")
	for _, test := range []struct {
		name, agent string
		flags       []string
		status      int
		out         string
		says        []string
	}{
		{"closed", ends, []string{"--enforce"}, 126, "", []string{ends[5:] + ": ended too early: exit status 3; every event that would wait for it is refused", "operation not permitted", " closed"}},
		{"open", ends, []string{"--enforce", "--on-failure", "open"}, 125, "done\n", []string{"exit status 3; every event that would wait for it happens without a verdict", " closed"}},
		{"not enforced", ends, nil, 125, "done\n", []string{"exit status 3; every event that would wait for it happens without a verdict"}},
		{"nonsense", agentScript(t, "read aggregate; echo hello; cat >/dev/null"), []string{"--enforce"}, 126, "", []string{`not a reply: "hello"`}},
		{"silent", agentScript(t, "cat >/dev/null"), []string{"--enforce", "--deadline", "1s"}, 126, "", []string{"operation not permitted", " late"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			words := append([]string{"--tma", test.agent, "-o", "/dev/null"}, test.flags...)
			stdout, stderr, status := external(t, append(words, "--", "sh", "-c", "cat /etc/hostname >/dev/null; echo done")...)
			if status != test.status || stdout != test.out {
				t.Errorf("status %d, %q; want %d, %q", status, stdout, test.status, test.out)
			}
			for _, want := range test.says {
				if !strings.Contains(stderr, want) {
					t.Errorf("%q is not in it", want)
				}
			}
		})
	}
}

// TestExternalUntrustedAnyway: what an agent does not trust is refused also where what it
// fails to judge is not.
func TestExternalUntrustedAnyway(t *testing.T) {
	needExternal(t)
	script := `while read -r record; do
	case $record in
	*'"type": "event"'*) ;;
	*) continue ;;
	esac
	pid=${record#*\"pid\": \"}
	tnum=${record#*\"tnum\": \"}
	case $record in
	*'"type": "file_open"'*/etc/hostname*) verdict=untrusted ;;
	*) verdict=trusted ;;
	esac
	echo "$verdict pid=${pid%%\"*} tnum=${tnum%%\"*}"
done`
	stdout, stderr, status := external(t, "--enforce", "--on-failure", "open", "--tma", agentScript(t, script), "-o", "/dev/null", "--",
		"sh", "-c", "cat /etc/hostname; echo $?")
	if stdout != "1\n" || status != 0 || !strings.Contains(stderr, "Operation not permitted") {
		t.Errorf("status %d, %q", status, stdout)
	}
}

// TestExternalInside: a namespace whose events wait can be made inside another one, whose
// tasks its own tasks are not.
func TestExternalInside(t *testing.T) {
	needExternal(t)
	dir := t.TempDir()
	out, err := exec.Command("tsem-bpf", "run", "-o", dir+"/outer", "--",
		"tsem-bpf", "run", "--external", "--deadline", "2m", "-o", dir+"/inner", "--", "cat", "/etc/hostname").CombinedOutput()
	if err != nil || strings.Count(string(out), " 0 refused") != 2 {
		t.Errorf("%v: %s", err, out)
	}
	for name, want := range map[string]bool{"outer": false, "inner": true} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if is := bytes.Contains(text, []byte(`"process": "cat"`)); is != want {
			t.Errorf("%s describes cat: %t", name, is)
		}
	}
}
