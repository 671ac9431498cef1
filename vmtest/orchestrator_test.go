// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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
