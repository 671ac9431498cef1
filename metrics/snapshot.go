// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// Snapshot is what there is to say of the kernel half of a host at a time. Its parts are not
// read at one instant.
type Snapshot struct {
	Status  *loader.Status
	Support *loader.Support
	Runs    []loader.ProgramStatus
	States  []bpf.Namespace // of the namespaces, by index
	Waits   []verdict.Wait
	Boot    time.Duration // CLOCK_BOOTTIME, the clock of Waits
	Mono    time.Duration // CLOCK_MONOTONIC, the clock of bpf.Namespace.Beat
}

// Reader reads Snapshots of an engine. Its methods may be called from any goroutine.
type Reader struct {
	mu     sync.RWMutex // held for reading while the maps are read
	engine *loader.Engine
	slots  *verdict.Slots // nil: closed
}

// NewReader returns a Reader of an engine, which is to be closed after it. It maps the verdicts;
// the error is that of verdict.MapSlots.
func NewReader(engine *loader.Engine) (*Reader, error) {
	slots, err := verdict.MapSlots(engine.Map("slots"))
	if err != nil {
		return nil, err
	}
	return &Reader{engine: engine, slots: slots}, nil
}

// Read reads everything anew: a few system calls for each program and each map that grows, and all verdicts, 4 MiB,
// if there is a namespace whose tasks wait for them. The error is os.ErrClosed after Close, else one of the kernel.
func (r *Reader) Read() (*Snapshot, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.slots == nil {
		return nil, fmt.Errorf("read the kernel half: %w", os.ErrClosed)
	}
	s := &Snapshot{Support: r.engine.Support(), States: r.engine.States()}
	if slices.ContainsFunc(s.States, func(ns bpf.Namespace) bool { return ns.Flags&bpf.NamespaceExternal != 0 }) {
		s.Waits = r.slots.Waits()
	}
	var err error
	if s.Status, err = r.engine.Status(); err != nil {
		return nil, fmt.Errorf("read the kernel half: %w", err)
	}
	if s.Runs, err = r.engine.Runs(); err != nil {
		return nil, fmt.Errorf("read the kernel half: %w", err)
	}
	var boot, mono unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot), unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)); err != nil {
		return nil, fmt.Errorf("read the clocks: %w", err)
	}
	s.Boot, s.Mono = time.Duration(boot.Nano()), time.Duration(mono.Nano())
	return s, nil
}

// Close waits for who reads, and lets go of the verdicts.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slots == nil {
		return nil
	}
	slots := r.slots
	r.slots = nil
	return slots.Close()
}

// unread returns how many bytes of a magazine are claimed and not read yet: all records have
// an account in one of the shares, those of hooks that wait in the first (bpf/room.h). fullest
// is the most of any hook that cannot wait.
func unread(ns *bpf.Namespace) (all, fullest uint64) {
	for i, share := range ns.Shares {
		if share.Read >= share.Claimed {
			continue // read in between
		}
		bytes := share.Claimed - share.Read
		all += bytes
		if i > 0 {
			fullest = max(fullest, bytes)
		}
	}
	return all, fullest
}

// silence returns for how long the keeper of a namespace whose tasks wait for verdicts has shown
// no sign of life; 0 where there is no gate process that looks for one.
func (s *Snapshot) silence(ns *bpf.Namespace) time.Duration {
	if ns.Beat == 0 || ns.Keeper == 0 || ns.Flags&bpf.NamespaceClosed != 0 {
		return 0
	}
	return max(0, s.Mono-time.Duration(ns.Beat))
}

// Waiting returns how many tasks of the host wait for a verdict, and for how long the first of
// them has.
func (s *Snapshot) Waiting() (tasks uint64, longest time.Duration) {
	for _, w := range s.waiting() {
		tasks += w.tasks
		longest = max(longest, w.longest)
	}
	return tasks, longest
}

// WaitingIn is Waiting for one namespace.
func (s *Snapshot) WaitingIn(namespace uint64) (tasks uint64, longest time.Duration) {
	w := s.waiting()[namespace]
	return w.tasks, w.longest
}

// waits are the waits of a namespace.
type waits struct {
	tasks   uint64
	longest time.Duration
}

// waiting returns who waits for a verdict, by the id of the namespace.
func (s *Snapshot) waiting() map[uint64]waits {
	all := make(map[uint64]waits)
	for _, w := range s.Waits {
		before := all[w.Namespace]
		all[w.Namespace] = waits{before.tasks + 1, max(before.longest, s.Boot-time.Duration(w.Since))}
	}
	return all
}
