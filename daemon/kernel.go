// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// Namespace is what a Plane needs of a namespace.Namespace, which says what the methods do.
type Namespace interface {
	Begin(hash crypto.Hash, nsrefCurrent bool) error
	ID() uint64
	Enter(c loader.Caller) error
	Export(ctx context.Context, dialect event.Dialect, w io.Writer) error
	Decide(slot uint32, ticket uint64, v verdict.Verdict) (verdict.Outcome, error)
	DecideAsync(slot uint32, ticket, tnum uint64, v verdict.Verdict) (verdict.Outcome, bool, error)
	Enforce() error
	Seal() error
	Sealed() bool
	Config() namespace.Config
	Orchestrate(pid uint32)
	SetKeys(taskKey, tmaKey []byte)
	Keys() (taskKey, tmaKey []byte)
	Resume()
	Ended() bool
	Tasks() uint64
	Totals() namespace.Totals
	Rounds() uint64
	Shut()
	Close() error
}

// Kernel is what a Plane needs of the kernel. Its methods may be called from any goroutine.
type Kernel interface {
	// Caller says who a thread is: loader.Engine.Caller.
	Caller(tid uint32) (loader.Caller, error)
	// Prepare makes an empty namespace, as far as that takes long: namespace.Prepare.
	Prepare(config namespace.Config) (Namespace, error)
	// Orphans returns the namespaces that an earlier Plane has left with tasks that are held back.
	Orphans() []uint64
	// TakeOver takes one of these over: namespace.TakeOver.
	TakeOver(id uint64, config namespace.Config) (Namespace, error)
	// Watch returns a channel that is closed when a process has ended, or the Closer was closed.
	// The error wraps unix.ESRCH if there is no such process.
	Watch(pid uint32) (<-chan struct{}, io.Closer, error)
}

// Engine is the Kernel that a kernel half is part of.
type Engine struct{ *loader.Engine }

// Prepare implements Kernel.
func (e Engine) Prepare(config namespace.Config) (Namespace, error) {
	n, err := namespace.Prepare(e.Engine, config)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Orphans implements Kernel.
func (e Engine) Orphans() (orphans []uint64) {
	for _, state := range e.States() {
		if status := loader.StatusOf(&state); status.Orchestrated && status.Orphaned && !status.Closed && status.Keeper == 0 && status.Tasks > 0 {
			orphans = append(orphans, status.ID)
		}
	}
	return orphans
}

// TakeOver implements Kernel.
func (e Engine) TakeOver(id uint64, config namespace.Config) (Namespace, error) {
	n, err := namespace.TakeOver(e.Engine, id, config)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Watch implements Kernel.
func (Engine) Watch(pid uint32) (<-chan struct{}, io.Closer, error) {
	fd, err := unix.PidfdOpen(int(pid), unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	connection, err := process.SyscallConn()
	if err != nil {
		process.Close()
		return nil, nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = connection.Read(func(fd uintptr) bool {
			// Readable when the process has ended (pidfd_open(2)).
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
	}()
	return ended, process, nil
}
