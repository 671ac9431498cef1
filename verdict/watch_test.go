// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

// nursery is a gate whose watcher runs in a bubble of package synctest, where time passes
// only when everybody waits. Its requests come from the test and not from a device.
type nursery struct {
	*Gate
	start time.Time

	mu       sync.Mutex
	answered map[uint64]time.Duration // when, since the start
	statuses map[uint32]string        // by thread; none: gone
	looks    map[uint32][]time.Duration
	beats    []time.Duration
}

func watched(t *testing.T, c Config, test func(t *testing.T, n *nursery)) {
	synctest.Test(t, func(t *testing.T) {
		n := &nursery{
			start:    time.Now(),
			answered: make(map[uint64]time.Duration),
			statuses: make(map[uint32]string),
			looks:    make(map[uint32][]time.Duration),
		}
		c.Beat = n.beat
		g, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		n.Gate = g
		g.reply = func(_ int, unique uint64, errno unix.Errno) unix.Errno { return n.reply(t, unique, errno) }
		g.status = n.look
		over, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			g.watch(over)
		}()
		synctest.Wait()
		test(t, n)
		close(over)
		<-ended
	})
}

func (n *nursery) beat(int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.beats = append(n.beats, time.Since(n.start))
}

func (n *nursery) reply(t *testing.T, unique uint64, errno unix.Errno) unix.Errno {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.answered[unique]; ok || errno != 0 {
		t.Errorf("request %d was answered again, or with %v", unique, errno)
	}
	n.answered[unique] = time.Since(n.start)
	return 0
}

func (n *nursery) look(tid uint32) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looks[tid] = append(n.looks[tid], time.Since(n.start))
	if status, ok := n.statuses[tid]; ok {
		return []byte(status), nil
	}
	return nil, &os.PathError{Op: "open", Path: "status", Err: unix.ENOENT}
}

// set says what the status of a thread is; "": it is gone.
func (n *nursery) set(tid uint32, status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.statuses[tid] = status; status == "" {
		delete(n.statuses, tid)
	}
}

// answeredAt returns when a request was answered, since the start.
func (n *nursery) answeredAt(t *testing.T, unique uint64) time.Duration {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.answered[unique]
	if !ok {
		t.Errorf("request %d was not answered", unique)
	}
	return at
}

// looked returns how often somebody looked at the signals of a thread.
func (n *nursery) looked(tid uint32) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.looks[tid])
}

// pass lets time pass, and everybody do what is to be done then.
func (n *nursery) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// sleep lets a task go to sleep.
func (n *nursery) sleep(t *testing.T, slot, tid uint32, unique uint64) {
	begin(n.slots, slot)
	n.set(tid, status(0, 0, 0, 0, 0, 0))
	n.send(t, fusetest.Request(fuse.OpGetxattr, unique, gateNode, tid, getxattrBody(slot, xattr)))
}

// signal tells that a signal came for a request.
func (n *nursery) signal(t *testing.T, unique uint64) {
	n.send(t, fusetest.Request(fuse.OpInterrupt, unique+1, 0, 0, fusetest.Uint64s(unique)))
}

func (n *nursery) send(t *testing.T, raw []byte) {
	t.Helper()
	if err := n.handle(raw, make([]byte, fuse.AnswerHeader)); err != nil {
		t.Error(err)
	}
	synctest.Wait()
}

// status is a piece of a status file.
func status(own, shared, blocked, ignored, caught uint64, tracer int) string {
	return fmt.Sprintf("Name:\tSigPnd:\nState:\tD (disk sleep)\nTracerPid:\t%d\nThreads:\t1\nSigQ:\t1/7594\nSigPnd:\t%016x\n"+
		"ShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\nSigCgt:\t%016x\nCapInh:\t0000000000000000\n",
		tracer, own, shared, blocked, ignored, caught)
}

func expectAt(t *testing.T, what string, got, earliest, latest time.Duration) {
	t.Helper()
	if got < earliest || got > latest {
		t.Errorf("%s: %v, not between %v and %v", what, got, earliest, latest)
	}
}

func TestDeadline(t *testing.T) {
	c := testConfig(100)
	c.Deadline = 5 * time.Second
	watched(t, c, func(t *testing.T, n *nursery) {
		n.pass(123 * time.Millisecond)
		n.sleep(t, 1, 11, 2)
		n.pass(2 * time.Second)
		n.sleep(t, 99, 12, 4)
		if got := len(n.Pending()); got != 2 {
			t.Errorf("%d are pending", got)
		}
		n.pass(10 * time.Second)
		expectAt(t, "the first was late", n.answeredAt(t, 2), 5123*time.Millisecond, 5133*time.Millisecond)
		expectAt(t, "the second was late", n.answeredAt(t, 4), 7123*time.Millisecond, 7143*time.Millisecond)
		expectVerdict(t, n.slots, 1, Late)
		expectVerdict(t, n.slots, 99, Late)
		if got, want := n.Stats(), (Stats{Asked: 2, Slept: 2, Late: 2}); got != want {
			t.Errorf("%+v", got)
		}
	})
}

