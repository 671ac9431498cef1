// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/tsemfs"
)

// Plane is a tsemfs.Plane. Make it with New; Close ends or leaves all namespaces.
type Plane struct {
	kernel    Kernel
	deadline  time.Duration
	log       io.Writer
	aggregate []byte

	inheriting sync.Mutex

	making  sync.WaitGroup // of Create and Takeover, which Close waits for
	living  sync.WaitGroup // of kept.live, the same: a namespace that is about to end is not in all any more
	mu      sync.Mutex
	all     map[uint64]*kept
	spare   func() (*kept, error) // waits until it is prepared; nil: somebody has just taken it
	closing bool
}

var _ tsemfs.Plane = (*Plane)(nil)

// New returns a Plane without namespaces. aggregate is the measurement of the platform
// (namespace.Aggregate). deadline is how long an event waits for its release, 0:
// namespace.DefaultDeadline. What nobody else is told goes to log, a line at a time and from any
// goroutine.
func New(kernel Kernel, aggregate []byte, deadline time.Duration, log io.Writer) *Plane {
	return &Plane{kernel: kernel, deadline: deadline, log: log, aggregate: aggregate, all: make(map[uint64]*kept)}
}

// Ready keeps an external namespace ready for the next who asks for one, which takes long to make. It
// returns at once. From the first command on the Plane does so by itself.
func (p *Plane) Ready() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spare == nil && !p.closing {
		var k *kept
		var err error
		prepared := make(chan struct{})
		p.living.Go(func() {
			defer close(prepared)
			k, err = p.prepare(control.External, 0)
		})
		p.spare = func() (*kept, error) { <-prepared; return k, err }
	}
}

// takeSpare returns what waits for the namespace that is kept ready; nil: somebody else waits for it.
func (p *Plane) takeSpare() (spare func() (*kept, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	spare, p.spare = p.spare, nil
	return spare
}

// say writes a line to the log.
func (p *Plane) say(format string, args ...any) {
	fmt.Fprintf(p.log, "tsem-bpf: "+format+"\n", args...)
}

// refuse makes the error with which a write fails.
func refuse(errno unix.Errno, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errno)...)
}

// Admit implements tsemfs.Plane. The kernel half has looked for the capability already, in file_open;
// but below 6.2 the kernel may not have run that program.
func (p *Plane) Admit(tid uint32) error {
	c, err := p.kernel.Caller(tid)
	if err != nil {
		return err
	}
	if c.MacAdmin == 0 {
		return unix.EACCES
	}
	return nil
}

// Refused implements tsemfs.Plane.
func (p *Plane) Refused(tid uint32, err error) {
	p.say("thread %d wrote to control: %v", tid, err)
}

// ID implements tsemfs.Plane.
func (p *Plane) ID(tid uint32) (uint64, error) {
	c, err := p.kernel.Caller(tid)
	if err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.of(c)
	switch {
	case k == nil:
		return 0, unix.ENOENT
	case c.Namespace != 0 && k.namespace.Sealed():
		return 0, unix.EACCES
	}
	return k.id, nil
}

// Aggregate implements tsemfs.Plane.
func (p *Plane) Aggregate(tid uint32) ([]byte, error) {
	c, err := p.kernel.Caller(tid)
	if err != nil {
		return nil, err
	}
	if c.Namespace != 0 {
		return nil, unix.EACCES
	}
	return p.aggregate, nil
}

// Records implements tsemfs.Plane.
func (p *Plane) Records(namespace uint64) *tsemfs.Queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.all[namespace]; k != nil {
		return k.queue
	}
	return nil
}

// Namespaces implements tsemfs.Plane.
func (p *Plane) Namespaces() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.all))
}

// Stuck returns the namespaces whose reader has not come around since the last call of Stuck, some
// seconds ago, though there is a magazine to read: that is a defect. One that waits because nobody takes
// the records comes around.
func (p *Plane) Stuck() (stuck []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, k := range p.all {
		// One more than they are: at the first look the number before is 0.
		rounds := 1 + k.namespace.Rounds() + k.full.Load()
		if rounds == k.rounds && !k.exported.Load() {
			stuck = append(stuck, id)
		}
		k.rounds = rounds
	}
	slices.Sort(stuck)
	return stuck
}

