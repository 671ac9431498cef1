// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/verdict"
	"github.com/tsem-bpf/tsem-bpf/verdict/gateproc"
)

// Judge decides about an event: Trusted, Untrusted, or None, which leaves the decision to a
// later call of Namespace.Decide, or DecideAsync for a record of KindAsync, with whose event
// nobody waits. It is called once for each event of a task that is not untrusted already, in
// the order of the magazine, before anybody waits for a digest or writes anything; the record
// is valid until it returns. A task waits for it in a hook, perhaps with a directory locked:
// it must neither block nor do I/O. One call at a time.
type Judge func(*event.Record) verdict.Verdict

const (
	// DefaultDeadline is how long a task waits for a verdict.
	DefaultDeadline = 5 * time.Second
	// MaxDeadline has the reason of MaxWait.
	MaxDeadline = MaxWait

	// beatEvery is how often an idle keeper says that it is alive.
	beatEvery = 250 * time.Millisecond
	// lateBeat is how much longer than the deadline a keeper may be silent before its gate
	// process sets the waiting tasks free: many beats, for a machine may be busy.
	lateBeat = 2 * time.Second
)

// ErrNoSleep: hooks never sleep on this kernel, so that no event can wait for a verdict.
var ErrNoSleep = errors.New("events cannot wait for verdicts on this kernel")

// CheckDeadline is CheckCache for Config.Deadline.
func CheckDeadline(deadline time.Duration) error {
	if deadline <= 0 || deadline > MaxDeadline {
		return fmt.Errorf("more than 0, at most %v", MaxDeadline)
	}
	return nil
}

// doorkeeper is what a namespace has whose tasks wait for verdicts: the gate where they
// sleep, and who serves and guards it; or, where there are no gates and tasks look again and
// again (loader.TierPoll), an attendant.
type doorkeeper struct {
	judge  func(raw []byte) error // Namespace.judge
	record event.Record           // scratch of that: who makes one for each event pays for its memory

	decisions *decisions

	slots   *verdict.Slots
	lookout *lookout
	gate    atomic.Pointer[verdict.Gate] // the one that tasks ask now; nil: there is none
	over    atomic.Bool                  // no new gate any more

	mu     sync.Mutex        // held while a gate is made, which may take as long as the start of a process
	device *os.File          // of the gate
	served chan error        // what its Serve returned
	guard  *gateproc.Process // its process

	counting sync.Mutex    // held where gate changes; nothing is waited for meanwhile, so that a scrape gets its counters at once
	gates    uint64        // that were made
	past     verdict.Stats // of the gates before

	guarded chan struct{}         // closed when nobody guards any more, or attends
	failure atomic.Pointer[error] // why there is no gate

	arrived chan struct{} // the attendant has looked; of one element; nil: there is none
	rouse   func()        // lets the attendant look
}

// openGate makes the gate of a namespace that has its index, or what stands for it. What it
// has made when it fails, Close gives back.
func (n *Namespace) openGate() error {
	if !n.engine.Support().Tier.Waits() {
		return fmt.Errorf("%w: it has tier %s, %s", ErrNoSleep, n.engine.Support().Tier, n.engine.Support().TierReason)
	}
	d := &doorkeeper{judge: n.judge, decisions: newDecisions()}
	n.door = d
	var err error
	if d.slots, err = verdict.MapSlots(n.engine.Map("slots")); err != nil {
		return err
	}
	if !n.config.NoLook {
		d.lookout = newLookout(n.watch)
	}
	if n.engine.Gate() == nil {
		d.arrived, d.rouse = make(chan struct{}, 1), n.magazine.Wake
		n.look() // the attendant waits for what that leaves
		d.guarded = make(chan struct{})
		go n.attend()
		return nil
	}
	if err := n.buildGate(); err != nil {
		return err
	}
	d.guarded = make(chan struct{})
	go n.guardGate()
	return nil
}