// TestDeadlineOfTheNext: a slot's next wait has a time of its own.
func TestDeadlineOfTheNext(t *testing.T) {
	c := testConfig(2)
	c.Deadline = time.Second
	watched(t, c, func(t *testing.T, n *nursery) {
		n.sleep(t, 1, 11, 2)
		n.pass(999 * time.Millisecond)
		ticket, _, _ := n.slots.Load(1)
		if outcome, err := n.Decide(1, ticket, Trusted); !outcome.Won || err != nil {
			t.Fatal(outcome, err)
		}
		n.sleep(t, 1, 11, 4)
		n.pass(time.Second)
		expectVerdict(t, n.slots, 1, None)
		if p := n.Pending(); len(p) != 1 || p[0].Since.Sub(n.start) < 999*time.Millisecond {
			t.Errorf("pending: %+v", p)
		}
		n.pass(2 * tickEvery)
		expectAt(t, "the next was late", n.answeredAt(t, 4), 1999*time.Millisecond, 2010*time.Millisecond)
	})
}

// TestDecidedElsewhere: somebody who does not know the gate decides in the map.
func TestDecidedElsewhere(t *testing.T) {
	watched(t, testConfig(2), func(t *testing.T, n *nursery) {
		n.sleep(t, 1, 11, 2)
		n.pass(time.Second)
		if outcome, err := n.slots.Decide(1, 1, Unasked); !outcome.Won || err != nil {
			t.Fatal(outcome, err)
		}
		n.pass(time.Second)
		expectAt(t, "the answer came", n.answeredAt(t, 2), time.Second, time.Second+tickEvery)
		expectVerdict(t, n.slots, 1, Unasked)
		if got, want := n.Stats(), (Stats{Asked: 1, Slept: 1}); got != want {
			t.Errorf("%+v", got)
		}
	})
}

// TestDecideTheNext: a task left the gate by itself and begins its next wait. The decision
// about that does not answer the request before; the watcher does.
func TestDecideTheNext(t *testing.T) {
	watched(t, testConfig(2), func(t *testing.T, n *nursery) {
		n.sleep(t, 1, 11, 2)
		n.pass(15 * time.Millisecond)
		if outcome, err := n.Decide(1, begin(n.slots, 1), Trusted); !outcome.Won || err != nil {
			t.Error(outcome, err)
		}
		n.pass(time.Second)
		expectAt(t, "the request before was answered", n.answeredAt(t, 2), 20*time.Millisecond, 20*time.Millisecond)
	})
}

func TestKilled(t *testing.T) {
	kill := bit(unix.SIGKILL)
	watched(t, testConfig(4), func(t *testing.T, n *nursery) {
		n.sleep(t, 1, 11, 2)
		n.sleep(t, 2, 12, 4)
		n.sleep(t, 3, 13, 6)
		n.pass(100 * time.Millisecond)
		n.set(11, status(kill, 0, 0, 0, 0, 0))
		n.signal(t, 2)
		expectAt(t, "the killed was answered", n.answeredAt(t, 2), 100*time.Millisecond, 100*time.Millisecond)
		expectVerdict(t, n.slots, 1, Killed)

		// The kernel tells of the first signal only.
		n.set(12, status(bit(unix.SIGUSR1), 0, 0, 0, bit(unix.SIGUSR1), 0))
		n.signal(t, 4)
		n.pass(50 * time.Millisecond)
		expectVerdict(t, n.slots, 2, None)
		n.set(12, status(bit(unix.SIGUSR1), kill, 0, 0, 0, 0))
		n.pass(tickEvery)
		expectAt(t, "who was killed later was answered", n.answeredAt(t, 4), 150*time.Millisecond, 160*time.Millisecond)
		expectVerdict(t, n.slots, 2, Killed)

		// And if it told of none, somebody looks all the same, now and then.
		n.set(13, "")
		n.pass(2 * glanceEvery)
		expectAt(t, "who is gone was answered", n.answeredAt(t, 6), glanceEvery, glanceEvery+2*tickEvery)
		if got := n.looked(13); got != 1 {
			t.Errorf("looked %d times", got)
		}
		expectVerdict(t, n.slots, 3, Killed)
		if got, want := n.Stats(), (Stats{Asked: 3, Slept: 3, Killed: 3, Interrupted: 2}); got != want {
			t.Errorf("%+v", got)
		}
	})
}