// Command implements tsemfs.Plane.
func (p *Plane) Command(tid uint32, command control.Command) error {
	c, err := p.kernel.Caller(tid)
	if err != nil {
		return err
	}
	switch command := command.(type) {
	case control.Create:
		return p.create(tid, c, command)
	case control.Release:
		return p.release(c, command)
	case control.Enforce:
		return p.change(c, "enforce", Namespace.Enforce)
	case control.Seal:
		return p.change(c, "seal", Namespace.Seal)
	case control.Takeover:
		return p.takeOver(c, command)
	}
	return refuse(unix.EINVAL, "%T is about an internal model, and no namespace has one", command)
}

// of returns the namespace that a thread is in, or the latest that its process orchestrates; nil
// if there is none. With mu held.
func (p *Plane) of(c loader.Caller) *kept {
	if c.Namespace != 0 {
		return p.all[c.Namespace]
	}
	var latest *kept
	for _, k := range p.all {
		if k.orchestrator == c.Tgid && (latest == nil || k.id > latest.id) {
			latest = k
		}
	}
	return latest
}

// change changes the namespace that a command is about (4.6).
func (p *Plane) change(c loader.Caller, name string, change func(Namespace) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.of(c)
	if k == nil {
		return refuse(unix.EINVAL, "%s by process %d, which is in no namespace of the control plane and orchestrates none", name, c.Tgid)
	}
	if err := change(k.namespace); err != nil {
		return refuse(unix.EPERM, "%s: %w", name, err)
	}
	return nil
}

// create makes a namespace and puts a thread into it (4.3).
func (p *Plane) create(tid uint32, c loader.Caller, command control.Create) error {
	switch {
	case c.Namespace != 0:
		return refuse(unix.EPERM, "thread %d is in namespace %d, in which none can be made", tid, c.Namespace)
	case c.IoWorker != 0:
		return refuse(unix.EOPNOTSUPP, "a worker of io_uring writes for process %d, and would be in the namespace: make it with write(2), in the thread that is to be there", c.Tgid)
	case command.Kind == control.Internal:
		return refuse(unix.EOPNOTSUPP, "an internal namespace needs a model in the kernel")
	}
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return refuse(unix.ESHUTDOWN, "the control plane ends")
	}
	p.making.Add(1)
	p.mu.Unlock()
	defer p.making.Done()
	defer p.Ready()
	k, err := p.make(c.Parent, command)
	if err != nil {
		return err
	}
	// The number of the parent is still that of the process which is watched if the thread has it still.
	again, err := p.kernel.Caller(tid)
	if err == nil && again.Parent != c.Parent {
		err = refuse(unix.ESRCH, "thread %d has lost its parent, process %d", tid, c.Parent)
	}
	if err == nil {
		err = k.namespace.Enter(c)
	}
	if err != nil {
		k.stop()
		<-k.gone
		return err
	}
	close(k.entered)
	return nil
}

// Inherit takes the namespaces over that an earlier Plane has left with tasks that are held back, each for the orchestrator
// that will take it over. Until one does their events wait, but not for longer than the window: then nobody judges
// them, as when an orchestrator has ended. To be called when the files can be used.
func (p *Plane) Inherit() {
	for _, id := range p.kernel.Orphans() {
		if _, err := p.heir(id); err != nil {
			p.say("namespace %d, which another daemon has left: %v", id, err)
		}
	}
}

// window is how long the events of a namespace that was inherited wait for an orchestrator: half of the
// deadline, so that none is late before somebody is there who could judge it, which would take the trust from its task.
func (p *Plane) window() time.Duration { return cmp.Or(p.deadline, namespace.DefaultDeadline) / 2 }

// heir returns a namespace that is kept, or inherits it.
func (p *Plane) heir(id uint64) (*kept, error) {
	p.inheriting.Lock() // two do not inherit one
	defer p.inheriting.Unlock()
	p.mu.Lock()
	k, closing := p.all[id], p.closing
	if k == nil && !closing {
		p.making.Add(1)
		defer p.making.Done()
	}
	p.mu.Unlock()
	switch {
	case k != nil:
		return k, nil
	case closing:
		return nil, refuse(unix.ESHUTDOWN, "the control plane ends")
	case !slices.Contains(p.kernel.Orphans(), id):
		return nil, refuse(unix.ENOENT, "there is no namespace %d of the control plane", id)
	}
	k, err := p.inherit(id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errnoOf(err), err)
	}
	return k, nil
}

