// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

const (
	// pipeSize is how far an agent may be behind, in bytes of records, before it holds
	// up the reading of the magazine: what a process may have without privilege (pipe(7)).
	pipeSize = 1 << 20
	// maxLine is what a line of an agent may have; a reply has less than 100 bytes.
	maxLine = 64 << 10
	// maxExcess is how many replies more than records there may be. One that answers
	// twice is not yet a flood.
	maxExcess = 1000
	// onceMore is how long a write is tried again that had no effect in time: long enough to
	// be tried at all on a busy machine.
	onceMore = time.Second
	// grace is how long an agent may take to end after its standard input has, and how
	// long it may take to be gone after it has closed a pipe.
	grace = 2 * time.Second
)

// Stats count the replies of an agent.
type Stats struct {
	Decided uint64 // that decided about an event, or made a task untrusted
	Late    uint64 // about events that were over: without effect
}

// Exec is an agent that is a child process. It gets records as lines on its standard
// input, and writes "trusted pid=P tnum=T" or "untrusted pid=P tnum=T" for each record
// of type event on its standard output: for the events of one task in their order, else
// in any. With " number=N" behind, which is that of the record, the order does not matter,
// and replies about records of type async_event are allowed: what is untrusted makes its task
// untrusted, if it was too late to refuse it. Its standard error goes to that of tsem-bpf.
//
// An agent that ends, writes what is no reply, floods, or takes no records for as long as
// the deadline has failed. It is killed, and from then on everything is decided Closed.
//
// Make it with New, then Start it. The methods may be called from any goroutine.
type Exec struct {
	args   []string
	stderr io.Writer
	stuck  time.Duration

	waits    *Waits
	records  atomic.Uint64 // handed to Write
	answered uint64        // lines read from it; of the goroutine that reads

	cmd     *exec.Cmd // nil: not started
	stdin   *os.File
	stdout  *os.File
	writing sync.Mutex
	over    bool                      // nothing more is written; writing guards it
	begun   atomic.Pointer[time.Time] // when the write under way began; nil: none is
	exited  chan struct{}             // closed when the process is gone; status is set then
	status  error
	read    chan struct{} // closed when nothing more is read from it

	ending  atomic.Bool // its standard input was closed by Close
	once    sync.Once
	failed  chan struct{} // closed when it has failed; err is set then
	err     error
	closing sync.Once
	closed  error
}

// New returns an agent that is the command args, and not started yet. stuck is how long it
// may take no record while some wait for it; stderr is what its standard error goes to.
// The error is that of exec.LookPath.
func New(args []string, stuck time.Duration, stderr io.Writer) (*Exec, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("agent: no command: %w", exec.ErrNotFound)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", args[0], err)
	}
	return &Exec{
		args: append([]string{path}, args[1:]...), stuck: stuck, stderr: stderr,
		waits: NewWaits(nil, nil), failed: make(chan struct{}), exited: make(chan struct{}), read: make(chan struct{}),
	}, nil
}

// Start starts the process, in a process group of its own: what is typed at the terminal
// is for the workload. It is called once, before anybody waits for the agent or a record is
// handed to it, by a thread whose children are not modeled.
func (a *Exec) Start(decide Decide, decideAsync DecideAsync) error {
	a.waits.decide, a.waits.decideAsync = decide, decideAsync
	in, stdin, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", a, err)
	}
	defer in.Close()
	stdout, out, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", a, err), stdin.Close())
	}
	defer out.Close()
	// With the 64 KiB that a pipe has else it works as well.
	_, _ = unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	cmd := exec.Command(a.args[0], a.args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, a.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = grace / 4 // if stderr is no file, and held open by who has left the group
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", a, err), stdin.Close(), stdout.Close())
	}
	a.cmd, a.stdin, a.stdout = cmd, stdin, stdout
	go a.wait()
	go a.readReplies()
	return nil
}

// String returns "agent" and the command line.
func (a *Exec) String() string { return "agent " + strings.Join(a.args, " ") }

// Judge is a namespace.Judge: the agent decides later. It does no I/O.
func (a *Exec) Judge(r *event.Record) verdict.Verdict { return a.waits.Judge(r) }