// attend judges what comes into the magazine of a namespace whose tasks do not ask for their
// verdicts, but look for them.
func (n *Namespace) attend() {
	d := n.door
	defer close(d.guarded)
	for !d.over.Load() {
		err := n.magazine.WaitScan(beatEvery)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			d.decisions.adjust()
			err = nil
		}
		if err == nil {
			_, err = n.magazine.Scan(d.judge)
		}
		select {
		case d.arrived <- struct{}{}:
		default:
		}
		if err != nil {
			return // the reader meets it too, and reports it
		}
	}
}

// buildGate makes a gate, its connection and its process.
func (n *Namespace) buildGate() error {
	d := n.door
	d.mu.Lock()
	defer d.mu.Unlock()
	program, err := gateproc.Program()
	if err != nil {
		return err
	}
	if d.device, err = gateproc.Open(); err != nil {
		return err
	}
	gate, err := verdict.New(verdict.Config{
		Slots: d.slots, Device: int(d.device.Fd()), Program: program,
		Look: n.look, Beat: func(int) { n.beat() }, BeatEvery: beatEvery, Deadline: n.config.Deadline,
	})
	if err != nil {
		return err
	}
	d.counting.Lock()
	d.gates++
	d.gate.Store(gate)
	d.counting.Unlock()
	served := make(chan error, 1)
	d.served = served
	go func() {
		err := gate.Serve()
		served <- err
		if err != nil {
			d.endProcess() // nobody reads the requests any more
		}
	}()
	n.beat()
	d.guard, err = gateproc.Start(gateproc.Config{
		Device: d.device, Namespaces: n.engine.Map("namespaces").FD(), Index: n.index,
		Late: n.config.Deadline + lateBeat, Register: n.engine.Gate(),
	})
	return err
}

// guardGate makes a new gate whenever the gate process has ended: because somebody killed
// it, or because this process was stopped for so long that it let the waiting tasks go.
// Who comes meanwhile finds no gate, and is not judged. Nobody waits where somebody else has closed
// the namespace (loader.Remove).
func (n *Namespace) guardGate() {
	d := n.door
	defer close(d.guarded)
	for {
		<-d.process().Exited()
		if d.over.Load() || errors.Is(d.process().Err(), gateproc.ErrClosed) {
			return
		}
		err := d.endGate()
		if err == nil {
			err = n.buildGate()
		}
		if err != nil {
			err = fmt.Errorf("make a new gate after the end of its process: %w", err)
			d.failure.Store(&err)
			n.magazine.Wake() // Read returns it
			return
		}
	}
}

func (d *doorkeeper) process() *gateproc.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.guard
}

// endProcess ends the gate process, and with it the connection.
func (d *doorkeeper) endProcess() {
	if p := d.process(); p != nil {
		_ = p.Close()
	}
}

// attendant returns what says that the attendant has looked; nil if there is none.
func (d *doorkeeper) attendant() <-chan struct{} {
	if d == nil {
		return nil
	}
	return d.arrived
}

