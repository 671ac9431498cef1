// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const holders = 4 // threads that wait in an accident

var held = work + "/held"

// What a holder's open came to.
const (
	waits = iota
	happened
	refused
	failed
)

// A scene is the memory that a test shares with the agent and the workload of an accident:
// what they do there is no event.
type scene struct {
	round   atomic.Uint32 // the holders are to open their files once more
	stop    atomic.Uint32 // the workload is to end
	over    atomic.Uint32 // it has
	agent   atomic.Uint32 // its process id
	asked   atomic.Uint32 // events that the agent does not answer, since a holder waits with each
	held    [holders]atomic.Uint32
	done    atomic.Uint64 // what the rest of the workload could do
	refused atomic.Uint64 // and what it could not
}

// sceneOf returns the scene in which this process plays, and the folder of its files, which TSEM_SCENE names.
func sceneOf() (s *scene, folder string) {
	folder = os.Getenv("TSEM_SCENE")
	return shared[scene](folder + "/scene"), folder
}

func heldFile(folder string, i int) string { return fmt.Sprint(folder, "/held.", i) }

// Members of a record that a reply needs; of none can a name in the record make another one.
var (
	recordType  = regexp.MustCompile(`^{"export": {"type": "event"}`)
	asyncType   = regexp.MustCompile(`^{"export": {"type": "async_event"}`)
	recordPid   = regexp.MustCompile(`"pid": "(\d+)"`)
	recordTnum  = regexp.MustCompile(`"tnum": "(\d+)"`)
	recordEvent = regexp.MustCompile(`"number": "(\d+)"`)
)

// agent trusts everything, but says nothing about opens of the held files.
func agent() {
	s, folder := sceneOf()
	s.agent.Store(uint32(os.Getpid()))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20) // an attribute of 64 KiB, escaped
	for lines.Scan() {
		line := lines.Bytes()
		if !recordType.Match(line) {
			continue
		}
		if bytes.Contains(line, []byte(`"file_open"`)) && bytes.Contains(line, []byte(folder+"/held.")) {
			s.asked.Add(1)
			continue
		}
		fmt.Printf("trusted pid=%s tnum=%s number=%s\n",
			recordPid.FindSubmatch(line)[1], recordTnum.FindSubmatch(line)[1], recordEvent.FindSubmatch(line)[1])
	}
	must(lines.Err())
}

// crowd is the workload of an accident: threads that open the held files, others that make,
// rename and remove files, and one that starts processes.
func crowd() {
	s, folder := sceneOf()
	var group sync.WaitGroup
	for i := range holders {
		group.Go(func() {
			for round := uint32(1); s.stop.Load() == 0; time.Sleep(5 * time.Millisecond) {
				if s.round.Load() == round {
					s.held[i].Store(openHeld(heldFile(folder, i)))
					round++
				}
			}
		})
	}
	for i := range 2 {
		group.Go(func() {
			for s.stop.Load() == 0 {
				s.burst(fmt.Sprintf("%s/busy.%d", folder, i))
			}
		})
	}
	group.Go(func() {
		for s.stop.Load() == 0 {
			s.count(exec.Command("/bin/true").Run())
		}
	})
	group.Wait()
	s.over.Store(1)
}

// openHeld opens a held file, in a thread of its own.
func openHeld(path string) (outcome uint32) {
	var group sync.WaitGroup
	group.Go(func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC, 0)
		switch {
		case err == nil:
			_ = unix.Close(fd)
			outcome = happened
		case errors.Is(err, unix.EPERM):
			outcome = refused
		default:
			fmt.Fprintln(os.Stderr, "holder:", err)
			outcome = failed
		}
	})
	group.Wait()
	return outcome
}

// burst does some work in a thread of its own: one whose event was late is not trusted any
// more, and can do nothing for ever.
func (s *scene) burst(name string) {
	var group sync.WaitGroup
	group.Go(func() {
		runtime.LockOSThread()
		for range 20 {
			fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err == nil {
				_ = unix.Close(fd)
			}
			s.count(err)
			s.count(unix.Rename(name, name+".new"))
			s.count(unix.Unlink(name + ".new"))
		}
	})
	group.Wait()
}

