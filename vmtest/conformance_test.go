// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disobedient makes a namespace, tries what no task in one may do, and opens a file twice. It waits for a line
// before each of two steps. Its subshell tries to release it, with the right key, and outlives it.
const disobedient = `
exec 5>control
echo "external key=$KEY" >&5 || exit 1
exec 2>/dev/null
echo external >&5 && exit 2
read -r id <id || exit 3
read -r aggregate <aggregate && exit 4
(read -r go <&4; if echo "trusted pid=$$ key=$KEY" >&5; then echo released; else echo refused; fi; read -r go <&4) &
read -r line </etc/hostname && echo first
read -r go <&3
read -r id <id && exit 6
read -r line </etc/hostname && echo second
read -r go <&3
exit 0`

// planeRecords reads the records of one namespace.
type planeRecords struct {
	fd  int
	all []object
}

// event waits for the next event of a type, and returns who waits with it. Those before it are given to release.
func (r *planeRecords) event(t *testing.T, kind string, release func(pid, tnum string)) (pid, tnum string) {
	t.Helper()
	buffer := make([]byte, 4096)
	for {
		n, err := unix.Pread(r.fd, buffer, 0)
		if errors.Is(err, unix.ENODATA) {
			if got := polled(t, r.fd); got != unix.POLLIN {
				t.Fatalf("no %s; polled %#x", kind, got)
			}
			continue
		}
		check(t, err)
		var record object
		check(t, json.Unmarshal(buffer[:n], &record))
		r.all = append(r.all, record)
		if at(record, "export.type") != "event" {
			continue
		}
		pid, tnum = at(record, "event.pid").(string), at(record, "event.tnum").(string)
		if at(record, "event.type") == kind {
			return pid, tnum
		}
		release(pid, tnum)
	}
}

