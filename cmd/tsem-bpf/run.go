// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

type runCommand struct {
	exportFlags
	externalFlags

	Command []string `arg:"" optional:"" passthrough:"partial" name:"cmd" help:"The command and its arguments; -- before it is allowed."`
}

// Help is shown below the flags.
func (runCommand) Help() string {
	return `CMD runs in a modeling namespace of its own: only it and its descendants are
described. Signals are forwarded to it; once CMD has ended they end tsem-bpf. When
the last record is written, the totals go to standard error. Descendants that are
still running then go on, and are no longer described.

With --external the first record is the aggregate, the measurement of the platform.
docs/blocking.md tells why and for how long an event waits, and what happens when
something fails.

With --takeover N there is no CMD: the tasks of a namespace whose tsem-bpf was killed
go on, judged by the agent that is given now. If that agent fails, or a signal ends
tsem-bpf, what has to be judged is refused there again.

Exit status: that of CMD, 128+N if signal N ended it; 127 if there is no CMD, 126
if it cannot be run, 125 if tsem-bpf itself failed (also when a record could not
be written, or the agent failed), 2 for a wrong flag. With --takeover it is 0, 2
or 125.

Examples:
  tsem-bpf run -- ls -l /etc
  tsem-bpf run -o events.json -- make
  tsem-bpf run sh -c 'cat /etc/hostname' | jq -c .event
  tsem-bpf run --external --enforce --tma exec:./agent.py -o events.json -- sh
  tsem-bpf run --takeover 3 --tma exec:./agent.py -o more.json`
}

// args returns CMD and its arguments.
func (c *runCommand) args() []string { return commandWords(c.Command) }

// commandWords returns the words of a CMD that may have -- before it.
func commandWords(words []string) []string {
	if len(words) > 0 && words[0] == "--" {
		return words[1:]
	}
	return words
}

// Validate is called by kong.
func (c *runCommand) Validate(given *kong.Context) error {
	switch {
	case c.Takeover != 0:
		if len(c.args()) > 0 {
			return fmt.Errorf("--takeover=%d: its tasks are there, and no command is started: leave %s out", c.Takeover, c.args()[0])
		}
		if err := c.checkTakeover(given.Path); err != nil {
			return err
		}
	case len(c.args()) == 0:
		return errors.New("which command? For example: tsem-bpf run -- ls -l /etc")
	}
	return c.externalFlags.check(c.Dialect, c.Events)
}

// Run implements the command.
func (c *runCommand) Run(std *streams) error {
	var cmd *exec.Cmd
	args := c.args()
	if c.Takeover == 0 {
		var err error
		if cmd, err = command(args); err != nil {
			return err
		}
	}
	// Before anything starts, so that none is missed. SIGPIPE, because a closed
	// standard output would end us without a word.
	signals := make(chan os.Signal, 32)
	notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGPIPE)
	defer signal.Stop(signals)

	s, err := begin(&c.exportFlags, &c.externalFlags, std, signals)
	if err != nil {
		return err
	}
	if c.External {
		s.export() // the start of CMD is judged already
	}
	if c.Takeover != 0 {
		return s.attend()
	}
	if err := s.namespace.Start(cmd); err != nil {
		err = &exitError{exitNotRunnable, fmt.Errorf("%s: %w", args[0], cause(err))}
		if c.External {
			return errors.Join(err, s.end(false))
		}
		return errors.Join(err, s.close())
	}
	if !c.External {
		s.export()
	}
	return s.follow(cmd)
}

// follow forwards signals to CMD until it has ended, and then ends the session.
func (s *session) follow(cmd *exec.Cmd) error {
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	var told bool
	agentFailed := s.watchAgent()
	for failed, exported := s.output.failed, s.exported; ; {
		select {
		case sent := <-s.signals:
			// Not one typed at the terminal, which CMD may use for other ends.
			told = told || sent == syscall.SIGTERM || sent == syscall.SIGHUP
			forward(cmd.Process, sent.(syscall.Signal))
		case <-failed:
			// The account would go on growing with nobody to write it down.
			s.giveUp()
			failed = nil
		case <-exported:
			s.giveUp()
			exported = nil
		case <-agentFailed:
			s.agentFailed()
			agentFailed = nil
		case err := <-waited:
			if err := s.end(told); err != nil {
				return err
			}
			return status(err)
		}
	}
}

// attend lets the tasks of a namespace that was taken over go on, until there are none any
// more. If nobody can judge them meanwhile, or a signal ends it, they are held back again.
func (s *session) attend() error {
	s.namespace.Resume()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case sent := <-s.signals:
			if ends(sent) {
				return s.end(true)
			}
		case <-s.exported:
			return s.end(false)
		case <-s.watchAgent():
			return s.end(false)
		case <-look.C:
			if s.namespace.Tasks() == 0 {
				return s.end(false)
			}
		}
	}
}

// giveUp ends the modeling before CMD has ended, unless CMD could then do what nobody has
// trusted.
func (s *session) giveUp() {
	if config := s.namespace.Config(); !config.Denies() {
		s.namespace.Shut()
	}
}

// command finds the program, before anything is loaded.
func command(args []string) (*exec.Cmd, error) {
	cmd := exec.Command(args[0], args[1:]...)
	switch {
	case cmd.Err == nil:
	case errors.Is(cmd.Err, os.ErrPermission):
		return nil, &exitError{exitNotRunnable, fmt.Errorf("%s: permission denied", args[0])}
	default:
		return nil, &exitError{exitNotFound, fmt.Errorf("%s: command not found", args[0])}
	}
	info, err := os.Stat(cmd.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &exitError{exitNotFound, fmt.Errorf("%s: no such file", args[0])}
	case err != nil:
		return nil, &exitError{exitNotRunnable, fmt.Errorf("%s: %w", args[0], cause(err))}
	case info.IsDir():
		return nil, &exitError{exitNotRunnable, fmt.Errorf("%s: is a directory", args[0])}
	case info.Mode()&0o111 == 0:
		return nil, &exitError{exitNotRunnable, fmt.Errorf("%s: not executable", args[0])}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd, nil
}

// forward passes a signal on. What the terminal sends goes to its whole foreground
// group: CMD has it already.
func forward(p *os.Process, sent syscall.Signal) {
	if sent == syscall.SIGPIPE {
		return
	}
	if (sent == syscall.SIGINT || sent == syscall.SIGQUIT) && foreground() {
		return
	}
	// It may have ended meanwhile.
	_ = p.Signal(sent)
}

// foreground says whether this process is in the foreground group of its terminal, which need not be its standard input.
func foreground() bool {
	terminal, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer terminal.Close()
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// status turns the end of CMD into that of tsem-bpf.
func status(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	state := exit.Sys().(syscall.WaitStatus)
	if state.Signaled() {
		return &exitError{status: 128 + int(state.Signal())}
	}
	return &exitError{status: state.ExitStatus()}
}