// count counts what was done, or could not be done because that or what it needs was refused.
func (s *scene) count(err error) {
	if err == nil {
		s.done.Add(1)
	} else {
		s.refused.Add(1)
	}
}

// A stage is a tsem-bpf to which something happens while its workload runs.
type stage struct {
	enforce bool
	cmd     *exec.Cmd
	folder  string // of the scene
	scene   *scene
	stderr  bytes.Buffer
	records string
}

func startStage(t *testing.T, enforce bool) *stage {
	t.Helper()
	folder, err := os.MkdirTemp(work, "scene")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(folder)) })
	st := &stage{enforce: enforce, records: filepath.Join(t.TempDir(), "events.json"), folder: folder, scene: shared[scene](folder + "/scene")}
	// Long enough for an agent that answers at once; what is late is refused, which is no accident.
	words := []string{"run", "--external", "--deadline", "5s", "-o", st.records, "--tma", "exec:env TSEM_LABOR=agent " + work + "/actor"}
	if enforce {
		words = append(words, "--enforce")
	}
	st.cmd = exec.Command("tsem-bpf", append(words, "--", "env", "TSEM_LABOR=crowd", work+"/actor")...)
	st.cmd.Env = append(os.Environ(), "TSEM_SCENE="+folder)
	st.cmd.Stderr = &st.stderr
	st.cmd.WaitDelay = time.Second // a workload that lives on has it too
	check(t, st.cmd.Start())
	t.Cleanup(func() {
		st.scene.stop.Store(1)
		_ = st.cmd.Process.Kill()
		_ = st.cmd.Wait()
		if t.Failed() {
			t.Log(st.stderr.String())
		}
	})
	return st
}

// hold lets all holders open their files, and returns when they wait.
func (st *stage) hold(t *testing.T) {
	t.Helper()
	for i := range holders {
		check(t, os.WriteFile(heldFile(st.folder, i), []byte("held\n"), 0o644))
		st.scene.held[i].Store(waits)
	}
	st.scene.asked.Store(0)
	st.scene.round.Add(1)
	waitFor(t, "holders that wait", 2*time.Minute, func() bool { return st.scene.asked.Load() == holders })
}

// gatePID finds the gate process among the children of tsem-bpf.
func (st *stage) gatePID(t *testing.T) int {
	t.Helper()
	var found int
	waitFor(t, "a gate process", time.Minute, func() bool {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", st.cmd.Process.Pid))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, word := range strings.Fields(string(text)) {
				if comm, _ := os.ReadFile("/proc/" + word + "/comm"); string(comm) == "gate\n" {
					found, _ = strconv.Atoi(word)
					return true
				}
			}
		}
		return false
	})
	return found
}

// free waits until no holder waits any more, and expects that none could open its file where
// trust is enforced, and all could elsewhere.
func (st *stage) free(t *testing.T) {
	t.Helper()
	took := waitFor(t, "the end of all who waited", time.Minute, func() bool {
		for i := range holders {
			if st.scene.held[i].Load() == waits {
				return false
			}
		}
		return true
	})
	t.Logf("all who waited are free after %v", took.Round(time.Millisecond))
	want, content := uint32(happened), ""
	if st.enforce {
		want, content = refused, "held\n"
	}
	for i := range holders {
		left, err := os.ReadFile(heldFile(st.folder, i))
		check(t, err)
		if got := st.scene.held[i].Load(); got != want || string(left) != content {
			t.Errorf("holder %d ended with %d, want %d; %q is left in its file", i, got, want, left)
		}
	}
}

// goesOn waits until the workload has done something more, or was refused it.
func (st *stage) goesOn(t *testing.T, counter *atomic.Uint64) {
	t.Helper()
	before := counter.Load()
	waitFor(t, "a workload that goes on", time.Minute, func() bool { return counter.Load() >= before+50 })
}

// end ends the workload and tsem-bpf.
func (st *stage) end(t *testing.T) {
	t.Helper()
	st.scene.stop.Store(1)
	waitFor(t, "the end of the workload", time.Minute, func() bool { return st.scene.over.Load() != 0 })
	_ = st.cmd.Wait()
}

