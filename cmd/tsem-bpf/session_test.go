// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"
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
