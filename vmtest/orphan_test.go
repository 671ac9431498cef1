// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

// orphans returns the namespaces of this host that hold tasks back.
func orphans(t *testing.T) (all []loader.NamespaceStatus) {
	t.Helper()
	out, err := exec.Command("tsem-bpf", "engine", "status", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var s loader.Status
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Namespaces {
		if n.Orphaned {
			all = append(all, n)
		}
	}
	return all
}

// TestOrphan: when the tsem-bpf of an enforcing namespace is killed nothing happens there any
// more that has to be judged, until the namespace is ended, or has no tasks.
func TestOrphan(t *testing.T) {
	needExternal(t)
	for _, freed := range []bool{true, false} {
		t.Run(fmt.Sprintf("freed %v", freed), func(t *testing.T) {
			cmd := exec.Command("tsem-bpf", "run", "--external", "--enforce", "--deadline", "2m", "-o", "/dev/null", "--",
				"sh", "-c", "echo $$; while :; do if read x </etc/hostname; then echo done; else echo refused; fi; done 2>/dev/null")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill() }()
			lines := bufio.NewScanner(stdout)
			if !lines.Scan() {
				t.Fatal("no output")
			}
			shell, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = syscall.Kill(shell, syscall.SIGKILL) }()
			var done, refused atomic.Uint64
			go func() {
				for lines.Scan() {
					if lines.Text() == "done" {
						done.Add(1)
					} else {
						refused.Add(1)
					}
				}
			}()
			waitFor(t, "judged opens", time.Minute, func() bool { return done.Load() > 10 })
			if n := refused.Load(); n != 0 {
				t.Errorf("%d opens were refused", n)
			}

			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "an open that is refused", time.Minute, func() bool { return refused.Load() > 0 })
			before := done.Load()
			waitFor(t, "more of them", 5*time.Minute, func() bool { return refused.Load() > 100 })
			if after := done.Load(); after != before {
				t.Errorf("%d opens happened that nobody had judged", after-before)
			}
			held := orphans(t)
			if len(held) != 1 || held[0].Refused == 0 || held[0].Tasks == 0 {
				t.Fatalf("orphans: %+v", held)
			}
			// Others are not concerned, and do not end it.
			if out, err := exec.Command("tsem-bpf", "run", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if left := orphans(t); len(left) != 1 {
				t.Errorf("orphans after another tsem-bpf: %+v", left)
			}
			if freed {
				says(t, 1, "no such namespace: 4711", "ns", "end", "4711")
				says(t, 0, "", "ns", "end", fmt.Sprint(held[0].ID))
				waitFor(t, "opens that happen again", time.Minute, func() bool { return done.Load() > before+10 })
			}
			if err := syscall.Kill(shell, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait()
			waitFor(t, "the end of an orphan without tasks", time.Minute, func() bool {
				if out, err := exec.Command("tsem-bpf", "run", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
				return len(orphans(t)) == 0
			})
		})
	}
}