// err says why the namespace has no gate any more; nil while it has one.
func (d *doorkeeper) err() error {
	if d == nil {
		return nil
	}
	if err := d.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// endGate decides about all who wait and ends the connection and its process. Nobody
// waits there any more.
func (d *doorkeeper) endGate() error {
	gate := d.gate.Load()
	if gate != nil {
		gate.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	if d.guard != nil {
		errs = append(errs, d.guard.Close())
	}
	if d.served != nil {
		errs = append(errs, <-d.served)
		d.served = nil
		d.counting.Lock()
		d.past = sum(d.past, gate.Stats())
		d.gate.Store(nil)
		d.counting.Unlock()
	}
	if d.device != nil {
		errs = append(errs, d.device.Close())
		d.device = nil
	}
	return errors.Join(errs...)
}

// look judges the events that nobody has looked at. Errors of the magazine are the
// reader's to report, who meets them too.
func (n *Namespace) look() {
	_, _ = n.magazine.Scan(n.door.judge)
}

// judge judges the event of a record, if a verdict is wanted. One that cannot be read is
// the reader's to count, who meets it too. One call at a time, for it is the magazine's Scan
// that calls it.
func (n *Namespace) judge(raw []byte) (err error) {
	r := &n.door.record
	if *r, err = event.Parse(raw); err != nil || r.Slot() == 0 {
		return nil
	}
	v := n.config.Judge(r)
	if v == verdict.None {
		n.hurry() // the agent may need the record that the sink gets
		return nil
	}
	if r.Kind() == event.KindAsync {
		_, _, _ = n.DecideAsync(r.Slot(), r.Ticket(), r.Tnum(), v)
	} else {
		_, _ = n.Decide(r.Slot(), r.Ticket(), v)
	}
	n.door.lookout.call()
	return nil
}

// Decide decides about the event with this slot and ticket and wakes its task. The errors
// are those of verdict.Slots.Decide. Only where the Config has a Judge, and until Close;
// from any goroutine, also from the Judge.
func (n *Namespace) Decide(slot uint32, ticket uint64, v verdict.Verdict) (outcome verdict.Outcome, err error) {
	event := n.door.slots.Time(slot)
	if gate := n.door.gate.Load(); gate != nil {
		outcome, err = gate.Decide(slot, ticket, v)
	} else {
		outcome, err = n.door.slots.Decide(slot, ticket, v)
	}
	if outcome.Won { // so that it was the event of this ticket
		n.door.decisions.add(event)
	}
	return outcome, err
}

// DecideAsync is verdict.Slots.DecideAsync: nobody sleeps with such an event, who would have to
// be woken. The rest is that of Decide.
func (n *Namespace) DecideAsync(slot uint32, ticket, tnum uint64, v verdict.Verdict) (outcome verdict.Outcome, distrusted bool, err error) {
	event := n.door.slots.Time(slot)
	outcome, distrusted, err = n.door.slots.DecideAsync(slot, ticket, tnum, v)
	if outcome.Won {
		n.door.decisions.add(event)
	}
	return outcome, distrusted, err
}

// DecisionTimes returns how long events have waited for the decisions of this process. Only where
// the Config has a Judge; from any goroutine.
func (n *Namespace) DecisionTimes() DecisionTimes { return n.door.decisions.times() }

// GateStats returns what happened at the gates of the namespace, and how many there were:
// more than one means that gate processes have ended, none that tasks look for their verdicts.
// Only where the Config has a Judge.
func (n *Namespace) GateStats() (stats verdict.Stats, gates uint64) {
	d := n.door
	d.counting.Lock()
	defer d.counting.Unlock()
	gate := d.gate.Load()
	if gate == nil {
		return d.past, d.gates
	}
	return sum(d.past, gate.Stats()), d.gates
}

func sum(a, b verdict.Stats) verdict.Stats {
	return verdict.Stats{
		Asked: a.Asked + b.Asked, Immediate: a.Immediate + b.Immediate, Slept: a.Slept + b.Slept,
		Late: a.Late + b.Late, Killed: a.Killed + b.Killed, Interrupted: a.Interrupted + b.Interrupted,
		Gone: a.Gone + b.Gone, Bad: a.Bad + b.Bad,
	}
}

// beat tells the gate process that this process is alive, and looks again: a record
// behind one that was not complete yet is missed by the look that its task asks for.
func (n *Namespace) beat() {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		atomic.StoreUint64(&n.state.Beat, uint64(now.Nano()))
	}
	n.door.decisions.adjust()
	n.look()
}

// shut decides about all who wait, and who will. There are no new gates from here on.
func (d *doorkeeper) shut() {
	if d == nil {
		return
	}
	d.over.Store(true)
	if gate := d.gate.Load(); gate != nil {
		gate.Close()
	}
}

// close ends the gate. Nobody waits any more.
func (d *doorkeeper) close() error {
	if d == nil {
		return nil
	}
	d.shut()
	d.lookout.end()
	if d.guarded != nil {
		if d.rouse != nil {
			d.rouse()
		}
		d.endProcess()
		<-d.guarded
	}
	err := d.endGate()
	if d.slots != nil {
		err = errors.Join(err, d.slots.Close())
		d.slots = nil
	}
	return err
}