// TestInterruptOfAnother: a signal to a request that is over, or of a wait before, lets
// nobody look at who sleeps now.
func TestInterruptOfAnother(t *testing.T) {
	watched(t, testConfig(2), func(t *testing.T, n *nursery) {
		n.sleep(t, 1, 11, 2)
		n.signal(t, 2)
		ticket, _, _ := n.slots.Load(1)
		if _, err := n.Decide(1, ticket, Trusted); err != nil {
			t.Fatal(err)
		}
		looks := n.looked(11)
		n.sleep(t, 1, 11, 4)
		n.signal(t, 2)
		n.pass(100 * time.Millisecond)
		if got := n.looked(11); got != looks {
			t.Errorf("looked %d times more", got-looks)
		}
		if got, want := n.Stats(), (Stats{Asked: 2, Slept: 2, Interrupted: 2}); got != want {
			t.Errorf("%+v", got)
		}
	})
}

// TestInvisible: a task of another pid namespace has no number here, so nobody can know
// whether it lives. Thread 0 would be gone.
func TestInvisible(t *testing.T) {
	c := testConfig(2)
	c.Deadline = 5 * time.Second
	watched(t, c, func(t *testing.T, n *nursery) {
		n.sleep(t, 1, 0, 2)
		n.signal(t, 2)
		n.pass(6 * time.Second)
		expectVerdict(t, n.slots, 1, Late)
		if got := n.looked(0); got != 0 {
			t.Errorf("looked %d times", got)
		}
	})
}

