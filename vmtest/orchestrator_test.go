// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/tsemfs"
)

// TestOrchestrators: the orchestrators of examples/ let a workload do again what it did when they
// learned, and execute nothing else, also not under a name that they know.
func TestOrchestrators(t *testing.T) {
	needExternal(t)
	_, lines := startDaemon(t, "/run/tsem")
	hostname, err := os.ReadFile("/etc/hostname")
	check(t, err)
	for _, example := range []string{"orchestrator.py", "orchestrator.sh"} {
		t.Run(example, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "programs")
			orchestrate := func(mode, script, want string, status int) {
				t.Helper()
				cmd := exec.Command("../examples/"+example, mode, list, "--", "sh", "-c", script)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				said, _ := cmd.Output()
				if string(said) != want || cmd.ProcessState.ExitCode() != status {
					t.Errorf("%s %q: %v, said %q, want status %d and %q: %s", mode, script, cmd.ProcessState, said, status, want, stderr.String())
				}
				if refused := strings.Contains(stderr.String(), "must not "); refused != (want == "126\n"+string(hostname)) {
					t.Errorf("%s %q: %s", mode, script, stderr.String())
				}
				if end := expectLine(t, lines, " releases late"); !strings.Contains(end, ", 0 not in time, 0 releases late") {
					t.Error(end)
				}
			}
			orchestrate("learn", "cat /etc/hostname; head -n1 /etc/hostname; exit 7", strings.Repeat(string(hostname), 2), 7)
			learned, err := os.ReadFile(list)
			check(t, err)
			cat := regexp.MustCompile(`(?m)^[0-9a-f]{64} ".*/cat"$`)
			if !cat.Match(learned) {
				t.Fatalf("cat is not on the list:\n%s", learned)
			}
			orchestrate("enforce", "cat /etc/hostname", string(hostname), 0)
			orchestrate("enforce", "id; echo $?; cat /etc/hostname", "126\n"+string(hostname), 0)
			other := cat.ReplaceAllFunc(learned, func(line []byte) []byte {
				return append(bytes.Repeat([]byte("0"), 64), line[64:]...)
			})
			check(t, os.WriteFile(list, other, 0o600))
			orchestrate("enforce", "cat /etc/hostname; echo $?; head -n1 /etc/hostname", "126\n"+string(hostname), 0)
		})
	}
}

// TestOrchestrate: an orchestrator that has the path of TSEM built in finds the control plane there,
// beside what is in securityfs, and nobody else does.
func TestOrchestrate(t *testing.T) {
	says(t, 125, "no control plane can be used at /run/tsem: ", "orchestrate", "true")
	startDaemon(t, "/run/tsem")
	outside, err := exec.Command("ls", "/sys/kernel/security").Output()
	check(t, err)
	want := append(strings.Fields(string(outside)), "tsem")
	slices.Sort(want)
	for _, words := range [][]string{
		{"tsem-bpf", "orchestrate", "--", "ls", "/sys/kernel/security"},
		{"unshare", "--mount", "sh", "-c", "umount /sys/kernel/security && exec tsem-bpf orchestrate -- ls /sys/kernel/security"},
		{"tsem-bpf", "orchestrate", "--", "tsem-bpf", "orchestrate", "--", "ls", "/sys/kernel/security"},
	} {
		inside, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if got := strings.Fields(string(inside)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v: %v: %q, want %q", words, err, got, want)
		}
	}
	says(t, 0, "bpf", "orchestrate", "cat", "/sys/kernel/security/lsm")
	says(t, 7, "", "orchestrate", "--", "sh", "-c", "exit 7")
	if _, err := os.Stat(tsemfs.BuiltIn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s outside: %v", tsemfs.BuiltIn, err)
	}

	needExternal(t)
	text, err := os.ReadFile("../examples/orchestrator.py")
	check(t, err)
	script, list := filepath.Join(t.TempDir(), "orchestrator"), filepath.Join(t.TempDir(), "programs")
	check(t, os.WriteFile(script, bytes.ReplaceAll(text, []byte("/run/tsem"), []byte(tsemfs.BuiltIn)), 0o755))
	says(t, 7, "", "orchestrate", "--", script, "learn", list, "--", "sh", "-c", "cat /etc/hostname; exit 7")
	if learned, err := os.ReadFile(list); err != nil || !bytes.Contains(learned, []byte(`/cat"`)) {
		t.Errorf("%v: %s", err, learned)
	}
}
