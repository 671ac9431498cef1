// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/ringbuf"
)

// TakeOver makes this process the keeper of an enforcing namespace whose keeper was killed:
// tasks, trust, counters and the records that nobody has read are those that it has. What it
// raises, what it refuses, its digests and its magazine stay as its first keeper chose them: of the Config
// only what ConfigOf leaves out, and the Deadline, is that of the successor. It goes on
// to refuse what has to be judged until Resume, which is to be called when the judge works.
//
// Such a namespace ends when it has no tasks any more. Shut, and so Close, leaves one with
// tasks as it was found, for another successor.
//
// The error is one of loader.Engine.TakeOver, of CheckDeadline, ErrNoSleep or
// fuse.ErrFUSE, or one of the kernel; the namespace then is as it was.
func TakeOver(engine *loader.Engine, id uint64, successor Config) (*Namespace, error) {
	deadline := cmp.Or(successor.Deadline, DefaultDeadline)
	if err := CheckDeadline(deadline); err != nil {
		return nil, fmt.Errorf("deadline %v: %w", deadline, err)
	}
	index, err := engine.TakeOver(id)
	if err != nil {
		return nil, err
	}
	state := engine.Namespace(index)
	config := ConfigOf(state)
	config.Judge, config.Deadline = successor.Judge, deadline
	config.NoLook, config.MaxLine = successor.NoLook, successor.MaxLine
	n := bareNamespace(engine, config)
	n.id, n.index, n.state, n.inherited = id, index, state, true
	n.release = n.giveBack
	if err := n.inherit(); err != nil {
		return nil, errors.Join(fmt.Errorf("take over: %w", err), n.Close())
	}
	return n, nil
}

// inherit opens what the earlier keeper has left, and a new gate.
func (n *Namespace) inherit() error {
	magazine, err := n.engine.Magazine(n.index)
	if err != nil {
		return err
	}
	n.maps = append(n.maps, magazine)
	last, unread, err := n.unread()
	if err != nil {
		return err
	}
	ring, err := ringbuf.Open(magazine)
	if err != nil {
		return err
	}
	n.magazine = ring
	n.ledger = ringbuf.Resume(ring.Window(int(unsafe.Sizeof(bpf.Record{}))), last, unread)
	n.earlier = n.ledger.Balance(0, nil).Delivered
	if n.aggregate, err = Aggregate(n.config.Digest); err != nil {
		return err
	}
	atomic.StoreUint64(&n.state.Deadline, uint64(n.config.Deadline))
	return n.openGate()
}

// unread returns the last number that the kernel half has given, and which up to there are of
// records that nobody has read.
func (n *Namespace) unread() (last uint64, numbers []uint64, err error) {
	// Not the one that is read from later: scanning would move on there.
	ring, err := ringbuf.Open(n.maps[0])
	if err != nil {
		return 0, nil, err
	}
	defer ring.Close()
	for until := time.Now().Add(endWait); ; time.Sleep(time.Millisecond) {
		// Before the look: a record has its place before its number, so that none that has one by
		// now is missed. Events begun when the keeper lived may still end.
		last = atomic.LoadUint64(&n.state.Delivered)
		_, err := ring.Scan(func(raw []byte) error {
			if number, readable := event.NumberOf(raw); readable && number != 0 {
				numbers = append(numbers, number)
			}
			return nil
		})
		if err != nil {
			return 0, nil, err
		}
		if ring.Scanned() {
			return last, numbers, nil
		}
		if time.Now().After(until) {
			return 0, nil, fmt.Errorf("a record in the magazine is not complete after %v", endWait)
		}
	}
}

// Resume lets the tasks of a namespace that was taken over go on: their events are judged again.
func (n *Namespace) Resume() {
	n.life.RLock()
	defer n.life.RUnlock()
	if n.shut.Load() == nil {
		atomic.AndUint32(&n.state.Flags, ^bpf.NamespaceOrphaned)
	}
}

// endFlag returns what the flags of a namespace get that is shut: one that enforces is left to a
// successor with its tasks, if it was taken over, or has an orchestrator (Config.Orchestrated).
func (n *Namespace) endFlag() uint32 {
	flags := atomic.LoadUint32(&n.state.Flags)
	const enforcing = bpf.NamespaceEnforcing | bpf.NamespaceOrchestrated
	outlives := n.inherited || flags&enforcing == enforcing
	if outlives && flags&bpf.NamespaceClosed == 0 && atomic.LoadUint64(&n.state.Tasks) > 0 {
		return bpf.NamespaceOrphaned
	}
	return bpf.NamespaceClosed
}

// giveBack gives the index of a namespace back that was shut, unless it is left to a successor.
func (n *Namespace) giveBack() error {
	if n.endFlag() == bpf.NamespaceOrphaned {
		n.engine.Abandon(n.index)
		return nil
	}
	return n.engine.Vacate(n.index)
}
