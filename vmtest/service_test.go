// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a systemd that manages services of the machine, though it is not its process 1: one of a
// user, who is root.
type manager struct {
	t       *testing.T
	runtime string
}

const systemd = "/lib/systemd/systemd"

// startManager starts one with the unit of the daemon, in which the program lies where it does here, until
// the test ends.
func startManager(t *testing.T) *manager {
	t.Helper()
	if _, err := os.Stat(systemd); err != nil {
		t.Skipf("systemd is not installed: %v", err)
	}
	// That systemd has started the machine is what it looks for.
	check(t, os.MkdirAll("/run/systemd/system", 0o755))
	t.Cleanup(func() { _ = os.Remove("/run/systemd/system") })
	needFile(t, "/sys/fs/cgroup/cgroup.procs", "CONFIG_CGROUPS")
	runtime, err := os.MkdirTemp("/run", "manager") // where names of sockets are short enough
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(runtime) })
	m := &manager{t, runtime}
	unit, err := os.ReadFile("../deploy/systemd/tsem-bpf.service")
	check(t, err)
	program, err := exec.LookPath("tsem-bpf")
	check(t, err)
	here := strings.Replace(string(unit), "/usr/local/bin/tsem-bpf daemon", program+" daemon --deadline 2m", 1)
	units := filepath.Join(m.runtime, "systemd", "user")
	check(t, os.MkdirAll(units, 0o755))
	check(t, os.WriteFile(filepath.Join(units, "tsem-bpf.service"), []byte(here), 0o644))
	const group = "/sys/fs/cgroup/manager"
	check(t, os.Mkdir(group, 0o755))
	folder, err := os.Open(group)
	check(t, err)
	defer folder.Close()
	cmd := exec.Command(systemd, "--user", "--log-target=console")
	cmd.Env, cmd.Stderr = m.environment(), os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = exec.Command("sh", "-c", "echo 1 >"+group+"/cgroup.kill").Run() // the services too
		_ = cmd.Wait()
	})
	for m.command("is-system-running").Run() != nil { // it does not listen yet
		time.Sleep(100 * time.Millisecond)
	}
	return m
}

func (m *manager) environment() []string { return append(os.Environ(), "XDG_RUNTIME_DIR="+m.runtime) }

func (m *manager) command(words ...string) *exec.Cmd {
	cmd := exec.Command("systemctl", append([]string{"--user"}, words...)...)
	cmd.Env = m.environment()
	return cmd
}

// do lets the manager do something with the daemon.
func (m *manager) do(verb string) {
	m.t.Helper()
	if out, err := m.command(verb, "tsem-bpf").CombinedOutput(); err != nil {
		status, _ := m.command("status", "tsem-bpf").CombinedOutput()
		m.t.Fatalf("systemctl %s: %v: %s\n%s", verb, err, out, status)
	}
}

// property returns what the manager knows of the daemon.
func (m *manager) property(name string) string {
	m.t.Helper()
	out, err := m.command("show", "tsem-bpf", "--value", "-p", name).Output()
	check(m.t, err)
	return strings.TrimSpace(string(out))
}

func (m *manager) expect(name, want string) {
	m.t.Helper()
	if got := m.property(name); got != want {
		m.t.Errorf("%s is %q, want %q", name, got, want)
	}
}

// TestService: with the rights that its unit leaves it the daemon does all its work. One that stands
// still is ended, and another one takes its place, and so does one that is started anew while tasks wait. What enforces goes on each time, with
// another orchestrator.
func TestService(t *testing.T) {
	needExternal(t)
	m := startManager(t)
	const folder = "/run/tsem"
	m.do("start")
	m.expect("ActiveState", "active")
	m.expect("StatusText", "0 namespaces, control plane at "+folder)
	hostname, err := os.ReadFile("/etc/hostname")
	check(t, err)
	lives := func() {
		t.Helper()
		said := orchestrate(t, orchestrator, folder, filepath.Join(t.TempDir(), "records"))
		if want := strings.Repeat(string(hostname), 2) + "released "; !strings.HasPrefix(said, want) {
			t.Errorf("said %q, want %q and how many", said, want)
		}
	}
	lives()
	m.do("reload")
	g := guard(t, folder)
	m.expect("NRestarts", "0")
	stopped, err := strconv.Atoi(m.property("MainPID"))
	check(t, err)
	check(t, unix.Kill(stopped, unix.SIGSTOP))
	for m.property("NRestarts") != "1" || m.property("ActiveState") != "active" {
		time.Sleep(time.Second)
	}
	lives()
	g.first.loses()
	orchestrator := g.takeOver()
	check(t, orchestrator.Process.Signal(unix.SIGSTOP))
	g.waits()
	m.do("restart")
	m.expect("ActiveState", "active")
	m.expect("StatusText", "1 namespaces, control plane at "+folder)
	g.waits()
	g.takeOver()
	check(t, orchestrator.Process.Signal(unix.SIGCONT))
	orchestrator.loses()
	g.safe()
	g.end()
	m.do("stop")
	m.expect("ActiveState", "inactive")
	m.expect("Result", "success")
	if files, err := os.ReadDir(folder); err != nil || len(files) > 0 {
		t.Errorf("%d files, %v", len(files), err)
	}
}