// nothingWaits expects that nobody waits, and at no gate.
func nothingWaits(t *testing.T) {
	t.Helper()
	out, err := exec.Command("tsem-bpf", "pending", "--json").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("who waits: %v, %s", err, out)
	}
	waitFor(t, "no gate process", time.Minute, func() bool { return len(processesOf(t, "gate")) == 0 })
}

// accounted expects that every event is accounted for, and every wait.
func (st *stage) accounted(t *testing.T) {
	t.Helper()
	account := accounted(t, st.stderr.String(), 1)[0]
	t.Log(account.line)
	text, err := os.ReadFile(st.records)
	check(t, err)
	account.records(t, string(text))
	var judged, decided int
	for line := range bytes.Lines(text) {
		if recordType.Match(line) || asyncType.Match(line) {
			judged++
		}
	}
	_, verdicts, _ := strings.Cut(account.line, "; verdicts: ")
	verdicts, _, _ = strings.Cut(verdicts, ";")
	for part := range strings.SplitSeq(verdicts, ", ") {
		var count int
		var name string
		if _, err := fmt.Sscanf(part, "%d %s", &count, &name); err != nil {
			t.Errorf("%q: %v", part, err)
		}
		decided += count
	}
	if decided != judged {
		t.Errorf("%d events were to be judged, and %d verdicts were counted", judged, decided)
	}
}

// TestAccidents: whatever happens to tsem-bpf, its gate process or its agent while a workload
// runs, nobody waits on, and nothing that was not judged happens where trust is enforced.
// What lives on goes on, and the account says what became of every event.
func TestAccidents(t *testing.T) {
	needExternal(t)
	repeat(t, 1, func(t *testing.T) {
		for _, enforce := range []bool{true, false} {
			t.Run(fmt.Sprintf("keeper killed, enforcing %v", enforce), func(t *testing.T) { testKeeperAccident(t, enforce) })
		}
		t.Run("others", testOtherAccidents)
	})
	// Nothing of them is in the way.
	if out, _, status := external(t, "--enforce", "-o", "/dev/null", "--", "cat", "/etc/hostname"); status != 0 || out == "" {
		t.Errorf("after all that: status %d, %q", status, out)
	}
}

func testKeeperAccident(t *testing.T, enforce bool) {
	st := startStage(t, enforce)
	st.hold(t)
	check(t, st.cmd.Process.Kill())
	st.free(t)
	if enforce {
		st.goesOn(t, &st.scene.refused) // for nobody can judge it
		done := st.scene.done.Load()
		st.goesOn(t, &st.scene.refused)
		// What each thread did before the kill may be counted after it.
		if more := st.scene.done.Load() - done; more > 3 {
			t.Errorf("%d things were done that nobody had judged", more)
		}
	} else {
		st.goesOn(t, &st.scene.done) // in no namespace any more
	}
	st.end(t)
	nothingWaits(t)
}

// testOtherAccidents lets two tsem-bpf, of which one enforces, live through what they can live through. They
// are stopped beside each other, since who waits then does so until the deadline is over and longer.
func testOtherAccidents(t *testing.T) {
	stages := []*stage{startStage(t, true), startStage(t, false)}

	if hasGates() {
		for _, st := range stages {
			st.hold(t)
			gate := st.gatePID(t)
			check(t, syscall.Kill(gate, syscall.SIGKILL))
			st.free(t)
			waitFor(t, "a new gate process", time.Minute, func() bool { return st.gatePID(t) != gate })
			st.goesOn(t, &st.scene.done)
		}
	}

	for _, st := range stages {
		st.hold(t)
		check(t, st.cmd.Process.Signal(syscall.SIGSTOP))
	}
	for _, st := range stages {
		st.free(t)
		check(t, st.cmd.Process.Signal(syscall.SIGCONT))
		st.goesOn(t, &st.scene.done)
	}

	for _, st := range stages {
		st.hold(t)
		check(t, syscall.Kill(int(st.scene.agent.Load()), syscall.SIGKILL))
		st.free(t)
		if st.enforce {
			st.goesOn(t, &st.scene.refused)
		} else {
			st.goesOn(t, &st.scene.done)
		}
		st.end(t)
		if status := st.cmd.ProcessState.ExitCode(); status != 125 {
			t.Errorf("exit status %d after the end of the agent", status)
		}
		st.accounted(t)
	}
	nothingWaits(t)
}
