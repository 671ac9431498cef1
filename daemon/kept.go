// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/tma"
	"github.com/tsem-bpf/tsem-bpf/tsemfs"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

const (
	// queueLimit is how many bytes of records nobody need have read before the magazine is read no
	// further: a thousand of the longest.
	queueLimit = 4 << 20
	// lookEvery is how often it is looked whether a namespace has tasks, and its queue records.
	lookEvery = 100 * time.Millisecond
	// eventsPerKiB: an event of a hook that cannot sleep takes at most 296 bytes without a path (namespace.DefaultCache).
	eventsPerKiB = 3
)

// kept is a namespace that an orchestrator has, or will have.
type kept struct {
	plane        *Plane
	id           uint64
	namespace    Namespace
	queue        *tsemfs.Queue
	orchestrator uint32           // process id
	pairing      *control.Pairing // nil: nobody waits
	waits        *tma.Waits

	full     atomic.Uint64 // how often it was found out that the queue is full
	exported atomic.Bool   // its magazine is not read any more
	rounds   uint64        // as Stuck has seen them; Plane.mu guards it

	ended   <-chan struct{} // the orchestrator has ended
	process io.Closer       // by which that is known
	entered chan struct{}   // closed when the first task is there
	stopped chan struct{}   // closed when the namespace shall end
	stop    func()
	unread  chan struct{} // closed when nobody reads records any more
	gone    chan struct{} // closed when nothing is left of it
}

// prepare makes a namespace that is nobody's yet. cache is in events, 0: the default.
func (p *Plane) prepare(kind control.Kind, cache uint32) (*kept, error) {
	k := &kept{
		plane: p, queue: tsemfs.NewQueue(queueLimit),
		entered: make(chan struct{}), stopped: make(chan struct{}), unread: make(chan struct{}), gone: make(chan struct{}),
	}
	k.stop = sync.OnceFunc(func() { close(k.stopped) })
	k.waits = tma.NewWaits(
		func(slot uint32, ticket uint64, v verdict.Verdict) (verdict.Outcome, error) {
			return k.namespace.Decide(slot, ticket, v)
		},
		func(slot uint32, ticket, tnum uint64, v verdict.Verdict) (verdict.Outcome, bool, error) {
			return k.namespace.DecideAsync(slot, ticket, tnum, v)
		})
	config := namespace.Config{
		Deadline: p.deadline, MaxLine: tsemfs.MaxRecord,
		Cache: min((int(cache)+eventsPerKiB-1)/eventsPerKiB, namespace.MaxCache),
	}
	if kind == control.External {
		config.Judge = k.waits.Judge
	}
	var err error
	k.namespace, err = p.kernel.Prepare(config)
	return k, err
}

// begin makes the namespace that a command asks for, without tasks: of the spare one, or else of
// another one.
func (p *Plane) begin(command control.Create) (k *kept, err error) {
	ways := []func() (*kept, error){func() (*kept, error) { return p.prepare(command.Kind, command.Cache) }}
	// The size of the magazine cannot be changed, and nobody asks a gate in a namespace that exports.
	if command.Kind == control.External && command.Cache == 0 {
		if spare := p.takeSpare(); spare != nil {
			ways = slices.Insert(ways, 0, spare)
		}
	}
	for _, prepare := range ways {
		if k, err = prepare(); err != nil {
			continue
		}
		if err = k.namespace.Begin(command.Digest, command.NSRefCurrent); err == nil {
			return k, nil
		}
		err = errors.Join(err, k.namespace.Close())
	}
	return nil, err
}

// make is begin for an orchestrator, whose namespace then lives.
func (p *Plane) make(orchestrator uint32, command control.Create) (*kept, error) {
	ended, process, err := p.kernel.Watch(orchestrator)
	if err != nil {
		return nil, err
	}
	k, err := p.begin(command)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errnoOf(err), err), process.Close())
	}
	k.id, k.orchestrator, k.ended, k.process = k.namespace.ID(), orchestrator, ended, process
	if command.Kind == control.External {
		k.pairing = control.Pair(k.id, command)
	}
	p.living.Go(k.live)
	return k, nil
}

// Write takes whole lines of records from Export. While nobody reads and the queue is full, it
// waits, and with it whoever reads the magazine. When nobody will ever read, they are gone.
func (k *kept) Write(lines []byte) (int, error) {
	for line := range bytes.Lines(lines) {
		for {
			err := k.queue.Append(bytes.Clone(line))
			if err == nil {
				break
			}
			if !errors.Is(err, tsemfs.ErrFull) {
				return 0, err
			}
			select {
			case <-k.unread:
				return len(lines), nil
			case <-time.After(lookEvery):
				k.full.Add(1)
			}
		}
	}
	return len(lines), nil
}

// live keeps the namespace until nothing is left of it.
func (k *kept) live() {
	exported := make(chan error, 1)
	go func() { exported <- k.namespace.Export(context.Background(), event.Current, k) }()
	ended, stopped, entered := k.ended, (<-chan struct{})(k.stopped), (<-chan struct{})(k.entered)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	written, tasks, read := true, false, true // there are records to come, tasks, and somebody who reads
	giveUp := func() {
		if read {
			close(k.unread)
		}
		read = false
		k.waits.Close()
	}
	for written || tasks || read && k.queue.Len() > 0 {
		select {
		case <-entered:
			entered, tasks = nil, true
		case <-ended:
			ended = nil
			giveUp()
			if k.namespace.Tasks() > 0 {
				k.plane.say("the orchestrator of namespace %d, process %d, has ended: nobody judges its events", k.id, k.orchestrator)
			}
		case <-stopped:
			stopped, entered, tasks = nil, nil, false
			giveUp()
			k.namespace.Shut()
		case err := <-exported:
			written = false
			k.exported.Store(true)
			k.queue.End()
			if err != nil {
				k.waits.Close() // what is to be judged nobody would learn of
				k.plane.say("namespace %d: %v", k.id, err)
			}
		case <-look.C:
			if tasks && k.namespace.Tasks() == 0 {
				tasks = false
				k.namespace.Shut()
			}
		}
	}
	k.end()
}

// end takes away what is left of the namespace, and says how it was.
func (k *kept) end() {
	k.plane.mu.Lock()
	delete(k.plane.all, k.id)
	k.plane.mu.Unlock()
	k.waits.Close() // a release that is under way needs the namespace, and has to be counted
	stats, totals := k.waits.Stats(), k.namespace.Totals()
	k.plane.say("namespace %d has ended: %d events, %d released by its orchestrator, %d not in time, %d releases late",
		k.id, totals.Balance.Raised, stats.Decided, totals.Verdicts[verdict.Late], stats.Late)
	if err := errors.Join(k.namespace.Close(), k.process.Close()); err != nil {
		k.plane.say("namespace %d: %v", k.id, err)
	}
	close(k.gone)
}
