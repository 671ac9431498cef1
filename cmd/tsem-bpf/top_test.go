// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/metrics"
)

// hostAt returns what is read at the n-th time from a host whose namespace raises 100 events in a second.
func hostAt(n uint64) *metrics.Snapshot {
	return &metrics.Snapshot{
		Status: &loader.Status{ID: "e", Pinned: true, Tier: loader.TierSleep}, Support: &loader.Support{Kernel: "6.12.1"},
		States: []bpf.Namespace{{Id: 3, Magazine: 4 << 20, Keeper: 10, Tasks: 1, Raised: 100 * n, Delivered: 100 * n}},
		Mono:   time.Duration(n) * time.Second,
	}
}

var errAway = errors.New("no kernel half is installed")

// readings returns a source of them. The third time fails.
func readings() func() (*metrics.Snapshot, error) {
	n := uint64(0)
	return func() (*metrics.Snapshot, error) {
		if n++; n == 3 {
			return nil, errAway
		}
		return hostAt(n), nil
	}
}

// topOfTest is the child of TestTop.
func topOfTest() {
	if err := (&topCommand{Interval: leastInterval}).show(os.Stdout, readings()); err != nil {
		fmt.Println(err)
		os.Exit(exitFailed)
	}
}

// plain returns the lines of a screen.
func plain(lines []metrics.Line) string {
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintln(&b, line.Text)
	}
	return b.String()
}

// TestTopOnce: what is no terminal gets one whole screen; where there is nothing to show, that is the
// error.
func TestTopOnce(t *testing.T) {
	c := &topCommand{}
	var out bytes.Buffer
	read := readings()
	if err := c.show(&out, read); err != nil || out.String() != plain(metrics.Screen(hostAt(1), hostAt(2), 0, 0)) {
		t.Errorf("%v: %s", err, out.String())
	}
	out.Reset()
	if err := c.show(&out, read); !errors.Is(err, errAway) || out.Len() > 0 {
		t.Errorf("%v: %s", err, out.String())
	}
}

// A shown is a tsem-bpf top in a terminal.
type shown struct {
	*exec.Cmd
	master, slave *os.File
	was           unix.Termios
	pieces        chan string // what it has written
	rest          string      // of them
}

// openTerminal makes a terminal: the side of who types, and what it is for who uses it.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// showTop starts one in a terminal of 80 columns and 24 rows.
func showTop(t *testing.T) *shown {
	t.Helper()
	s := &shown{pieces: make(chan string)}
	s.master, s.slave = openTerminal(t)
	s.was = *s.settings(t)
	s.resize(t, 80, 24)
	s.Cmd = exec.Command(os.Args[0])
	s.Env = append(os.Environ(), "TSEM_TOP=1", "TERM=xterm")
	s.Stdin, s.Stdout, s.Stderr = s.slave, s.slave, s.slave
	s.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Process.Kill() })
	go func() {
		piece := make([]byte, 4096)
		for {
			n, err := s.master.Read(piece)
			if err != nil {
				close(s.pieces)
				return
			}
			s.pieces <- string(piece[:n])
		}
	}()
	return s
}

// settings returns how the terminal is set.
func (s *shown) settings(t *testing.T) *unix.Termios {
	t.Helper()
	is, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func (s *shown) resize(t *testing.T, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

// until waits until it has written a text, and returns what came before.
func (s *shown) until(t *testing.T, text string) string {
	t.Helper()
	for {
		if before, after, found := strings.Cut(s.rest, text); found {
			s.rest = after
			return before
		}
		piece, open := <-s.pieces
		if !open {
			t.Fatalf("it has ended, and not written %q: %q", text, s.rest)
		}
		s.rest += piece
	}
}

// screen returns what it has drawn until it began with the next screen.
func (s *shown) screen(t *testing.T) string {
	t.Helper()
	return strings.NewReplacer("\x1b[K", "", "\x1b[1m", "", "\x1b[m", "", "\r", "").Replace(s.until(t, "\x1b[H"))
}

// TestTop: the screen has the size of the terminal, and the terminal is afterwards what it was before,
// whoever ends it, and while it is stopped.
func TestTop(t *testing.T) {
	key := func(key string) func(s *shown) error {
		return func(s *shown) error {
			_, err := s.master.WriteString(key)
			return err
		}
	}
	for name, end := range map[string]func(s *shown) error{
		"q": key("xq"), "Ctrl-C": key("\x03"), "Ctrl-\\": key("\x1c"),
		"SIGTERM": func(s *shown) error { return s.Process.Signal(unix.SIGTERM) },
		"SIGHUP":  func(s *shown) error { return s.Process.Signal(unix.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			s := showTop(t)
			s.until(t, enterScreen)
			for _, text := range []string{"- raised", "100.0 raised", errAway.Error(), "- raised", "100.0 raised"} {
				s.until(t, text)
			}
			if set := s.settings(t); set.Lflag&(unix.ECHO|unix.ICANON) != 0 || set.Iflag&unix.IXON != 0 {
				t.Errorf("the terminal is set to %+v", set)
			}
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			s.until(t, leaveScreen)
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
			if set := s.settings(t); *set != s.was || s.rest != "" {
				t.Errorf("the terminal was %+v and is %+v; %q", s.was, set, s.rest)
			}
		})
	}
}

// TestTopResized: a screen is as large as the terminal at the time.
func TestTopResized(t *testing.T) {
	s := showTop(t)
	for _, size := range []struct{ columns, rows uint16 }{{80, 24}, {40, 10}, {200, 50}} {
		s.resize(t, size.columns, size.rows)
		lines := metrics.Screen(hostAt(1), hostAt(2), int(size.columns), int(size.rows))
		want := plain(lines) + strings.Repeat("\n", int(size.rows)-len(lines))
		for s.screen(t) != strings.TrimSuffix(want, "\n") { // it comes, sooner or later
		}
	}
}

// TestTopStopped: who stops it has the terminal as it was, and the screen comes back when it goes on.
func TestTopStopped(t *testing.T) {
	s := showTop(t)
	s.until(t, "100.0 raised")
	if _, err := s.master.WriteString("\x1a"); err != nil { // Ctrl-Z
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(s.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v: %v", err, status)
	}
	if set := s.settings(t); *set != s.was {
		t.Errorf("the terminal was %+v and is %+v", s.was, set)
	}
	s.until(t, leaveScreen)
	if err := s.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.until(t, enterScreen)
	s.until(t, "100.0 raised")
	if set := s.settings(t); set.Lflag&unix.ECHO != 0 {
		t.Errorf("the terminal is set to %+v", set)
	}
}
