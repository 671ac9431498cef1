// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

// orchestrator is one for a shell, of two processes (semantics, 6.3): the workload makes its own
// namespace; its parent reads the records and releases each event that waits. The script ends with the
// workload, and says how many it has released.
const orchestrator = `
cd "$1" || exit 1
sh -c 'echo external nsref=current >control && exec cat /etc/hostname /etc/hostname' &
until read -r id 2>/dev/null <id; do sleep 0.01; done
exec 3>control
released=0
while [ -e external_tma/$id ]; do
	record=$(cat external_tma/$id 2>/dev/null) || { sleep 0.01; continue; }
	echo "$record" >>"$2"
	case $record in
	'{"export": {"type": "event"}'*)
		pid=${record#*'"pid": "'}
		tnum=${record#*'"tnum": "'}
		echo "trusted pid=${pid%%\"*} tnum=${tnum%%\"*}" >&3 || exit 2
		released=$((released + 1))
	esac
done
wait $! || exit 3
echo "released $released"
`

// monitored is an orchestrator of three processes, as TSEM v3 has them (semantics, 6.1): the middle one
// makes the namespace, lives in it, reads the records and must do nothing meanwhile that waits,
// since it alone reads; its parent releases the events, by key. Opening files of the control
// plane is what it does for each record.
const monitored = `
cd "$1" || exit 1
key=$(printf %064d 7)
mkfifo "$2.records"
exec 3>control
(
	exec 2>/dev/null
	echo "external key=$key" >&3 || exit 1
	read -r id <id
	echo enforce >&3 || exit 1
	ended=
	trap 'ended=1' CHLD
	(read -r line </etc/hostname && echo "$line" >"$2") &
	while :; do
		if read -r record <external_tma/$id; then
			echo "$record"
		elif [ $ended ]; then
			break
		fi
	done
) >"$2.records" &
released=0
while read -r record; do
	case $record in
	'{"export": {"type": "event"}'*)
		pid=${record#*'"pid": "'}
		echo "trusted pid=${pid%%\"*} key=$key" >&3 || exit 2
		released=$((released + 1))
	esac
done <"$2.records"
wait $! || exit 3
echo "released $released"
`

// threeProcesses does the same in another language, for a workload of any size, as clients of TSEM v3
// do it: the one in the middle has its files open before it forks the workload, reads through
// one descriptor, at offset 0, and waits in poll; what it writes to control goes through a descriptor
// that it has inherited.
const threeProcesses = `
import ctypes, errno, json, os, select, sys
plane, workload = sys.argv[1:]
control = os.open(plane + "/control", os.O_WRONLY)
key = os.urandom(32).hex()
source, sink = os.pipe()
middle = os.fork()
if not middle:
    os.close(source)
    os.write(control, f"external nsref=current cache=128 key={key}\n".encode())
    id, byte = b"", b""
    file = os.open(plane + "/id", os.O_RDONLY)
    while (byte := os.read(file, 1)) != b"\n":
        id += byte
    os.write(control, b"enforce\n")
    os.write(control, b"seal\n")
    records = os.open(plane + "/external_tma/" + id.decode(), os.O_RDONLY)
    poll = select.poll()
    poll.register(records, select.POLLIN)
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(24, 33)  # PR_CAPBSET_DROP, CAP_MAC_ADMIN
        os.execvp("sh", ["sh", "-c", workload])
    ended = False
    while not ended:
        ended = os.waitpid(child, os.WNOHANG)[0] != 0
        poll.poll(100)
        while True:
            try:
                record = os.read(records, 4096)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
                break
            os.lseek(records, 0, os.SEEK_SET)
            os.write(sink, record)
    os._exit(0)
os.close(sink)
released = 0
for line in os.fdopen(source):
    record = json.loads(line)
    if record["export"]["type"] == "event":
        os.write(control, f"trusted pid={record['event']['pid']} key={key}\n".encode())
        released += 1
print("released", released)`

// startDaemon starts tsem-bpf daemon, with more in its environment, and returns what it says, a line at a time.
func startDaemon(t *testing.T, folder string, environment ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	return configuredDaemon(t, folder, "", environment...)
}

