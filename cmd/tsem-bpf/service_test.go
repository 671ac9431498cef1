// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestService: the watchdog is fed while work moves, and not by the clock alone.
func TestService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		start, ended, number := time.Now(), make(chan struct{}), 0
		note := func(text string) { told = append(told, fmt.Sprintf("%v %s", time.Since(start), text)) }
		s := &service{func(state string) error { note(state); return nil }, 10 * time.Second}
		moves := func() (string, error) {
			if number++; number == 4 {
				return "", errors.New("nothing moves")
			}
			return fmt.Sprint(number), nil
		}
		if err := s.begin(ended, moves, func(err error) { note(err.Error()) }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(22 * time.Second)
		close(ended)
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := s.end(); err != nil {
			t.Error(err)
		}
		want := []string{
			"0s READY=1\nSTATUS=1", "5s WATCHDOG=1\nSTATUS=2", "10s WATCHDOG=1\nSTATUS=3",
			"15s the watchdog is not fed: nothing moves", "20s WATCHDOG=1\nSTATUS=5", "1m22s STOPPING=1",
		}
		if !slices.Equal(told, want) {
			t.Errorf("%q, want %q", told, want)
		}
	})
}

// TestServiceRefused: what does not even move at first is not ready, and a manager that cannot be told
// is no reason to go on.
func TestServiceRefused(t *testing.T) {
	fails := errors.New("no")
	s := &service{tell: func(string) error { t.Error("was told"); return nil }}
	if err := s.begin(nil, func() (string, error) { return "", fails }, nil); !errors.Is(err, fails) {
		t.Error(err)
	}
	s = &service{tell: func(string) error { return fails }}
	if err := s.begin(nil, func() (string, error) { return "", nil }, nil); !errors.Is(err, fails) {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := newService(); err == nil {
		t.Error("a watchdog without a time")
	}
}
