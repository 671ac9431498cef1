// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// ErrConfig: a Gate cannot be made of that.
var ErrConfig = errors.New("gate is not configured")

// Config is what a Gate is made of. Everything but Beat must be there.
type Config struct {
	// Slots is the verdict map, shared by all gates. It stays the caller's.
	Slots *Slots
	// Device is a descriptor of /dev/fuse, in blocking mode, mounted before or later. It
	// stays the caller's, and open until Serve and every Decide have returned.
	Device int
	// Program is what the gate's file contains. Nobody may change it.
	Program []byte
	// Look looks for events that nobody has judged yet, judges them and may call Decide.
	// The loop calls it for every task that goes to sleep, after its sleep was noted; the
	// loop waits for it, so it must neither block nor wait for a task that may sleep here.
	Look func()
	// Beat is called by the watcher, with the number of sleeping tasks: at least every 10 ms
	// while there are any that Look has left so, else every BeatEvery. It is the keeper's
	// heartbeat, and the occasion to look again for events that Look came too early for. It may
	// call Decide.
	// While Look hangs for longer than Deadline there is no beat: nobody reads requests, so
	// whoever watches the heartbeat has to end the connection. Nor is there one after the kernel has not
	// taken an answer: its task goes on sleeping.
	Beat func(sleeping int)
	// BeatEvery is the longest time between two beats, if no pass takes longer.
	BeatEvery time.Duration
	// Deadline is how long a task may sleep; then the verdict is Late. It passes up to
	// 10 ms late, and up to BeatEvery more where Look hangs.
	Deadline time.Duration
}

func (c *Config) check() error {
	switch {
	case c.Slots == nil || c.Slots.Len() < 2:
		return fmt.Errorf("make the gate: it has no slots: %w", ErrConfig)
	case c.Device < 0:
		return fmt.Errorf("make the gate: %d is no descriptor of /dev/fuse: %w", c.Device, ErrConfig)
	case len(c.Program) == 0:
		return fmt.Errorf("make the gate: its file is empty, and would not run: %w", ErrConfig)
	case c.Look == nil:
		return fmt.Errorf("make the gate: nobody looks for events: %w", ErrConfig)
	case c.BeatEvery < tickEvery:
		return fmt.Errorf("make the gate: a beat every %v, at least %v is needed: %w", c.BeatEvery, tickEvery, ErrConfig)
	case c.Deadline <= 0:
		return fmt.Errorf("make the gate: a deadline of %v, more than 0 is needed: %w", c.Deadline, ErrConfig)
	}
	return nil
}

// Stats count what happened at a gate since it was made.
type Stats struct {
	Asked       uint64 // tasks that asked for the verdict in a slot that exists
	Immediate   uint64 // of these, answered before the loop went on to the next
	Slept       uint64 // of these, all others
	Late        uint64 // waits that the deadline ended
	Killed      uint64 // waits that ended because the task was about to die
	Interrupted uint64 // signals of any kind to tasks that slept, at most one for each sleep
	Gone        uint64 // answers that nobody wanted any more
	Bad         uint64 // requests for a slot that does not exist, or in which somebody slept already
}

// Gate lets the tasks of one namespace sleep, and wakes each as soon as it is decided.
type Gate struct {
	config Config
	slots  *Slots
	files  fileSystem
	waits  []wait // by slot
	asleep slotSet
	closed atomic.Bool
	broken atomic.Uint32 // the first error of an answer that a task waited for

	start time.Time
	rouse chan struct{} // the watcher has to look at once
	idle  atomic.Bool   // the watcher sleeps until the next beat
	mu    sync.Mutex    // of the times in waits, and held where a slot is forgotten; the loop and those who decide never take it

	looking   atomic.Uint64 // the request that the loop is in Look for; 0: none
	lookSeen  uint64        // the same when the watcher looked, which alone uses this
	lookSince time.Duration // and since when, since start

	asked, slept, late, killed, interrupted, gone, bad atomic.Uint64

	// The kernel, or in tests something like it.
	read   func(fd int, b []byte) (int, unix.Errno)
	reply  func(fd int, unique uint64, errno unix.Errno) unix.Errno
	status func(tid uint32) ([]byte, error)
}

// New makes a gate. Nothing happens before Serve. ErrConfig: what is missing in c is in
// the text.
func New(c Config) (*Gate, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Beat == nil {
		c.Beat = func(int) {}
	}
	return &Gate{
		config: c,
		slots:  c.Slots,
		files:  fileSystem{c.Program},
		waits:  make([]wait, c.Slots.Len()),
		asleep: newSlotSet(c.Slots.Len()),
		start:  time.Now(),
		rouse:  make(chan struct{}, 1),
		read:   fuse.ReadDevice,
		reply:  fuse.Reply,
		status: threadStatus,
	}, nil
}

// Serve reads and answers requests until the connection ends: because the file system was
// unmounted, which happens when the gate process ends, or because it was aborted. It then
// returns nil, after all that slept were decided Closed. It is called once.
//
// An error means that the gate cannot go on. The caller has to end the connection, or
// tasks whose requests nobody reads would sleep for ever.
func (g *Gate) Serve() error {
	over, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		g.watch(over)
	}()
	err := g.loop()
	close(over)
	<-watched
	if errno := unix.Errno(g.broken.Load()); errno != 0 {
		err = errors.Join(err, fmt.Errorf("answer a task that waits in the gate: %w", errno))
	}
	g.Close()
	return err
}

// beforeMount is how often the loop tries whether the device is mounted. There is no
// event to wait for: poll(2) says POLLERR until then.
const beforeMount = time.Millisecond