// configuredDaemon is startDaemon with more lines of a configuration file.
func configuredDaemon(t *testing.T, folder, config string, environment ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "daemon.conf")
	check(t, os.WriteFile(file, []byte("mount = "+folder+"\ndeadline = 2m\n"+config), 0o600))
	cmd := exec.Command("tsem-bpf", "daemon", "--config", file)
	cmd.Env = append(os.Environ(), environment...)
	stderr, err := cmd.StderrPipe()
	check(t, err)
	// With room for what Go's runtime says of a daemon that crashes, which ends only then.
	_, err = unix.FcntlInt(stderr.(*os.File).Fd(), unix.F_SETPIPE_SZ, 1<<20)
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = unix.Unmount(folder, unix.MNT_DETACH)
	})
	lines := bufio.NewScanner(stderr)
	expectLine(t, lines, "the control plane is at "+folder)
	return cmd, lines
}

// untilEnd returns what a tsem-bpf says until it ends, which has to succeed. It was told to.
func untilEnd(t *testing.T, cmd *exec.Cmd, lines *bufio.Scanner) (said string) {
	t.Helper()
	for lines.Scan() {
		t.Log(lines.Text())
		said += lines.Text() + "\n"
	}
	check(t, cmd.Wait())
	return said
}

// expectLine reads up to a line with a text.
func expectLine(t *testing.T, lines *bufio.Scanner, text string) string {
	t.Helper()
	for lines.Scan() {
		t.Log(lines.Text())
		if strings.Contains(lines.Text(), text) {
			return lines.Text()
		}
	}
	t.Fatalf("tsem-bpf ended without saying %q", text)
	return ""
}

// orchestrate runs a script with the files of the control plane in a folder, and a file of its own, and
// returns what it says.
func orchestrate(t *testing.T, script, folder, file string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script, "orchestrator", folder, file)
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return string(said)
}

// TestDaemon: an orchestrator lets its workload go through, event by event.
func TestDaemon(t *testing.T) {
	needExternal(t)
	folder, records := filepath.Join(t.TempDir(), "tsem"), filepath.Join(t.TempDir(), "records")
	daemon, lines := startDaemon(t, folder)
	said := orchestrate(t, orchestrator, folder, records)
	text, err := os.ReadFile(records)
	check(t, err)
	waited := strings.Count("\n"+string(text), "\n"+`{"export": {"type": "event"}`)
	if !strings.HasPrefix(string(text), `{"export": {"type": "aggregate"}`) || waited == 0 {
		t.Errorf("%d events waited\n%s", waited, text)
	}
	hostname, err := os.ReadFile("/etc/hostname")
	check(t, err)
	if want := strings.Repeat(string(hostname), 2) + "released " + strconv.Itoa(waited) + "\n"; said != want {
		t.Errorf("said %q, want %q", said, want)
	}
	end := expectLine(t, lines, " releases late")
	if !strings.Contains(end, ", "+strconv.Itoa(waited)+" released by its orchestrator, 0 not in time, 0 releases late") {
		t.Errorf("%d waited: %s", waited, end)
	}
	check(t, daemon.Process.Signal(unix.SIGTERM))
	untilEnd(t, daemon, lines)
	if _, err := os.Stat(filepath.Join(folder, "control")); !os.IsNotExist(err) {
		t.Errorf("the files are still there: %v", err)
	}
}

// TestDaemonReaderInside: a reader of the records that is in the namespace itself does not wait for its
// own opening of them.
func TestDaemonReaderInside(t *testing.T) {
	needExternal(t)
	folder, out := filepath.Join(t.TempDir(), "tsem"), filepath.Join(t.TempDir(), "out")
	_, lines := startDaemon(t, folder)
	said := orchestrate(t, monitored, folder, out)
	released, ok := strings.CutPrefix(strings.TrimSpace(said), "released ")
	end := expectLine(t, lines, " releases late")
	if !ok || released == "0" || !strings.Contains(end, ", "+released+" released by its orchestrator, 0 not in time, 0 releases late") {
		t.Errorf("said %q; %s", said, end)
	}
	got, err := os.ReadFile(out)
	check(t, err)
	want, err := os.ReadFile("/etc/hostname")
	check(t, err)
	if string(got) != string(want) {
		t.Errorf("the workload said %q, want %q", got, want)
	}
}

