// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// guarded is a workload in a namespace that enforces. It opens what its orchestrators trust and what they do not, over and
// over, the latter in children: its shell stays trusted.
type guarded struct {
	t                     *testing.T
	folder, key, id       string
	done, refused, leaked atomic.Uint64 // opens that are trusted, and happened or not, and those that are not trusted and happened
	first                 *judging
}

const guardedScript = `exec 2>/dev/null
while :; do
	(read -r x </etc/shadow) && echo leak
	if read -r x </etc/hostname; then echo done; else echo refused; fi
done`

// guard starts one, with its first orchestrator.
func guard(t *testing.T, folder string) *guarded {
	t.Helper()
	g := &guarded{t: t, folder: folder, key: strings.Repeat("5a", 32)}
	said, out, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { _ = said.Close() })
	g.first = judge(t, out, "start", folder, g.key, "sh", "-c", guardedScript)
	check(t, out.Close())
	g.id = g.first.says("")
	go count(bufio.NewReader(said), map[string]*atomic.Uint64{"done": &g.done, "refused": &g.refused, "leak": &g.leaked})
	g.grows("trusted opens", &g.done)
	return g
}

func (g *guarded) grows(what string, n *atomic.Uint64) {
	g.t.Helper()
	before := n.Load()
	waitFor(g.t, what, 2*time.Minute, func() bool { return n.Load() >= before+3 })
}

// becomes waits until the namespace is shown as of a kind.
func (g *guarded) becomes(kind string) {
	g.t.Helper()
	waitFor(g.t, kind, time.Minute, func() bool {
		list, _ := exec.Command("tsem-bpf", "ns", "list").Output()
		return strings.Contains(string(list), "\n"+g.id+" ") && strings.Contains(string(list), "  "+kind+"  ")
	})
}

// waits waits until an event waits.
func (g *guarded) waits() {
	g.t.Helper()
	waitFor(g.t, "an event that waits", time.Minute, func() bool {
		table, _ := exec.Command("tsem-bpf", "pending", "--json").Output()
		return strings.Contains(string(table), fmt.Sprintf(`"namespace":%s,`, g.id))
	})
}

// try starts an orchestrator that wants to take over.
func (g *guarded) try(key string) *judging {
	g.t.Helper()
	return judge(g.t, nil, "takeover", g.folder, key, g.id)
}

// takeOver lets another orchestrator take over, with which the workload goes on.
func (g *guarded) takeOver() *judging {
	g.t.Helper()
	j := g.try(g.key)
	j.says(g.id)
	g.grows("trusted opens", &g.done)
	return j
}

// safe expects that nothing has happened that is not trusted.
func (g *guarded) safe() {
	g.t.Helper()
	if n := g.leaked.Load(); n != 0 {
		g.t.Errorf("%d opens happened that are not trusted", n)
	}
}

// end kills all there is of it.
func (g *guarded) end() {
	_ = unix.Kill(-g.first.Process.Pid, unix.SIGKILL)
	_ = g.first.Wait()
}

// judging is an orchestrator: successor.py.
type judging struct {
	*exec.Cmd
	t     *testing.T
	lines *bufio.Scanner
}

// judge starts one. Its workload writes to a file.
func judge(t *testing.T, out *os.File, words ...string) *judging {
	t.Helper()
	j := &judging{Cmd: exec.Command("python3", append([]string{"successor.py"}, words...)...), t: t}
	j.Stdout = out
	j.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := j.StderrPipe()
	check(t, err)
	check(t, j.Start())
	t.Cleanup(func() {
		_ = unix.Kill(-j.Process.Pid, unix.SIGKILL) // its workload too
		_ = j.Wait()
	})
	j.lines = bufio.NewScanner(stderr)
	return j
}

// says expects the next line, whatever it is if that is not given, and returns it.
func (j *judging) says(want string) string {
	j.t.Helper()
	if !j.lines.Scan() || want != "" && j.lines.Text() != want {
		j.t.Fatalf("%v says %q, want %q", j.Args, j.lines.Text(), want)
	}
	return j.lines.Text()
}

// loses expects that it ends because the daemon is gone.
func (j *judging) loses() {
	j.t.Helper()
	// What is under way is aborted, what comes later finds no connection.
	if why := j.says(""); !strings.HasPrefix(why, "lost: ") || !strings.HasSuffix(why, " ENOTCONN") && !strings.HasSuffix(why, " ECONNABORTED") {
		j.t.Errorf("an orchestrator without a daemon says %q", why)
	}
}

// TestDaemonTakeover: what is judged untrusted does not happen, and what is trusted happens again, when an orchestrator is killed and
// another one takes over, and when the daemon is killed while tasks wait and another one begins: with the right key alone. When
// nobody takes over, root can set the tasks free. (TestService has the daemon that a signal ends.)
func TestDaemonTakeover(t *testing.T) {
	needExternal(t)
	folder := filepath.Join(t.TempDir(), "tsem")
	daemon, _ := startDaemon(t, folder)
	g := guard(t, folder)
	wrong := strings.Repeat("a5", 32)

	check(t, g.first.Process.Kill()) // the workload, in its process group, lives on
	g.grows("opens without an orchestrator", &g.refused)
	g.becomes("external, waits for an orchestrator")
	g.try(wrong).says("lost: takeover EINVAL")
	second := g.takeOver()
	g.becomes("external")

	// A task waits for an orchestrator that has stopped, when the daemon is killed.
	check(t, second.Process.Signal(unix.SIGSTOP))
	g.waits()
	check(t, daemon.Process.Kill())
	_ = daemon.Wait()
	g.grows("opens without a daemon", &g.refused)
	g.becomes("external, orphaned")
	check(t, second.Process.Signal(unix.SIGCONT))
	second.loses()
	begins := time.Now()
	_, lines := startDaemon(t, folder)
	g.waits()
	before := g.refused.Load()
	g.becomes("external, waits for an orchestrator")
	g.try(wrong).says("lost: takeover EINVAL")
	third := g.takeOver()
	const window = time.Minute // half of the deadline
	// One that was refused before may be said only now.
	if after := g.refused.Load(); after > before+1 && time.Since(begins) < window {
		t.Errorf("%d opens were refused while they waited for an orchestrator", after-before)
	}

	says(t, 1, "the namespace has a keeper", "ns", "end", g.id)
	check(t, third.Process.Kill())
	g.becomes("external, waits for an orchestrator")
	g.safe()
	says(t, 0, "", "ns", "end", g.id)
	expectLine(t, lines, "namespace "+g.id+" has ended")
	g.grows("opens in no namespace", &g.leaked)
}
