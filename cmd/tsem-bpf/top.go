// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/metrics"
)

type topCommand struct {
	Interval time.Duration `placeholder:"D" default:"2s" help:"Time from one screen to the next, at least 100ms (default ${default})."`
	Once     bool          `help:"Print one screen as text after one interval, and end."`
}

// Help is shown below the flags.
func (topCommand) Help() string {
	return `Shows again and again what the kernel half of this host does: who waits for a verdict
and with which events, what became of events, what the tasks that waited have found, and
each namespace and BPF program, the busiest first. q or Ctrl-C ends it. If standard
output is no terminal, one screen is printed, without a limit of its size. Needs root.

How long decisions took and the types of events are not shown, for only keepers know
them (--metrics). Runs of programs are those for all tasks of the host; the kernel counts
them while the sysctl kernel.bpf_stats_enabled is 1. docs/monitoring.md tells more.

Exit status: 0; 1: no kernel half is installed; 2: a wrong flag; 125: it cannot be read.`
}

// leastInterval: nobody reads faster, and each look reads 4 MiB of verdicts (metrics.Reader).
const leastInterval = 100 * time.Millisecond

// Validate is called by kong.
func (c *topCommand) Validate() error {
	if c.Interval < leastInterval {
		return fmt.Errorf("--interval=%v: at least %v", c.Interval, leastInterval)
	}
	return nil
}

// Run implements the command.
func (c *topCommand) Run(std *streams) error {
	return c.show(std.out, takeSnapshot)
}

// show shows what read returns. An error is one of the first look, or of writing.
func (c *topCommand) show(out io.Writer, read func() (*metrics.Snapshot, error)) error {
	first, err := read()
	if err != nil {
		return err
	}
	if t := terminalOf(out); t != nil && !c.Once {
		return c.live(t, first, read)
	}
	time.Sleep(c.Interval)
	second, err := read()
	if err != nil {
		return err
	}
	for _, line := range metrics.Screen(first, second, 0, 0) {
		if _, err := fmt.Fprintln(out, line.Text); err != nil {
			return err
		}
	}
	return nil
}

// live shows screens until somebody ends it. What cannot be read later may come again: the last
// tsem-bpf takes the kernel half away, and the next one installs another.
func (c *topCommand) live(t *terminal, now *metrics.Snapshot, read func() (*metrics.Snapshot, error)) (err error) {
	ended := notified(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	resized, stopped, continued := notified(syscall.SIGWINCH), notified(syscall.SIGTSTP), notified(syscall.SIGCONT)
	keys := t.keys()
	ticks := time.NewTicker(c.Interval)
	defer ticks.Stop()
	defer func() { err = errors.Join(err, t.leave()) }()
	err = t.enter()
	var before *metrics.Snapshot
	var unread error
	for err == nil {
		columns, rows := t.size()
		var lines []metrics.Line
		if unread == nil {
			lines = metrics.Screen(before, now, columns, rows)
		} else {
			lines = []metrics.Line{{Text: fmt.Sprintf("%.*s", columns, "tsem-bpf    "+unread.Error())}}
		}
		if err := t.draw(lines, rows); err != nil {
			return err
		}
		select {
		case <-ended:
			return nil
		case key := <-keys:
			if key == 'q' {
				return nil
			}
		case <-ticks.C:
			before = now
			now, unread = read()
		case <-resized:
		case <-stopped: // by Ctrl-Z
			if err := errors.Join(t.leave(), unix.Kill(os.Getpid(), unix.SIGSTOP)); err != nil {
				return err
			}
			<-continued
			err = t.enter()
		case <-continued: // somebody else stopped it, and may have changed the terminal
			err = t.enter()
		}
	}
	return err
}

// notified returns a channel that has one of these signals after it came.
func notified(signals ...os.Signal) <-chan os.Signal {
	came := make(chan os.Signal, 1)
	signal.Notify(came, signals...)
	return came
}

// terminal is one that shows screens.
type terminal struct {
	out *os.File
	was *unix.Termios // how standard input was set; nil: that is no terminal, and there are no keys
}

// terminalOf returns the terminal that a stream is; nil if it is none, or one that cannot place the
// cursor.
func terminalOf(out io.Writer) *terminal {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	t := &terminal{out: file}
	if was, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil {
		t.was = was
	}
	return t
}

// Control sequences (console_codes(4)): the other screen of the terminal, and no cursor; and back.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// enter makes it show screens. Keys come at once and are not shown; those that send signals still do,
// but none stops the output.
func (t *terminal) enter() error {
	if t.was != nil {
		set := *t.was
		set.Iflag &^= unix.IXON
		set.Lflag &^= unix.ICANON | unix.ECHO
		set.Cc[unix.VMIN], set.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, &set); err != nil {
			return fmt.Errorf("set the terminal: %w", err)
		}
	}
	_, err := t.out.WriteString(enterScreen)
	return err
}

// leave makes it what it was.
func (t *terminal) leave() error {
	_, err := t.out.WriteString(leaveScreen)
	if t.was != nil {
		err = errors.Join(err, unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, t.was))
	}
	return err
}

// size returns its columns and rows. Serial lines do not know theirs.
func (t *terminal) size() (columns, rows int) {
	size, err := unix.IoctlGetWinsize(int(t.out.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return 80, 24
	}
	return int(size.Col), int(size.Row)
}

// keys returns a channel of what is typed.
func (t *terminal) keys() <-chan byte {
	keys := make(chan byte)
	if t.was != nil {
		go func() {
			var key [1]byte
			for {
				if _, err := os.Stdin.Read(key[:]); err != nil {
					return
				}
				keys <- key[0]
			}
		}()
	}
	return keys
}

// draw shows a screen by one write. A line is cleared before it is written: behind its last column
// the cursor stands on that.
func (t *terminal) draw(lines []metrics.Line, rows int) error {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i := range rows {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("\x1b[K")
		switch {
		case i >= len(lines):
		case lines[i].Strong:
			b.WriteString("\x1b[1m" + lines[i].Text + "\x1b[m")
		default:
			b.WriteString(lines[i].Text)
		}
	}
	_, err := t.out.Write(b.Bytes())
	return err
}