// TestDaemonManyEvents: each of many events (with TSEM_ROUNDS=10 more than 5,000) is released by the
// orchestrator, once, in the sequence of TSEM v3 with a key as well as in the later one without.
func TestDaemonManyEvents(t *testing.T) {
	needExternal(t)
	most := 500 * rounds(t, 1)
	_, lines := startDaemon(t, "/run/tsem")
	workload := fmt.Sprintf("i=0; while [ $i -lt %d ]; do read x </etc/hostname || exit; i=$((i+1)); done; echo done", most)
	for name, cmd := range map[string]*exec.Cmd{
		"three processes and a key": exec.Command("python3", "-c", threeProcesses, "/run/tsem", workload),
		"two processes":             exec.Command("../examples/orchestrator.py", "learn", "/dev/null", "--", "sh", "-c", workload),
	} {
		t.Run(name, func(t *testing.T) {
			cmd.Stderr = os.Stderr
			said, err := cmd.Output()
			if err != nil || !strings.HasPrefix(string(said), "done\n") {
				t.Fatalf("%v: %s", err, said)
			}
			end := expectLine(t, lines, " releases late")
			var namespace, events, released int
			_, err = fmt.Sscanf(end[strings.Index(end, "namespace "):], "namespace %d has ended: %d events, %d released by its orchestrator, 0 not in time, 0 releases late", &namespace, &events, &released)
			if err != nil || released < most {
				t.Errorf("%v, %d released", err, released)
			}
			if own, ok := strings.CutPrefix(string(said), "done\nreleased "); ok && strings.TrimSpace(own) != strconv.Itoa(released) {
				t.Errorf("it has released %s", own)
			}
		})
	}
}

// TestDaemonOrchestratorKilled: when the orchestrator is killed, its workload waits no longer.
func TestDaemonOrchestratorKilled(t *testing.T) {
	needExternal(t)
	folder := filepath.Join(t.TempDir(), "tsem")
	_, lines := startDaemon(t, folder)
	out := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command("sh", "-c", `cd "$1"; sh -c 'echo external >control && exec cat /etc/hostname' >"$2" & wait`, "orchestrator", folder, out)
	check(t, cmd.Start())
	for waits := false; !waits; time.Sleep(10 * time.Millisecond) { // when its first record is there
		files, _ := filepath.Glob(filepath.Join(folder, "external_tma", "*"))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			waits = waits || strings.Contains(string(text), `"type": "event"`)
		}
	}
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
	expectLine(t, lines, "nobody judges its events")
	expectLine(t, lines, " releases late")
	if text, err := os.ReadFile(out); err != nil || len(text) == 0 {
		t.Errorf("the workload said %q, %v", text, err)
	}
}

// TestDaemonKilled: there is one control plane at a time, and one that was killed makes room.
func TestDaemonKilled(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "tsem")
	daemon, _ := startDaemon(t, folder)
	second := exec.Command("tsem-bpf", "daemon", "--mount", filepath.Join(t.TempDir(), "other"))
	if said, err := second.CombinedOutput(); second.ProcessState.ExitCode() != 125 || !strings.Contains(string(said), "another tsem-bpf daemon serves orchestrators on this host, and there can be one") {
		t.Errorf("a second one: %v, %s", err, said)
	}
	check(t, daemon.Process.Kill())
	_ = daemon.Wait()
	if _, err := os.ReadFile(filepath.Join(folder, "README")); err == nil {
		t.Error("somebody still serves the files")
	}
	startDaemon(t, folder)
	if _, err := os.ReadFile(filepath.Join(folder, "README")); err != nil {
		t.Error(err)
	}
}

// unnamed returns the keepers of the namespaces that nobody has asked for.
func unnamed() (keepers []int) {
	for index := uint32(1); index < engine.NamespacesMax(); index++ {
		if state := engine.Namespace(index); atomic.LoadUint64(&state.Id) == loader.Unnamed {
			keepers = append(keepers, int(atomic.LoadUint32(&state.Keeper)))
		}
	}
	return keepers
}

// asked writes a command and says how long that took. It opens nothing afterwards, which would have to
// be judged.
const asked = `import os, sys, time
control = os.open(sys.argv[1] + "/control", os.O_WRONLY)
start = time.monotonic()
os.write(control, sys.argv[2].encode() + b"\n")
os.write(1, b"%f" % (time.monotonic() - start))
os._exit(0)`