// formerWait is how long a takeover waits for the end of the former orchestrator, which may have been killed just now.
const formerWait = 2 * time.Second

// takeOver makes a process the orchestrator of a namespace that has none any more.
func (p *Plane) takeOver(c loader.Caller, t control.Takeover) error {
	switch {
	case c.Namespace != 0:
		return refuse(unix.EPERM, "process %d is in namespace %d, and takes none over", c.Tgid, c.Namespace)
	case c.MacAdmin == 0: // whoever opened the file
		return refuse(unix.EPERM, "process %d has no CAP_MAC_ADMIN, and takes no namespace over", c.Tgid)
	}
	k, err := p.heir(t.Namespace)
	if err != nil {
		return err
	}
	p.mu.Lock()
	pairing := k.pairing
	p.mu.Unlock()
	switch {
	case pairing == nil:
		return refuse(unix.EINVAL, "in namespace %d nobody waits for an orchestrator", k.id)
	case k.exported.Load():
		return refuse(unix.EIO, "the magazine of namespace %d is not read any more", k.id)
	}
	if pairing, err = pairing.TakeOver(t); err != nil {
		return err
	}
	ended, process, err := p.kernel.Watch(c.Tgid)
	if err != nil {
		return err
	}
	claim := claim{orchestrator: c.Tgid, pairing: pairing, ended: ended, process: process, accepted: make(chan struct{})}
	select {
	case k.claims <- claim:
		<-claim.accepted
		return nil
	case <-k.gone:
		err = refuse(unix.ENOENT, "namespace %d has ended", k.id)
	case <-time.After(formerWait):
		err = refuse(unix.EBUSY, "namespace %d has an orchestrator", k.id)
	}
	return errors.Join(err, process.Close())
}

// errnoOf is the errno of a write for what can be wrong with a namespace that is new, or taken over.
func errnoOf(err error) unix.Errno {
	switch {
	case errors.Is(err, loader.ErrNoNamespace):
		return unix.ENOENT
	case errors.Is(err, loader.ErrKept):
		return unix.EBUSY
	case errors.Is(err, loader.ErrFull):
		return unix.ENOSPC
	case errors.Is(err, namespace.ErrNoSleep):
		return unix.EOPNOTSUPP
	}
	return unix.EIO
}

// release releases a task (4.5).
func (p *Plane) release(c loader.Caller, r control.Release) error {
	p.mu.Lock()
	var task, own *kept
	for _, k := range p.all {
		if k.pairing == nil {
			continue
		}
		known, owned := k.waits.Knows(r), k.orchestrator == c.Tgid
		if known && (task == nil || owned) { // two know a pid that was used again
			task = k
		}
		if owned && (own == nil || known) {
			own = k
		}
	}
	var pairing *control.Pairing
	if own != nil {
		pairing = own.pairing
	}
	p.mu.Unlock()
	switch {
	case task == nil && own == nil: // its namespace has ended as well
		p.say("process %d releases task %d, of which nothing is known", c.Tgid, r.PID)
		return nil
	case task == nil: // its event would have been known before its record could be read
		own.waits.Miss()
		return nil
	case own == nil:
		return refuse(unix.EINVAL, "%v by process %d, which orchestrates no namespace", r.Verdict, c.Tgid)
	}
	if err := pairing.Check(r, task.id); err != nil {
		return err
	}
	if err := task.waits.Reply(r); err != nil {
		return fmt.Errorf("%w: %w", unix.EINVAL, err)
	}
	return nil
}

// Close decides Closed about all that waits. Namespaces that enforce are left with their tasks, which are held back, to
// the next Plane; all others end, and their tasks run on, no longer modeled.
func (p *Plane) Close() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.making.Wait()
	if spare := p.takeSpare(); spare != nil {
		if k, err := spare(); err == nil {
			if err := k.namespace.Close(); err != nil {
				p.say("the namespace that was kept ready: %v", err)
			}
		}
	}
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.all))
	p.mu.Unlock()
	for _, k := range all {
		k.stop()
	}
	p.living.Wait()
}
