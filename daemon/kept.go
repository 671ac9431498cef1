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
	plane     *Plane
	id        uint64
	namespace Namespace
	queue     *tsemfs.Queue
	waits     *tma.Waits

	orchestrator uint32           // process id, 0: none; Plane.mu guards it
	pairing      *control.Pairing // nil: nobody waits; Plane.mu guards it

	full     atomic.Uint64 // how often it was found out that the queue is full
	dropped  uint64        // records that had no room in it, and that nobody was to read; Write alone uses it until Export has returned
	exported atomic.Bool   // its magazine is not read any more
	unread   atomic.Bool   // nobody reads its records
	rounds   uint64        // as Stuck has seen them; Plane.mu guards it

	claims  chan claim    // of those who want to be the next one
	entered chan struct{} // closed when the first task is there
	stopped chan struct{} // closed when the namespace shall end
	stop    func()
	gone    chan struct{} // closed when nothing is left of it
}

// claim is a process that orchestrates a namespace, or wants to.
type claim struct {
	orchestrator uint32           // process id
	pairing      *control.Pairing // by which it releases tasks
	ended        <-chan struct{}  // it has ended; nil: there is none
	process      io.Closer        // by which that is known
	accepted     chan struct{}    // closed when it is the orchestrator; nil: from the beginning
}

// newKept returns one without its namespace.
func (p *Plane) newKept() *kept {
	k := &kept{
		plane: p, queue: tsemfs.NewQueue(queueLimit), claims: make(chan claim),
		entered: make(chan struct{}), stopped: make(chan struct{}), gone: make(chan struct{}),
	}
	k.stop = sync.OnceFunc(func() { close(k.stopped) })
	k.waits = tma.NewWaits(
		func(slot uint32, ticket uint64, v verdict.Verdict) (verdict.Outcome, error) {
			return k.namespace.Decide(slot, ticket, v)
		},
		func(slot uint32, ticket, tnum uint64, v verdict.Verdict) (verdict.Outcome, bool, error) {
			return k.namespace.DecideAsync(slot, ticket, tnum, v)
		})
	return k
}

// prepare makes a namespace that is nobody's yet. cache is in events, 0: the default.
func (p *Plane) prepare(kind control.Kind, cache uint32) (*kept, error) {
	k := p.newKept()
	config := namespace.Config{
		Deadline: p.deadline, MaxLine: tsemfs.MaxRecord, Orchestrated: true,
		Cache: min((int(cache)+eventsPerKiB-1)/eventsPerKiB, namespace.MaxCache),
	}
	if kind == control.External {
		config.Judge = k.waits.Judge
	}
	var err error
	k.namespace, err = p.kernel.Prepare(config)
	return k, err
}

// inherit takes a namespace over that an earlier Plane has left. Nobody orchestrates it.
func (p *Plane) inherit(id uint64) (*kept, error) {
	k := p.newKept()
	var err error
	k.namespace, err = p.kernel.TakeOver(id, namespace.Config{Judge: k.waits.Judge, Deadline: p.deadline, MaxLine: tsemfs.MaxRecord})
	if err != nil {
		return nil, err
	}
	k.id = id
	taskKey, tmaKey := k.namespace.Keys()
	k.pairing = control.Restore(id, k.namespace.Config().Digest, taskKey, tmaKey)
	k.namespace.Orchestrate(0)
	close(k.entered)
	p.keep(k, claim{})
	return k, nil
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
	k.id = k.namespace.ID()
	first := claim{orchestrator: orchestrator, ended: ended, process: process}
	if command.Kind == control.External {
		first.pairing = control.Pair(k.id, command)
		k.namespace.SetKeys(first.pairing.Keys())
	}
	k.orchestrated(first)
	p.keep(k, first)
	return k, nil
}

// keep lets a namespace live. Whoever is in it finds it from now on, until it ends.
func (p *Plane) keep(k *kept, now claim) {
	p.mu.Lock()
	p.all[k.id] = k
	p.mu.Unlock()
	p.living.Go(func() { k.live(now) })
}

// orchestrated notes whose namespace it is.
func (k *kept) orchestrated(c claim) {
	k.plane.mu.Lock()
	defer k.plane.mu.Unlock()
	k.orchestrator = c.orchestrator
	if c.pairing != nil {
		k.pairing = c.pairing
	}
	k.namespace.Orchestrate(c.orchestrator)
}