// TestDaemonReady: a namespace is there before it is asked for, which nobody sees. It ends with the
// daemon, and if that was killed with the next one. Numbers have no gap.
func TestDaemonReady(t *testing.T) {
	needExternal(t)
	folder := filepath.Join(t.TempDir(), "tsem")
	daemon, _ := startDaemon(t, folder)
	for !slices.Contains(unnamed(), daemon.Process.Pid) {
		time.Sleep(10 * time.Millisecond)
	}
	says(t, 0, "namespaces  0\n", "engine", "status")
	ask := func(command string) (seconds float64) {
		t.Helper()
		cmd := exec.Command("python3", "-c", asked, folder, command)
		cmd.Stderr = os.Stderr
		said, err := cmd.Output()
		check(t, err)
		seconds, err = strconv.ParseFloat(string(said), 64)
		check(t, err)
		return seconds
	}
	export, own := ask("export"), ask("external cache=128")
	ready := ask("external nsref=current digest=sha512")
	t.Logf("external takes %.1f ms, %.1f ms with a size of its own, which is %.0f times as long; export %.1f ms", 1e3*ready, 1e3*own, own/ready, 1e3*export)
	var ids []int
	files, err := os.ReadDir(filepath.Join(folder, "external_tma"))
	check(t, err)
	for _, file := range files {
		id, err := strconv.Atoi(file.Name())
		check(t, err)
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) < 2 || ids[len(ids)-1]-ids[len(ids)-2] != 1 { // nobody reads the aggregate, so that they are still there
		t.Errorf("namespaces %d", ids)
	}
	for !slices.Contains(unnamed(), daemon.Process.Pid) {
		time.Sleep(10 * time.Millisecond)
	}
	check(t, daemon.Process.Kill())
	_ = daemon.Wait()
	if left := unnamed(); !slices.Contains(left, 0) {
		t.Errorf("a killed daemon has left %d", left)
	}
	daemon, lines := startDaemon(t, folder)
	if slices.Contains(unnamed(), 0) {
		t.Error("what a killed daemon has left is still there")
	}
	check(t, daemon.Process.Signal(unix.SIGTERM))
	untilEnd(t, daemon, lines)
	if left := unnamed(); len(left) > 0 {
		t.Errorf("a daemon has left %d", left)
	}
}

// TestDaemonService: a service manager learns when the files are there, that work moves, and of the end.
func TestDaemonService(t *testing.T) {
	folder, address := filepath.Join(t.TempDir(), "tsem"), filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenPacket("unixgram", address)
	check(t, err)
	defer socket.Close()
	told := func() string {
		t.Helper()
		message := make([]byte, 1024)
		n, _, err := socket.ReadFrom(message)
		check(t, err)
		return string(message[:n])
	}
	daemon, lines := startDaemon(t, folder, "NOTIFY_SOCKET="+address, "WATCHDOG_USEC=4000000")
	status := "\nSTATUS=0 namespaces, control plane at " + folder
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := told(); got != want+status {
			t.Errorf("told %q, want %q", got, want+status)
		}
	}
	check(t, daemon.Process.Signal(unix.SIGTERM))
	last := told()
	for strings.HasPrefix(last, "WATCHDOG=1") {
		last = told()
	}
	if last != "STOPPING=1" {
		t.Errorf("told %q at the end", last)
	}
	untilEnd(t, daemon, lines)
}

// TestDaemonKilledWhileItWaits: a daemon that waits for an answer of its own file system when it is killed is gone at once, and
// another one takes its place. The watchdog asks so often here that there is nearly always such a wait.
func TestDaemonKilledWhileItWaits(t *testing.T) {
	const hung = time.Minute // much longer than a busy machine takes, much shorter than for ever
	address := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenPacket("unixgram", address)
	check(t, err)
	defer socket.Close()
	go func() {
		for message := make([]byte, 1024); ; {
			if _, _, err := socket.ReadFrom(message); err != nil {
				return
			}
		}
	}()
	folder := filepath.Join(t.TempDir(), "tsem")
	for range rounds(t, 10) {
		daemon, _ := startDaemon(t, folder, "NOTIFY_SOCKET="+address, "WATCHDOG_USEC=2")
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		check(t, daemon.Process.Kill())
		ended := make(chan error, 1)
		go func() { ended <- daemon.Wait() }()
		select {
		case <-ended:
		case <-time.After(hung):
			stacks, _ := exec.Command("sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/stack", daemon.Process.Pid)).CombinedOutput()
			abortConnections(t)
			t.Fatalf("a daemon lives %v after it was killed:\n%s", hung, stacks)
		}
	}
}

// abortConnections ends all file systems of FUSE.
func abortConnections(t *testing.T) {
	t.Helper()
	out, err := exec.Command("sh", "-c", "mount -t fusectl fusectl /sys/fs/fuse/connections; for f in /sys/fs/fuse/connections/*/abort; do echo 1 >$f; done").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
