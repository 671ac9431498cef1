// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// busyRecheck bounds a sleep while the record at the head is reserved and not
// committed. Its commit normally wakes us; if it is committed with
// BPF_RB_NO_WAKEUP it does not, and records behind it that would have woken us
// are stuck. One look in a millisecond costs nothing that could be measured, and
// a record is busy for microseconds: the kernel half never sleeps before submit.
const busyRecheck = time.Millisecond

// longestSleep bounds a single epoll_wait, whose timeout is a 32-bit number of
// milliseconds. Wait then goes on sleeping.
const longestSleep = 24 * time.Hour

// one is what is added to the eventfd: a native u64, but any number except 0
// and ^0 means the same, so the byte order does not matter.
var one = [8]byte{1}

// Wait blocks until ReadBatch can make progress, Wake is called, or the timeout
// is over, whichever comes first. It returns nil in the first two cases: look
// with ReadBatch, which may find nothing. When there is something to read it
// returns at once, without a system call. A timeout of 0 only looks, a negative
// one means for ever; others are rounded up to milliseconds.
//
// It returns os.ErrDeadlineExceeded when the time is over and ErrClosed when the
// Magazine is closed. One goroutine at a time in Wait or WaitScan, a second one waits; another
// goroutine may be in ReadBatch meanwhile.
//
// Why no wake-up is missed: the kernel writes the header and then looks at the
// consumer position, and signals when it is that of the header
// (bpf_ringbuf_commit). We write the consumer position and then look at the
// header. One of the two sees the other. A signal that comes between our look and
// epoll_wait is kept in the ready list of the epoll instance.
//
// Why edges: ringbuf_map_poll_kern reports "readable" as soon as something is
// reserved. Level-triggered, epoll_wait would come back at once, again and again,
// while the record at the head is busy. An edge comes with each signal only.
func (m *Magazine) Wait(timeout time.Duration) error { return m.wait(m.ring.head, timeout) }

// WaitScan is Wait for Scan in place of ReadBatch, after the first Scan. The kernel half has to
// wake for each record (BPF_RB_FORCE_WAKEUP): of itself the kernel does so only for a record
// before which everything was read.
func (m *Magazine) WaitScan(timeout time.Duration) error { return m.wait(m.ring.next, timeout) }

func (m *Magazine) wait(next func() headState, timeout time.Duration) error {
	m.waiter.Lock()
	defer m.waiter.Unlock()
	var deadline time.Time
	if timeout >= 0 {
		deadline = time.Now().Add(timeout)
	}
	for {
		if m.closed.Load() {
			return ErrClosed
		}
		head := next()
		if head == headReady {
			return nil
		}
		left := longestSleep
		if timeout >= 0 {
			left = max(0, time.Until(deadline))
		}
		sleep := min(left, longestSleep)
		if head == headBusy {
			sleep = min(sleep, busyRecheck)
		}
		woken, err := m.sleep(sleep)
		switch {
		case err != nil:
			return fmt.Errorf("wait for magazine: %w", err)
		case m.closed.Load():
			return ErrClosed
		case woken:
			return nil
		case left == 0:
			return os.ErrDeadlineExceeded
		}
	}
}

// looksPerClock is how often Await looks before it looks at the clock, which takes longer.
const looksPerClock = 64

// Await looks for a record that Scan has not had, all the time instead of sleeping, and says
// whether there is one; false when the time is over or the Magazine is closed. Who looks sees a
// record sooner than anybody could be woken for it, and uses a whole CPU: a limit should be no
// longer than a wake-up takes. Call it after the first Scan. Safe from any goroutine.
func (m *Magazine) Await(limit time.Duration) bool {
	m.others.RLock()
	defer m.others.RUnlock()
	for begin := time.Now(); ; {
		for range looksPerClock {
			if m.closed.Load() {
				return false
			}
			if m.ring.next() == headReady {
				return true
			}
		}
		if time.Since(begin) >= limit {
			return false
		}
	}
}

// sleep blocks until the map or the eventfd signals something or the time is
// over, and says whether it was the eventfd, which it resets. A signal handled
// by this thread (Go sends itself many) ends it early, which the caller does not
// need to know.
func (m *Magazine) sleep(timeout time.Duration) (woken bool, err error) {
	msec := int((timeout + time.Millisecond - 1) / time.Millisecond)
	n, err := unix.EpollWait(m.epoll, m.events[:], msec)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, event := range m.events[:n] {
		if event.Fd != int32(m.wakeup) {
			continue
		}
		woken = true
		if _, err := unix.Read(m.wakeup, m.count[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
			return false, err
		}
	}
	return woken, nil
}

// Wake makes the Wait that is under way return nil, or the next one if there is
// none; several calls before that count as one. It does nothing after Close. Safe
// from any goroutine.
func (m *Magazine) Wake() {
	m.others.RLock()
	defer m.others.RUnlock()
	if m.closed.Load() {
		return
	}
	m.signal()
}

// signal writes to the eventfd. The only error it can have is EAGAIN: the counter
// is full, so Wait has been told already.
func (m *Magazine) signal() {
	_, _ = unix.Write(m.wakeup, one[:])
}
