// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// Open returns the kernel half of this host: the one that is pinned, or, if there is none,
// one that it loads, attaches and pins, for all who come later. The calling process becomes a
// keeper: it is never modeled. Namespaces whose keepers are gone are ended.
//
// The error is a *SupportError if this kernel cannot be used as it is, if the privileges or
// limits of the caller have to change, or, with ErrPins, if the kernel half cannot be pinned or
// what is pinned cannot be used. It is ErrForeign if one of another version is in use.
func Open() (*Engine, error) {
	e, err := open(&pins{bpffs, bpf.Version()})
	return e, Explain(err)
}

func open(p *pins) (*Engine, error) {
	if err := errors.Join(checkFiles(), p.check()); err != nil {
		return nil, err
	}
	users, err := p.enter()
	if err != nil {
		return nil, err
	}
	lock, err := p.lock()
	if err != nil {
		return nil, errors.Join(err, users.Close())
	}
	defer lock.Close()
	e, err := p.get()
	if err != nil {
		p.leave(users)
		return nil, err
	}
	e.users = users
	return e, nil
}

// get opens or installs the pinned kernel half.
func (p *pins) get() (*Engine, error) {
	e, err := p.open()
	stays := false
	if errors.Is(err, ErrForeign) {
		stays, err = p.replace(err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return install(p, stays)
	}
	if err != nil {
		return nil, err
	}
	if missing := e.unrunnable(); missing != "" {
		return nil, errors.Join(p.broken("has no program "+missing), e.release())
	}
	if err := errors.Join(e.join(), e.reap()); err != nil {
		return nil, errors.Join(err, e.release())
	}
	return e, nil
}

// Peek returns the kernel half of this host as it is, to look at; the caller is no keeper of
// it. The error is fs.ErrNotExist if there is none, else that of Open.
func Peek() (*Engine, error) {
	p := &pins{bpffs, bpf.Version()}
	e, err := p.open()
	if err == nil {
		if e.memory, err = mapNamespaces(e.Map("namespaces")); err != nil {
			err = errors.Join(err, e.release())
		}
	}
	return e, Explain(err)
}

// replace removes a kernel half of another version, unless somebody uses it, and says whether it was there to stay. The error is
// fs.ErrNotExist when it is gone.
func (p *pins) replace(foreign error) (stays bool, err error) {
	used, err := p.used()
	if err != nil {
		return false, err
	}
	if used {
		return false, fmt.Errorf("%w; it is in use: end the tsem-bpf that uses it first, or tsem-bpf engine remove --force", foreign)
	}
	a, err := p.about()
	if a == nil {
		return false, err
	}
	if err := p.remove(); err != nil {
		return false, err
	}
	return a.Stays, fs.ErrNotExist
}

// install makes the pinned kernel half.
func install(p *pins, stays bool) (*Engine, error) {
	e, err := load()
	if err != nil {
		return nil, err
	}
	e.stays, e.pins = stays, p
	if err := p.pin(e); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// leave lets go of a pinned kernel half, and removes it if nobody needs it any more.
func (e *Engine) leave() error {
	lock, err := e.pins.lock()
	if err != nil {
		return errors.Join(err, e.users.Close(), e.release())
	}
	defer lock.Close()
	keepers := e.Map("keepers")
	var self bpf.Keeper
	switch err = keepers.Lookup(e.keeper, &self); {
	case err != nil:
	case self.Times > 1:
		self.Times--
		err = keepers.Put(e.keeper, self)
	default:
		err = keepers.Delete(e.keeper)
	}
	for _, l := range e.links {
		err = errors.Join(err, l.Close()) // the pin holds it
	}
	return errors.Join(err, e.removeIfLast())
}

// removeIfLast lets go of the kernel half, and removes it if nobody needs it any more: no
// process, and no namespace that holds tasks back. With the lock held.
func (e *Engine) removeIfLast() error {
	needed := !e.isPinned()
	e.namespaces(func(_ uint32, ns *bpf.Namespace) { needed = needed || holds(ns) })
	err := e.release()
	if last := e.pins.leave(e.users); err != nil || needed || !last {
		return err
	}
	// Somebody may have said meanwhile that it stays.
	a, err := e.pins.about()
	if err != nil || a.Stays {
		return err
	}
	return e.pins.remove()
}

// isPinned says whether this is the kernel half that is pinned: it may have been removed, and
// another one installed.
func (e *Engine) isPinned() bool {
	pinned, err := e.pins.pinned("keepers")
	if err != nil {
		return false
	}
	defer pinned.Close()
	return mapID(pinned) == mapID(e.Map("keepers"))
}

func mapID(m *ebpf.Map) ebpf.MapID {
	info, err := m.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// used says whether a pinned kernel half of any version has a keeper, or a namespace: what is in
// that of another version is not known.
func (p *pins) used() (bool, error) {
	keepers, err := p.pinned("keepers")
	if err != nil {
		return false, p.broken("has no map of keepers (" + err.Error() + ")")
	}
	defer keepers.Close()
	magazines, err := p.pinned("magazines")
	if err != nil {
		return false, p.broken("has no map of magazines (" + err.Error() + ")")
	}
	defer magazines.Close()
	for index := range magazines.MaxEntries() {
		var id ebpf.MapID
		if magazines.Lookup(index, &id) == nil {
			return true, nil
		}
	}
	return inUse(keepers)
}

func inUse(keepers *ebpf.Map) (bool, error) {
	key := make([]byte, keepers.KeySize())
	err := keepers.NextKey(nil, &key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, err
}

// namespaces calls a function for each namespace there is, by index, also for those that are Unnamed.
func (e *Engine) namespaces(each func(index uint32, ns *bpf.Namespace)) {
	if e.memory == nil {
		return
	}
	for index := uint32(1); index < e.NamespacesMax(); index++ {
		if ns := e.Namespace(index); atomic.LoadUint64(&ns.Id) != 0 {
			each(index, ns)
		}
	}
}

// isKept says whether the keeper of a namespace lives. That of one that was killed is 0, so
// that a later process with the same id is not taken for it.
func (e *Engine) isKept(ns *bpf.Namespace) bool {
	var keeper bpf.Keeper
	return e.Map("keepers").Lookup(atomic.LoadUint32(&ns.Keeper), &keeper) == nil
}

// holds says whether a namespace holds tasks back though its keeper is gone.
func holds(ns *bpf.Namespace) bool {
	flags := atomic.LoadUint32(&ns.Flags)
	return flags&bpf.NamespaceOrphaned != 0 && flags&bpf.NamespaceClosed == 0 && atomic.LoadUint64(&ns.Tasks) > 0
}

// reap ends the namespaces whose keepers are gone, but for those that still hold tasks back.
// With the lock held, so that nobody comes or goes meanwhile.
func (e *Engine) reap() error {
	var errs []error
	e.namespaces(func(index uint32, ns *bpf.Namespace) {
		if !e.isKept(ns) && !holds(ns) {
			errs = append(errs, e.end(index))
		}
	})
	return errors.Join(errs...)
}

// end ends a namespace without keeper.
func (e *Engine) end(index uint32) error {
	atomic.OrUint32(&e.Namespace(index).Flags, bpf.NamespaceClosed)
	return e.Vacate(index)
}

// What can be wrong with the end of a namespace, for errors.Is.
var (
	// ErrNoNamespace: there is none with that id.
	ErrNoNamespace = errors.New("no such namespace")
	// ErrKept: a process keeps it, which has to end it.
	ErrKept = errors.New("the namespace has a keeper")
)

// endWait is how long it may take until all threads of a keeper that was killed have ended.
const endWait = 2 * time.Second

// afterKeeper calls what needs a namespace without keeper until it has none, or endWait is over:
// the keeper may have been killed just now.
func afterKeeper(do func() error) (err error) {
	for until := time.Now().Add(endWait); ; time.Sleep(10 * time.Millisecond) {
		if err = do(); !errors.Is(err, ErrKept) || time.Now().After(until) {
			return err
		}
	}
}

// EndNamespace ends a namespace that holds tasks back though its keeper is gone, or its orchestrator: they run on,
// no longer modeled. The error is fs.ErrNotExist if there is no kernel half, ErrNoNamespace, or
// ErrKept with the process id of the keeper.
func EndNamespace(id uint64) error {
	p := &pins{bpffs, bpf.Version()}
	return Explain(afterKeeper(func() error { return endNamespace(p, id) }))
}

func endNamespace(p *pins, id uint64) error {
	if err := p.checkThere(); err != nil {
		return err
	}
	users, err := p.enter()
	if err != nil {
		return err
	}
	lock, err := p.lock()
	if err != nil {
		return errors.Join(err, users.Close())
	}
	defer lock.Close()
	e, err := p.open()
	if err != nil {
		p.leave(users)
		return err
	}
	e.users = users
	if e.memory, err = mapNamespaces(e.Map("namespaces")); err == nil {
		err = e.endUnkept(id)
	}
	return errors.Join(err, e.removeIfLast())
}

// endUnkept ends the namespace with an id, unless somebody keeps it who can judge there. With the lock held.
func (e *Engine) endUnkept(id uint64) error {
	index, ns, err := e.find(id)
	if err != nil {
		return err
	}
	if !e.isKept(ns) {
		return e.end(index)
	}
	state := copyOf(ns)
	if status := StatusOf(&state); !status.Unclaimed() {
		return fmt.Errorf("%w: process %d", ErrKept, status.Keeper)
	}
	atomic.OrUint32(&ns.Flags, bpf.NamespaceClosed) // its keeper sees that, and gives it back
	return nil
}

// find returns the namespace with an id. The error is ErrNoNamespace.
func (e *Engine) find(id uint64) (index uint32, ns *bpf.Namespace, err error) {
	err = fmt.Errorf("%w: %d", ErrNoNamespace, id)
	e.namespaces(func(i uint32, found *bpf.Namespace) {
		if found.Id == id && id != Unnamed {
			index, ns, err = i, found, nil
		}
	})
	return index, ns, err
}

// ChangeNamespace lets a function change the state of a namespace of this host, whoever keeps it; it
// has to use atomic operations. The error is fs.ErrNotExist if there is no kernel half,
// ErrNoNamespace, or that of the function.
func ChangeNamespace(id uint64, change func(*bpf.Namespace) error) error {
	e, err := Peek()
	if err != nil {
		return err
	}
	// No other namespace can take its place meanwhile.
	lock, err := e.pins.lock()
	if err != nil {
		return errors.Join(err, e.Close())
	}
	defer lock.Close()
	_, ns, err := e.find(id)
	if err == nil {
		err = change(ns)
	}
	return errors.Join(err, e.Close())
}

// TakeOver makes this process the keeper of a namespace that holds tasks back though its keeper
// is gone. It goes on to hold them back until NamespaceOrphaned is taken out of its flags. Of
// several processes that try, one does. The error is ErrNoNamespace, or ErrKept with the
// process id of the keeper.
func (e *Engine) TakeOver(id uint64) (index uint32, err error) {
	err = afterKeeper(func() (err error) {
		index, err = e.takeOver(id)
		return err
	})
	return index, err
}

func (e *Engine) takeOver(id uint64) (index uint32, err error) {
	// Nobody may end it meanwhile for want of a keeper.
	lock, err := e.pins.lock()
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	index, ns, err := e.find(id)
	if err != nil {
		return 0, err
	}
	if !atomic.CompareAndSwapUint32(&ns.Keeper, 0, e.keeper) {
		return 0, fmt.Errorf("namespace %d: %w: process %d", id, ErrKept, atomic.LoadUint32(&ns.Keeper))
	}
	if !holds(ns) {
		atomic.StoreUint32(&ns.Keeper, 0)
		return 0, fmt.Errorf("%w: %d", ErrNoNamespace, id)
	}
	return index, nil
}

// Abandon undoes TakeOver: what would have to be judged does not happen in the namespace.
func (e *Engine) Abandon(index uint32) {
	atomic.OrUint32(&e.Namespace(index).Flags, bpf.NamespaceOrphaned)
	atomic.StoreUint32(&e.Namespace(index).Keeper, 0)
}

// Magazine opens the magazine of the namespace at an index. The caller closes it.
func (e *Engine) Magazine(index uint32) (*ebpf.Map, error) {
	var id ebpf.MapID
	if err := e.Map("magazines").Lookup(index, &id); err != nil {
		return nil, fmt.Errorf("map magazines: %w", err)
	}
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open a magazine: %w", err)
	}
	return m, nil
}

// ErrFull: the kernel half has no room for another namespace.
var ErrFull = errors.New("no free namespace")

// Unnamed is the id of a namespace that nobody is in yet: it is being made, or was made before somebody
// asks for one. No status shows it. Whoever has occupied it gives it another id (NewID).
const Unnamed = math.MaxUint64

// Occupy makes an index that of a namespace of this process, which is Unnamed. It begins to look behind that which the
// last id stands for, so an index is reused as late as possible: a program that was held up since
// the last namespace of an index ended should not find the next one there. The error is ErrFull if
// there is none.
func (e *Engine) Occupy() (index uint32, err error) {
	// Nobody may look for namespaces without keeper between the two writes.
	lock, err := e.pins.lock()
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	most := e.NamespacesMax() - 1
	last := atomic.LoadUint64(&e.Namespace(0).Id)
	for i := range uint64(most) {
		index := uint32((last+1+i)%uint64(most)) + 1
		state := e.Namespace(index)
		if atomic.CompareAndSwapUint64(&state.Id, 0, Unnamed) {
			state.Keeper, state.Flags = e.keeper, 0 // of who was there before
			return index, nil
		}
	}
	return 0, fmt.Errorf("%w: %d are in use", ErrFull, most)
}

// Furnish gives the namespace at an index its own maps, by the names of the arrays of maps that they are put into. The
// kernel waits for a grace period with each, here and in Vacate, so all are done at the same time.
func (e *Engine) Furnish(index uint32, inner map[string]*ebpf.Map) error {
	var group errgroup.Group
	for name, m := range inner {
		group.Go(func() error {
			if err := e.Map(name).Put(index, m); err != nil {
				return fmt.Errorf("map %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// Vacate gives the index of a namespace back that has ended, with what the kernel half has
// of it.
func (e *Engine) Vacate(index uint32) error {
	var group errgroup.Group
	for _, name := range []string{"magazines", "creations"} {
		group.Go(func() error {
			if err := e.Map(name).Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("map %s: %w", name, err)
			}
			return nil
		})
	}
	errs := []error{group.Wait()}
	if gates := e.Map("gates"); gates != nil && e.Namespace(index).Flags&bpf.NamespaceExternal != 0 {
		// The kernel half lets go of the gate process.
		errs = append(errs, gates.Put(index, make([]byte, gates.ValueSize())))
	}
	atomic.StoreUint64(&e.Namespace(index).Id, 0)
	return errors.Join(errs...)
}
