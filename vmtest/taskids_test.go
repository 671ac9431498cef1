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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// objects returns what stands in lines of JSON, and fails if one line is none.
func objects(t *testing.T, text []byte) (all []object) {
	t.Helper()
	for line := range bytes.Lines(text) {
		var o object
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, o)
	}
	return all
}

// written returns the events of a file that is still being written.
func written(t *testing.T, path string) []object {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // not yet
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	return slices.DeleteFunc(objects(t, whole), func(record object) bool { return record["event"] == nil })
}

// waitForEvent waits until a record of a process is written that has something, and returns
// what that is. With pid 0 it is any process of that name.
func waitForEvent(t *testing.T, path, process string, pid int, has string) (value string) {
	t.Helper()
	waitFor(t, has+" of "+process, 2*time.Minute, func() bool {
		for _, r := range written(t, path) {
			if (pid == 0 || at(r, "event.pid") == fmt.Sprint(pid)) && at(r, "event.process") == process && at(r, has) != nil {
				value = at(r, has).(string)
				return true
			}
		}
		return false
	})
	return value
}

// TestTaskIDsOfOthers: a signal to a task in the namespace of another tsem-bpf shows the
// TASK_ID that stands in the records there, in both directions.
func TestTaskIDsOfOthers(t *testing.T) {
	for _, nested := range []bool{true, false} {
		t.Run(fmt.Sprintf("nested %v", nested), func(t *testing.T) {
			_ = os.Remove("/tmp/inner.json")
			_ = os.Remove("/tmp/outer.json")
			words := []string{"sh", "-c", `echo $$; read go; tsem-bpf run -o /tmp/inner.json -- sh -c "kill -0 $$; echo \$\$; exec sleep 1000" & read inner; kill -0 $inner; read go`}
			if nested {
				words = append([]string{"tsem-bpf", "run", "-o", "/tmp/outer.json", "--"}, words...)
			} else {
				root := exec.Command("tsem-bpf", "export", "--root", "-o", "/tmp/outer.json")
				if err := root.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() {
					_ = root.Process.Signal(unix.SIGTERM)
					_ = root.Wait()
				}()
				waitFor(t, "events of the host", 2*time.Minute, func() bool {
					_ = exec.Command("true").Run()
					return len(written(t, "/tmp/outer.json")) > 0
				})
			}
			cmd := exec.Command(words[0], words[1:]...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			stdin, stdout := piped(t, cmd)
			defer func() {
				_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
				_ = cmd.Wait()
			}()
			lines := bufio.NewReader(stdout)
			var outer, inner int
			if _, err := fmt.Fscan(lines, &outer); err != nil {
				t.Fatal(err)
			}
			// From here on the outer tsem-bpf knows the TASK_ID.
			outerID := waitForEvent(t, "/tmp/outer.json", "sh", outer, "event.task_id")
			fmt.Fprintln(stdin, "go")
			if _, err := fmt.Fscan(lines, &inner); err != nil {
				t.Fatal(err)
			}
			if got := waitForEvent(t, "/tmp/inner.json", "sh", inner, "task_kill.target"); got != outerID {
				t.Errorf("the target outside is %s, want %s", got, outerID)
			}
			innerID := waitForEvent(t, "/tmp/inner.json", "sleep", inner, "event.task_id")
			fmt.Fprintln(stdin, inner)
			if got := waitForEvent(t, "/tmp/outer.json", "sh", outer, "task_kill.target"); got != innerID {
				t.Errorf("the target inside is %s, want %s", got, innerID)
			}
			for _, id := range []string{outerID, innerID} {
				if id == zeroDigest || strings.Trim(id, "f") == "" {
					t.Errorf("a TASK_ID is %s", id)
				}
			}
		})
	}
}