// Write hands whole lines of records to the agent. While it is further behind than a pipe
// holds, Write waits, and with it whoever reads the magazine; the deadline decides about
// those whose records do not come through. It never fails: an agent that does is left out.
func (a *Exec) Write(lines []byte) (int, error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.records.Add(uint64(bytes.Count(lines, []byte("\n"))))
	for rest := lines; len(rest) > 0 && !a.over; {
		n, err := a.put(rest, a.stuck)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			// The time may have passed while this process was stopped, and not the agent.
			n, err = a.put(rest, onceMore)
		}
		rest = rest[n:]
		if err == nil || n > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			a.fail(fmt.Errorf("%w: not one in %v, while its standard input is full", ErrStuck, a.stuck))
		} else {
			a.gone("closed its standard input")
		}
		a.closeStdin()
	}
	return len(lines), nil
}

// StuckFor returns how long the write under way to the agent has been so; 0: there is none.
func (a *Exec) StuckFor() time.Duration {
	if begun := a.begun.Load(); begun != nil {
		return time.Since(*begun)
	}
	return 0
}

func (a *Exec) put(lines []byte, limit time.Duration) (int, error) {
	now := time.Now()
	a.begun.Store(&now)
	defer a.begun.Store(nil)
	if err := a.stdin.SetWriteDeadline(now.Add(limit)); err != nil {
		return 0, err
	}
	return a.stdin.Write(lines)
}

// closeStdin is called with writing held.
func (a *Exec) closeStdin() {
	_ = a.stdin.Close() // Close may have done so
	a.over = true
}

// readReplies reads from the agent until it ends or has failed.
func (a *Exec) readReplies() {
	defer close(a.read)
	defer a.stdout.Close()
	lines := bufio.NewReaderSize(a.stdout, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			a.fail(fmt.Errorf("%w: a line of more than %d bytes, which begins with %s", ErrFlood, maxLine, quote(line)))
			return
		}
		if err != nil {
			// What it leaves of a line is not taken for one.
			a.gone("closed its standard output")
			return
		}
		if err := a.reply(line[:len(line)-1]); err != nil {
			a.fail(err)
			return
		}
	}
}

func (a *Exec) reply(line []byte) error {
	r, err := parseReply(line)
	if err != nil {
		return err
	}
	if err := a.waits.Reply(r); err != nil {
		return err
	}
	a.answered++
	if a.answered > a.records.Load()+maxExcess {
		return fmt.Errorf("%w: %d replies more than records", ErrFlood, maxExcess+1)
	}
	return nil
}

// wait waits for the end of the process, and ends its group with it.
func (a *Exec) wait() {
	pid := a.cmd.Process.Pid
	for {
		// Not reaped yet, it keeps its id, and so that of its group.
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	// Who has left the group may hold the pipe open.
	_ = a.stdout.SetReadDeadline(time.Now().Add(grace))
	a.status = a.cmd.Wait()
	close(a.exited)
}

// gone is fail for an agent that has closed a pipe, which most do by ending.
func (a *Exec) gone(what string) {
	if a.ending.Load() {
		return
	}
	a.waits.Close()
	select {
	case <-a.exited:
		what = "exit status 0"
		if a.status != nil {
			what = a.status.Error()
		}
	case <-time.After(grace):
	}
	a.fail(fmt.Errorf("%w: %s", ErrEnded, what))
}

// fail ends the agent. The first reason counts.
func (a *Exec) fail(err error) {
	a.once.Do(func() {
		a.waits.Close()
		_ = a.cmd.Process.Kill() // it may be gone
		a.err = fmt.Errorf("%s: %w", a, err)
		close(a.failed)
	})
}

// Failed returns a channel that is closed when the agent has failed; Err then tells why.
func (a *Exec) Failed() <-chan struct{} { return a.failed }

// Err returns why the agent has failed: ErrReply, ErrFlood, ErrStuck or ErrEnded, with its
// command line; nil: it has not.
func (a *Exec) Err() error {
	select {
	case <-a.failed:
		return a.err
	default:
		return nil
	}
}

// Stats returns the counters.
func (a *Exec) Stats() Stats { return a.waits.Stats() }

// Close ends the agent: it closes its standard input, though something is being written to it, and kills it if it has not ended 2
// seconds later; that is the error. What still waits is decided Closed.
func (a *Exec) Close() error {
	if a.cmd == nil {
		return nil
	}
	a.closing.Do(func() {
		a.ending.Store(true)
		_ = a.stdin.Close() // which ends a write that is under way
		select {
		case <-a.exited:
		case <-time.After(grace):
			_ = a.cmd.Process.Kill()
			<-a.exited
			a.closed = fmt.Errorf("%s: killed, as it had not ended %v after its standard input", a, grace)
		}
		<-a.read
		a.waits.Close()
	})
	return a.closed
}