// Write takes whole lines of records from Export. While nobody reads and the queue is full, it
// waits, and with it whoever reads the magazine. When nobody is to read, they are gone, and counted.
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
			if k.unread.Load() {
				k.dropped++
				break
			}
			time.Sleep(lookEvery)
			k.full.Add(1)
		}
	}
	return len(lines), nil
}

// live keeps the namespace until nothing is left of it. now is its orchestrator, or nothing.
func (k *kept) live(now claim) {
	exported := make(chan error, 1)
	go func() { exported <- k.namespace.Export(context.Background(), event.Current, k) }()
	stopped, entered := (<-chan struct{})(k.stopped), (<-chan struct{})(k.entered)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var claims chan claim       // nil while somebody orchestrates it
	var window <-chan time.Time // for who may orchestrate what an earlier Plane has left
	if now.ended == nil {
		k.namespace.Resume()
		claims, window = k.claims, time.After(k.plane.window())
	}
	written, tasks := true, false // there are records to come, and tasks
	leave := func() {
		k.unread.Store(true)
		k.waits.Close()
	}
	for written || tasks || !k.unread.Load() && k.queue.Len() > 0 {
		select {
		case <-entered:
			entered, tasks = nil, true
		case <-now.ended:
			k.orchestrated(claim{})
			leave()
			if k.namespace.Tasks() > 0 {
				k.plane.say("the orchestrator of namespace %d, process %d, has ended: nobody judges its events", k.id, now.orchestrator)
			}
			k.forget(&now)
			if written && stopped != nil {
				claims = k.claims
			}
		case <-window:
			window = nil
			leave()
			k.plane.say("nobody has taken namespace %d over for %v: nobody judges its events", k.id, k.plane.window())
		case now = <-claims:
			claims, window = nil, nil
			k.orchestrated(now)
			if k.unread.Swap(false) {
				k.waits.Reopen()
			}
			k.plane.say("process %d orchestrates namespace %d now", now.orchestrator, k.id)
			close(now.accepted)
		case <-stopped:
			stopped, entered, claims, tasks = nil, nil, nil, false
			leave()
			k.namespace.Shut()
		case err := <-exported:
			written, claims = false, nil
			k.exported.Store(true)
			if !k.namespace.Totals().Held { // else it goes on, and who polls learns that the connection has ended
				k.queue.End()
			}
			if err != nil {
				k.waits.Close() // what is to be judged nobody would learn of
				k.plane.say("namespace %d: %v", k.id, err)
				if config := k.namespace.Config(); !config.Denies() { // else its tasks could do what nobody has trusted
					entered, tasks = nil, false
					k.namespace.Shut() // they would wait for room with each event
				}
			}
		case <-look.C:
			if tasks && (k.namespace.Tasks() == 0 || k.namespace.Ended()) {
				tasks = false
				k.namespace.Shut()
			}
		}
	}
	k.forget(&now)
	k.end()
}

// forget lets go of the process that has orchestrated the namespace.
func (k *kept) forget(now *claim) {
	if now.process != nil {
		if err := now.process.Close(); err != nil {
			k.plane.say("namespace %d: %v", k.id, err)
		}
	}
	*now = claim{}
}

// end takes away what is left of the namespace, and says how it was.
func (k *kept) end() {
	k.plane.mu.Lock()
	delete(k.plane.all, k.id)
	k.plane.mu.Unlock()
	k.waits.Close() // a release that is under way needs the namespace, and has to be counted
	stats, totals := k.waits.Stats(), k.namespace.Totals()
	end := "has ended"
	if totals.Held {
		end = "is left to the next daemon, its tasks are held back"
	}
	more := ""
	if n := k.dropped + uint64(k.queue.Len()); n > 0 {
		more = fmt.Sprintf(", %d records unread", n)
	}
	if totals.Unreadable > 0 {
		more += fmt.Sprintf(", %d unreadable", totals.Unreadable)
	}
	// What nobody has read of one that is held back the next daemon reads.
	if totals.Balance.Delivered != totals.Balance.Raised && !totals.Held {
		more += "; " + totals.Balance.String()
	}
	k.plane.say("namespace %d %s: %d events, %d released by its orchestrator, %d not in time, %d releases late%s",
		k.id, end, totals.Balance.Raised, stats.Decided, totals.Verdicts[verdict.Late], stats.Late, more)
	if err := k.namespace.Close(); err != nil {
		k.plane.say("namespace %d: %v", k.id, err)
	}
	close(k.gone)
}
