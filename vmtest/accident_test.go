// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

const holders = 4 // tasks that wait in an accident

var held = work + "/held"

// keeper is a process that keeps a namespace in which whoever opens the held file waits.
// It does what its standard input says, and says when it is done: "hold" starts tasks that
// wait, "trust" starts tasks that do not.
func keeper() {
	engine, err := loader.Load()
	must(err)
	waiting := make(chan struct{}, holders)
	var trust atomic.Bool
	deadline, err := time.ParseDuration(os.Getenv("TSEM_KEEPER"))
	must(err)
	n, err := namespace.New(engine, namespace.Config{
		Enforce: os.Getenv("TSEM_ENFORCE") != "", Deadline: deadline,
		Judge: func(r *event.Record) verdict.Verdict {
			if trust.Load() || !opens(r, held) {
				return verdict.Trusted
			}
			waiting <- struct{}{}
			return verdict.None
		},
	})
	must(err)
	go func() { must(n.Export(context.Background(), event.Current, io.Discard)) }()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); fmt.Println("done") {
		trust.Store(lines.Text() == "trust")
		for i := range holders {
			// The result is written to a file that is open already: no event.
			cmd := exec.Command("sh", "-c", fmt.Sprintf("exec 3>%s; cat %s >/dev/null 2>&1; echo $? >&3", result(i), held))
			must(n.Start(cmd))
			go func() { _ = cmd.Wait() }()
		}
		for i := 0; i < holders && !trust.Load(); i++ {
			<-waiting
		}
	}
}

func result(i int) string { return work + "/result." + strconv.Itoa(i) }

// A kept is a keeper process, and the test's end of it.
type kept struct {
	t     *testing.T
	cmd   *exec.Cmd
	tell  io.Writer
	lines *bufio.Scanner
}

func startKeeper(t *testing.T, deadline string, enforce bool) *kept {
	t.Helper()
	if err := os.WriteFile(held, []byte("held\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(work + "/actor")
	cmd.Env = append(os.Environ(), "TSEM_KEEPER="+deadline)
	if enforce {
		cmd.Env = append(cmd.Env, "TSEM_ENFORCE=1")
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k := &kept{t, cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return k
}

func (k *kept) do(what string) {
	k.t.Helper()
	for i := range holders {
		_ = os.Remove(result(i))
	}
	if _, err := fmt.Fprintln(k.tell, what); err != nil {
		k.t.Fatal(err)
	}
	if !k.lines.Scan() {
		k.t.Fatalf("the keeper ended at %q", what)
	}
}

// gatePID finds the gate process: the child whose executable file is on FUSE.
func (k *kept) gatePID() int {
	k.t.Helper()
	var found int
	waitFor(k.t, "a gate process", time.Minute, func() bool {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", k.cmd.Process.Pid))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, word := range strings.Fields(string(text)) {
				if comm, _ := os.ReadFile("/proc/" + word + "/comm"); string(bytes.TrimSpace(comm)) == "gate" {
					found, _ = strconv.Atoi(word)
					return true
				}
			}
		}
		return false
	})
	return found
}

// results waits until every holder has ended, and returns what came of their opens.
func (k *kept) results() string {
	k.t.Helper()
	var all string
	waitFor(k.t, "the end of all who waited", time.Minute, func() bool {
		all = ""
		for i := range holders {
			text, _ := os.ReadFile(result(i))
			all += strings.TrimSpace(string(text))
		}
		return len(all) == holders
	})
	return all
}

// TestAccidents: whatever happens to a keeper or its gate process, nobody waits on, and
// nothing that was not judged happens where trust is enforced. What lives on goes on.
func TestAccidents(t *testing.T) {
	needVerdicts(t)
	for name, accident := range map[string]func(*kept){
		"keeper killed": func(k *kept) {
			_ = k.cmd.Process.Kill()
		},
		"gate process killed": func(k *kept) {
			if err := syscall.Kill(k.gatePID(), syscall.SIGKILL); err != nil {
				k.t.Fatal(err)
			}
		},
		"keeper stopped": func(k *kept) {
			if err := k.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				k.t.Fatal(err)
			}
		},
	} {
		for _, enforce := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, enforcing %v", name, enforce), func(t *testing.T) {
				want := strings.Repeat("0", holders)
				if enforce {
					want = strings.Repeat("1", holders)
				}
				deadline := "1m"
				if name == "keeper stopped" {
					deadline = "5s" // enough for an agent that trusts at once
				}
				k := startKeeper(t, deadline, enforce)
				k.do("hold")
				gate := k.gatePID()
				start := time.Now()
				accident(k)
				if got := k.results(); got != want {
					t.Errorf("those who waited ended with %s, want %s", got, want)
				}
				t.Logf("all were free after %v", time.Since(start))
				if name == "keeper killed" {
					return
				}
				_ = k.cmd.Process.Signal(syscall.SIGCONT)
				waitFor(t, "a new gate process", time.Minute, func() bool { return k.gatePID() != gate })
				k.do("trust")
				if got := k.results(); got != strings.Repeat("0", holders) {
					t.Errorf("with the new gate: %s", got)
				}
			})
		}
	}
}
