// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// TestNotify: a SIGHUP that this process was started to ignore stays ignored; every other signal comes.
func TestNotify(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	signals := make(chan os.Signal, 4)
	notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1} {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
	}
	if came := <-signals; came != syscall.SIGUSR1 || len(signals) > 0 {
		t.Errorf("%v came, and %d more", came, len(signals))
	}
}

// TestForeground: what is typed at the terminal goes to the foreground group, wherever its standard input comes from.
func TestForeground(t *testing.T) {
	_, terminal := openTerminal(t)
	inSession := syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	for name, test := range map[string]struct {
		stdin *os.File
		attr  syscall.SysProcAttr
		want  string
	}{
		"terminal":      {terminal, inSession, "true"},
		"another input": {nil, inSession, "true"},
		"no terminal":   {nil, syscall.SysProcAttr{Setsid: true}, "false"},
		"not its own":   {terminal, syscall.SysProcAttr{Setsid: true}, "false"},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TSEM_FOREGROUND=1")
		cmd.ExtraFiles, cmd.SysProcAttr = []*os.File{terminal}, &test.attr
		if test.stdin != nil {
			cmd.Stdin = test.stdin
		}
		if got, err := cmd.Output(); err != nil || strings.TrimSpace(string(got)) != test.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, test.want)
		}
	}
}