// TestDaemonErrors: what is refused has the errno that is documented and changes nothing, a verdict about nobody who
// waits succeeds and is counted, and a task that waits is released by the right words of the right process alone,
// from whichever thread.
func TestDaemonErrors(t *testing.T) {
	needExternal(t)
	folder := filepath.Join(t.TempDir(), "tsem")
	_, lines := startDaemon(t, folder)
	control := openRaw(t, folder+"/control", unix.O_WRONLY)
	key, wrong := strings.Repeat("5a", 32), strings.Repeat("a5", 32)
	write := func(command string, want error) {
		t.Helper()
		if n, err := unix.Write(control, []byte(command)); err != want || err == nil && n != len(command) {
			t.Errorf("%.140q: %d, %v, want %v", command, n, err, want)
		}
	}
	for _, command := range []string{
		"", "lock", "Seal", "seal ", "seal now", "enforce", "seal", "state value=00",
		"external key=" + key[1:], "external key=" + key[2:], "external key=" + key[1:] + "g", "external digest=md5", "external cache=0", "export cache=x",
		"external nsref=here", "external pid=1", "external  cache=1", "external digest=sha384 key=" + key,
		"trusted", "trusted pid=5", "trusted tnum=5", "trusted pid=0 tnum=5", "trusted pid=x tnum=5", "trusted pid=5 key=" + key[1:],
		"takeover", "takeover key=" + key, "takeover id=0", "takeover id=x", "takeover id=1 tnum=5", "takeover id=1 key=" + key[1:],
	} {
		write(command+"\n", unix.EINVAL)
	}
	write("external model="+strings.Repeat("x", 112)+"\n", unix.EINVAL) // 128 bytes
	write("external", unix.EINVAL)
	write("internal\n", unix.EOPNOTSUPP)
	write("takeover id=4711\n", unix.ENOENT)
	write("trusted pid=1 tnum=1\n", nil) // of nobody
	if names, err := os.ReadDir(folder + "/external_tma"); err != nil || len(names) > 0 {
		t.Errorf("%v, %v after commands that were refused", names, err)
	}
	if _, err := unix.Open(folder+"/id", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("id after commands that were refused: %v", err)
	}
	stranger := func(script string, environment ...string) string {
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir, cmd.Env = folder, append(os.Environ(), environment...)
		said, _ := cmd.CombinedOutput()
		return string(said)
	}
	if said := stranger("setpriv --bounding-set=-mac_admin sh -c 'echo export >control; read x <id'"); strings.Count(said, "Operation not permitted") != 2 {
		t.Errorf("without capability: %s", said)
	}

	cmd := exec.Command("sh", "-c", disobedient)
	cmd.Dir, cmd.Env, cmd.Stderr = folder, append(os.Environ(), "KEY="+key), os.Stderr
	var tell [2]*os.File
	for i := range tell {
		read, write, err := os.Pipe()
		check(t, err)
		defer write.Close()
		cmd.ExtraFiles, tell[i] = append(cmd.ExtraFiles, read), write
	}
	stdin, stdout := piped(t, cmd)
	defer stdin.Close()
	for _, file := range cmd.ExtraFiles {
		file.Close()
	}
	var id string
	waitFor(t, "id", time.Minute, func() bool {
		text, err := os.ReadFile(folder + "/id")
		id = strings.TrimSpace(string(text))
		return err == nil
	})
	says := func(want string) {
		t.Helper()
		line := make([]byte, len(want))
		if _, err := io.ReadFull(stdout, line); err != nil || string(line) != want {
			t.Fatalf("it says %q, %v, want %q", line, err, want)
		}
	}
	records := planeRecords{fd: openRaw(t, folder+"/external_tma/"+id, unix.O_RDONLY)}
	released, late := 0, 0
	release := func(pid, tnum string) {
		write("trusted pid="+pid+" tnum="+tnum+" key="+key+"\n", nil)
		released++
	}
	pid, tnum := records.event(t, "file_open", release)
	for _, words := range []string{" tnum=" + tnum, " key=" + wrong, " key=00", " tnum=" + tnum + " key=" + wrong} {
		write("trusted pid="+pid+words+"\n", unix.EINVAL)
	}
	write("trusted pid=1 tnum="+tnum+" key="+key+"\n", unix.EINVAL)
	for _, words := range []string{"pid=1", "pid=" + pid + " tnum=18446744073709551615", "pid=" + pid + " number=18446744073709551615"} {
		write("untrusted "+words+" key="+key+"\n", nil) // of nobody who waits
		late++
	}
	const try = `echo "trusted pid=$PID key=$KEY" >control || echo "trusted pid=$PID tnum=$TNUM" >control`
	for name, script := range map[string]string{
		"a stranger": try,
		"another orchestrator": `mkfifo $FIFO; sh -c "echo external key=$KEY >control && read -r go" <$FIFO & exec 3>$FIFO
			until read -r id 2>/dev/null <id; do sleep 0.01; done; ` + try,
	} {
		if said := stranger(script, "PID="+pid, "TNUM="+tnum, "KEY="+key, "FIFO="+filepath.Join(t.TempDir(), "fifo")); strings.Count(said, "I/O error")+strings.Count(said, "Invalid argument") != 2 {
			t.Errorf("%s: %s", name, said)
		}
	}
	fmt.Fprintln(tell[1])
	says("refused\n")
	release(pid, tnum)
	says("first\n")

	write("enforce\n", nil)
	write("seal\n", nil)
	write("seal\n", unix.EPERM)
	write("enforce\n", unix.EPERM)
	fmt.Fprintln(tell[0])
	release(records.event(t, "file_open", release))
	says("second\n")
	write("untrusted pid="+pid+" key="+key+"\n", nil) // it waits no longer
	late++
	fmt.Fprintln(tell[0])
	check(t, cmd.Wait())
	write("trusted pid="+pid+" key="+key+"\n", nil) // it is gone, and its subshell is not
	late++
	hangUp := []unix.PollFd{{Fd: int32(records.fd)}} // nothing else
	if n, _ := unix.Poll(hangUp, 300); n > 0 {
		t.Errorf("polled %#x while a task is left", hangUp[0].Revents)
	}
	check(t, tell[1].Close())
	if got := records.all[0]; at(got, "export.type") != "aggregate" {
		t.Errorf("the first record is %v", got)
	}
	for polled(t, records.fd) == unix.POLLIN {
		_, err := unix.Pread(records.fd, make([]byte, 1), 0)
		check(t, err)
	}
	end := expectLine(t, lines, "namespace "+id+" has ended")
	if want := fmt.Sprintf(" %d released by its orchestrator, 0 not in time, %d releases late", released, late); !strings.Contains(end, want) {
		t.Errorf("%s, want%s", end, want)
	}
	write("trusted pid="+pid+" key="+key+"\n", nil) // its namespace is gone as well
	if got := polled(t, records.fd); got != unix.POLLHUP {
		t.Errorf("polled %#x", got)
	}
}