// TestBeats: the heart beats faster while somebody sleeps, and rests when nobody does.
func TestBeats(t *testing.T) {
	c := testConfig(2)
	c.BeatEvery = time.Second
	watched(t, c, func(t *testing.T, n *nursery) {
		n.pass(2500 * time.Millisecond)
		n.sleep(t, 1, 11, 2)
		n.pass(25 * time.Millisecond)
		if _, err := n.Decide(1, 1, Trusted); err != nil {
			t.Fatal(err)
		}
		n.pass(2 * time.Second)
		n.sleep(t, 1, 11, 4)
		var want []time.Duration
		for _, ms := range []time.Duration{0, 1000, 2000, 2500, 2510, 2520, 2530, 3530, 4525} {
			want = append(want, ms*time.Millisecond)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if !slices.Equal(n.beats, want) {
			t.Errorf("beats at %v, want %v", n.beats, want)
		}
	})
}

// TestAtOnce: the watcher rests while all are answered at once.
func TestAtOnce(t *testing.T) {
	c := testConfig(2)
	c.BeatEvery = time.Second
	var gate *Gate
	c.Look = func() {
		if _, err := gate.Decide(1, 1, Trusted); err != nil {
			t.Error(err)
		}
	}
	watched(t, c, func(t *testing.T, n *nursery) {
		gate = n.Gate
		n.pass(500 * time.Millisecond)
		n.sleep(t, 1, 11, 2)
		n.pass(1600 * time.Millisecond)
		n.mu.Lock()
		defer n.mu.Unlock()
		if want := []time.Duration{0, time.Second, 2 * time.Second}; !slices.Equal(n.beats, want) {
			t.Errorf("beats at %v, want %v", n.beats, want)
		}
	})
}

// TestLookHangs: the deadline ends the wait that Look hangs for, and then the heart stops
// until Look returns, because behind it nobody reads. The watcher, which nobody woke, sees
// the wait with its next beat.
func TestLookHangs(t *testing.T) {
	c := testConfig(2)
	c.BeatEvery, c.Deadline = 100*time.Millisecond, time.Second
	c.Look = func() { time.Sleep(5 * time.Second) }
	watched(t, c, func(t *testing.T, n *nursery) {
		go n.sleep(t, 1, 11, 2)
		n.pass(10 * time.Second)
		expectAt(t, "the wait ended", n.answeredAt(t, 2), time.Second, time.Second+c.BeatEvery+tickEvery)
		expectVerdict(t, n.slots, 1, Late)
		n.mu.Lock()
		defer n.mu.Unlock()
		longest, after := time.Duration(0), time.Duration(0)
		for i, at := range n.beats[1:] {
			if pause := at - n.beats[i]; pause > longest {
				longest, after = pause, n.beats[i]
			}
		}
		expectAt(t, "the heart stopped", after, time.Second-tickEvery, time.Second+c.BeatEvery+tickEvery)
		expectAt(t, "it stood still", longest, 4*time.Second-c.BeatEvery-tickEvery, 4*time.Second+c.BeatEvery+tickEvery)
	})
}

// TestAnswerNotTaken: the heart stops when the kernel does not take an answer, because its task goes on sleeping.
func TestAnswerNotTaken(t *testing.T) {
	c := testConfig(2)
	c.BeatEvery = 100 * time.Millisecond
	watched(t, c, func(t *testing.T, n *nursery) {
		n.Gate.reply = func(int, uint64, unix.Errno) unix.Errno { return unix.EINVAL }
		n.sleep(t, 1, 11, 2)
		n.pass(time.Second)
		decided := time.Since(n.start)
		if _, err := n.Decide(1, 1, Trusted); err != nil {
			t.Fatal(err)
		}
		n.pass(time.Minute)
		n.mu.Lock()
		defer n.mu.Unlock()
		if last := n.beats[len(n.beats)-1]; last > decided {
			t.Errorf("the heart has beaten at %v, %v after the answer that was not taken", last, last-decided)
		}
	})
}

func TestFatal(t *testing.T) {
	kill, quit, abort, usr1 := bit(unix.SIGKILL), bit(unix.SIGQUIT), bit(unix.SIGABRT), bit(unix.SIGUSR1)
	for name, c := range map[string]struct {
		status string
		want   bool
	}{
		"nothing pending":                 {status(0, 0, 0, 0, 0, 0), false},
		"killed":                          {status(kill, 0, 0, 0, 0, 0), true},
		"its process is killed":           {status(0, kill, 0, 0, 0, 0), true},
		"killed, whatever is said of it":  {status(kill, 0, kill, kill, kill, 1), true},
		"of no interest by default":       {status(bit(unix.SIGURG), bit(unix.SIGCONT), 0, 0, 0, 0), false},
		"stops":                           {status(bit(unix.SIGTSTP), bit(unix.SIGSTOP), 0, 0, 0, 0), false},
		"caught":                          {status(usr1, usr1, 0, 0, usr1, 0), false},
		"ends, and came after another":    {status(usr1, bit(unix.SIGTERM), 0, 0, usr1, 0), true},
		"dumps core":                      {status(quit, 0, 0, 0, 0, 0), true},
		"its process dumps core":          {status(0, abort, 0, 0, 0, 0), true},
		"would dump core, blocked":        {status(quit, 0, quit, 0, 0, 0), false},
		"would dump core, ignored":        {status(quit, 0, 0, quit, 0, 0), false},
		"would dump core, caught":         {status(0, quit, 0, 0, quit, 0), false},
		"two would, one is not caught":    {status(quit|abort, 0, 0, 0, quit, 0), true},
		"would dump core, but is traced":  {status(quit, 0, 0, 0, 0, 4711), false},
		"what is pending is only blocked": {status(0, 0, quit, 0, 0, 0), false},
		"an empty file":                   {"", false},
		"no number":                       {"SigPnd:\tx\n", false},
		"a number that is too long":       {"SigPnd:\t1ffffffffffffffff\n", false},
		"without a line's end":            {"SigPnd:\t0000000000000100", true},
		"in a name":                       {"Name:\tx SigPnd:\t0000000000000100\n", false},
	} {
		if got := fatal([]byte(c.status)); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestDying(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"gone before":            {&os.PathError{Op: "open", Err: unix.ENOENT}, true},
		"gone meanwhile":         {&os.PathError{Op: "read", Err: unix.ESRCH}, true},
		"may not be seen":        {&os.PathError{Op: "open", Err: unix.EACCES}, false},
		"no descriptor for that": {&os.PathError{Op: "open", Err: unix.EMFILE}, false},
		"anything else":          {errors.New("anything else"), false},
	} {
		if got := dying(nil, c.err); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestThreadStatus looks at a real process: it lives, it has a deadly signal, it is gone.
func TestThreadStatus(t *testing.T) {
	if dying(threadStatus(uint32(unix.Gettid()))) {
		t.Error("this thread is said to be dying")
	}
	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	// A process that is stopped stays so until a signal comes that is SIGKILL, or becomes it.
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Error(err)
	}
	var how unix.WaitStatus
	if _, err := unix.Wait4(pid, &how, unix.WUNTRACED, nil); err != nil || !how.Stopped() {
		t.Errorf("stop a process: %v, %v", how, err)
	}
	if dying(threadStatus(uint32(pid))) {
		t.Error("a process that is stopped is said to be dying")
	}
	if err := unix.Kill(pid, unix.SIGABRT); err != nil {
		t.Error(err)
	}
	if !dying(threadStatus(uint32(pid))) {
		t.Error("a process that will dump core is not said to be dying")
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = child.Wait() // "signal: killed"
	if !dying(threadStatus(uint32(pid))) {
		t.Error("a process that is gone is not said to be dying")
	}
}

// FuzzFatal: whatever a status file contains.
func FuzzFatal(f *testing.F) {
	f.Add([]byte(status(1, 2, 3, 4, 5, 6)))
	f.Add([]byte("SigPnd:\n\nShdPnd:"))
	f.Fuzz(func(t *testing.T, status []byte) {
		if fatal(status) && field(status, "SigPnd", 16)|field(status, "ShdPnd", 16) == 0 {
			t.Error("fatal, and nothing is pending")
		}
	})
}