// loop has a thread of its own: the request of a task is answered where it was read.
func (g *Gate) loop() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buffer, out := make([]byte, fuse.BufferSize), make([]byte, fuse.AnswerHeader, fuse.BufferSize)
	for {
		n, errno := g.read(g.config.Device, buffer)
		switch errno {
		case 0:
			if err := g.handle(buffer[:n], out); err != nil {
				return err
			}
		case unix.EPERM:
			if g.closed.Load() {
				return nil
			}
			time.Sleep(beforeMount)
		case unix.EINTR, unix.ENOENT: // ENOENT: the request was aborted while it was read
		case unix.ENODEV, unix.ECONNABORTED:
			return nil
		case unix.EAGAIN:
			return fmt.Errorf("read requests to the gate: its descriptor has O_NONBLOCK: %w", errno)
		default:
			return fmt.Errorf("read requests to the gate: %w", errno)
		}
	}
}

// handle handles one request. out has room for the header of an answer.
func (g *Gate) handle(b, out []byte) error {
	r, err := fuse.ParseRequest(b)
	if err != nil {
		return fmt.Errorf("read requests to the gate: %d bytes: %w", len(b), err)
	}
	if slot, ok := waitIn(&r); ok {
		g.ask(&r, slot)
		return nil
	}
	if unique := r.Interrupted(); unique != 0 {
		g.interrupt(unique)
		return nil
	}
	out, errno, ok := g.files.answer(&r, out)
	if !ok {
		return nil
	}
	fuse.PutHeader(out, len(out), r.Unique, errno)
	switch errno := fuse.WriteDevice(g.config.Device, out); errno {
	case 0:
	case unix.ENOENT:
		g.gone.Add(1)
	default:
		return fmt.Errorf("answer request %d to the gate: %w", r.Opcode, errno)
	}
	return nil
}

// ask lets a task sleep, unless its verdict is there. No decision is missed: who decides
// writes the word, then looks whether somebody sleeps; here it is noted first that
// somebody sleeps, then the word is looked at. One of both sees the other.
func (g *Gate) ask(r *fuse.Request, slot uint32) {
	ticket, v, err := g.slots.Load(slot)
	if err != nil {
		g.bad.Add(1)
		g.answer(r.Unique, unix.EINVAL)
		return
	}
	g.asked.Add(1)
	if v != None {
		g.answer(r.Unique, 0)
		return
	}
	w := &g.waits[slot]
	if before := w.unique.Load(); before != 0 && w.end(before) {
		// A task asks for one thing at a time, so this is no task that waits in a hook, or
		// that was none. It finds no verdict in its slot, which is safe.
		g.bad.Add(1)
		g.answer(before, 0)
	}
	w.begin(ticket, r.Unique, r.TID)
	g.asleep.add(slot)
	if g.closed.Load() {
		_, _ = g.slots.Decide(slot, ticket, Closed)
	} else {
		g.looking.Store(r.Unique)
		g.config.Look()
		g.looking.Store(0)
	}
	if !g.slots.undecided(slot, ticket) {
		g.wake(w, r.Unique)
		return
	}
	if w.unique.Load() == r.Unique {
		g.slept.Add(1)
	}
	// Only now: who is answered at once needs no watcher, and to wake it costs more than all
	// of this function.
	if g.idle.CompareAndSwap(true, false) {
		g.wakeWatcher()
	}
}

// Decide decides about one wait at this gate and wakes its task, if that sleeps already.
// The outcome and the errors are those of Slots.Decide. Any goroutine, also from Look and
// Beat. A task at another gate would be woken by the watcher there, up to 10 ms later, as
// it is when another process decides in the map.
func (g *Gate) Decide(slot uint32, ticket uint64, v Verdict) (Outcome, error) {
	outcome, err := g.slots.Decide(slot, ticket, v)
	if err != nil || !outcome.Won {
		return outcome, err
	}
	w := &g.waits[slot]
	if unique := w.unique.Load(); unique != 0 && w.ticket.Load() == ticket {
		g.wake(w, unique)
	}
	return outcome, nil
}

// wake answers a request, unless somebody else does.
func (g *Gate) wake(w *wait, unique uint64) {
	if w.end(unique) {
		g.answer(unique, 0)
	}
}

// answer wakes a task. The answer is empty; the verdict is in the slot.
func (g *Gate) answer(unique uint64, errno unix.Errno) {
	switch errno := g.reply(g.config.Device, unique, errno); errno {
	case 0:
	case unix.ENOENT:
		g.gone.Add(1)
	default:
		g.broken.CompareAndSwap(0, uint32(errno))
	}
}

// Close decides Closed about everything that sleeps, and from now on about everything that
// comes. Serve goes on, so that nobody who is on the way sleeps for ever: end the
// connection afterwards. Any goroutine, any number of times.
func (g *Gate) Close() {
	g.closed.Store(true)
	g.mu.Lock() // while the watcher forgets a slot it is not in the set, though somebody may sleep there by now
	defer g.mu.Unlock()
	for slot := range g.asleep.all() {
		w := &g.waits[slot]
		if unique, ticket, _, ok := w.get(); ok {
			_, _ = g.slots.Decide(slot, ticket, Closed)
			g.wake(w, unique)
		}
	}
}

// Stats returns the counters. Any goroutine.
func (g *Gate) Stats() Stats {
	slept := g.slept.Load() // before asked, which is never less
	asked := g.asked.Load()
	return Stats{
		Asked: asked, Immediate: asked - slept, Slept: slept,
		Late: g.late.Load(), Killed: g.killed.Load(), Interrupted: g.interrupted.Load(),
		Gone: g.gone.Load(), Bad: g.bad.Load(),
	}
}