// TestDaemonManyAtOnce: 50 orchestrators with a namespace each see all that their workloads do, and half of them release
// it, however they read, beside one that stalls, one that is killed, and readers that are killed or stop with a record
// that nobody else has.
func TestDaemonManyAtOnce(t *testing.T) {
	needExternal(t)
	const many, opens = 50, 8
	before := belongingsNow(t)
	folder := filepath.Join(t.TempDir(), "tsem")
	daemon, lines := startDaemon(t, folder)
	cmd := exec.Command("python3", "orchestrators.py", folder, fmt.Sprint(many), fmt.Sprint(opens))
	cmd.Stderr, cmd.WaitDelay = os.Stderr, 10*time.Second
	said, err := cmd.Output()
	if err != nil {
		_ = daemon.Process.Kill()
		for lines.Scan() {
			t.Log(lines.Text())
		}
		t.Fatalf("%v: %s", err, said)
	}
	ended := make(map[int]int) // events that were released, by namespace
	for range many {
		end := expectLine(t, lines, " releases late")
		var id, events, released int
		if _, err := fmt.Sscanf(end[strings.Index(end, "namespace "):], "namespace %d has ended: %d events, %d released by its orchestrator, 0 not in time, 0 releases late", &id, &events, &released); err != nil {
			t.Error(err)
		}
		ended[id] = released
	}
	told := 0
	for line := range strings.Lines(string(said)) {
		var id, seen, released int
		if _, err := fmt.Sscan(line, &id, &seen, &released); err == nil {
			if told++; seen < opens || released != 0 && released != seen || released != ended[id] {
				t.Errorf("namespace %d: its orchestrator has seen %d events and released %d, by the daemon %d", id, seen, released, ended[id])
			}
		}
	}
	if told != many-2 || len(ended) != many {
		t.Errorf("%d orchestrators came to their end, and %d namespaces:\n%s", told, len(ended), said)
	}
	check(t, daemon.Process.Signal(unix.SIGTERM))
	untilEnd(t, daemon, lines)
	nothingLeft(t, before)
}

// TestDaemonOperations does random operations on the files, by four processes, each of which knows what has to come
// of them, and no task is released but by its orchestrator with the right words. FuzzPlane of package daemon does
// more of them without a kernel; make soak does 10,000 here in each round. It prints the seed; TSEM_SEED chooses it.
func TestDaemonOperations(t *testing.T) {
	needExternal(t)
	folder := filepath.Join(t.TempDir(), "tsem")
	daemon, lines := startDaemon(t, folder)
	go func() {
		for lines.Scan() { // each refusal
		}
	}()
	type held struct{ descriptors, maps, gates int }
	holds := func() held {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemon.Process.Pid))
		check(t, err)
		return held{len(entries), bpfObjects(t, "map"), len(processesOf(t, "gate"))}
	}
	operate := func(seed uint64, operations int) {
		t.Helper()
		cmd := exec.Command("python3", "operations.py", folder, fmt.Sprint(seed), fmt.Sprint(operations))
		cmd.WaitDelay = 10 * time.Second
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	seeds := chance(t)
	operate(1, 200) // what is there from the first use on
	before := holds()
	repeat(t, 1, func(t *testing.T) {
		operate(seeds.Uint64(), 10_000)
	})
	eventually(t, "what the daemon holds", before, holds)
	if names, err := os.ReadDir(folder + "/external_tma"); err != nil || len(names) > 0 {
		t.Errorf("%v, %v are left", names, err)
	}
	check(t, daemon.Process.Signal(unix.SIGTERM))
	check(t, daemon.Wait())
}
