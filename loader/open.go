// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"github.com/cilium/ebpf"

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
	if err := checkFiles(); err != nil {
		return nil, err
	}
	lock, err := p.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	e, err := p.open()
	if errors.Is(err, ErrForeign) {
		err = p.replace(err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return install(p)
	}
	if err != nil {
		return nil, err
	}
	if err := e.join(); err != nil {
		return nil, errors.Join(err, e.release())
	}
	return e, e.reap()
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

// replace removes a kernel half of another version, unless somebody uses it. The error is
// fs.ErrNotExist when it is gone.
func (p *pins) replace(foreign error) error {
	used, err := p.used()
	if err != nil {
		return err
	}
	if used {
		return fmt.Errorf("%w; it is in use: end the tsem-bpf that uses it first", foreign)
	}
	if err := p.remove(); err != nil {
		return err
	}
	return fs.ErrNotExist
}

// install makes the pinned kernel half.
func install(p *pins) (*Engine, error) {
	e, err := load()
	if err != nil {
		return nil, err
	}
	e.pins = p
	if err := p.pin(e); err != nil {
		e.pins = nil
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// leave lets go of a pinned kernel half, and removes it if nobody else keeps anything.
func (e *Engine) leave() error {
	lock, err := e.pins.lock()
	if err != nil {
		return errors.Join(err, e.release())
	}
	defer lock.Close()
	keepers := e.Map("keepers")
	var times uint32
	err = keepers.Lookup(e.keeper, &times)
	switch {
	case err != nil:
	case times > 1:
		err = keepers.Put(e.keeper, times-1)
	default:
		err = keepers.Delete(e.keeper)
	}
	used, usedErr := inUse(keepers)
	last := !used && e.isPinned()
	for _, l := range e.links {
		err = errors.Join(err, l.Close()) // the pin holds it
	}
	err = errors.Join(err, usedErr, e.release())
	if err != nil || !last {
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
	pinned, err := ebpf.LoadPinnedMap(e.pins.keepers(), nil)
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

// used says whether a pinned kernel half of any version has a keeper.
func (p *pins) used() (bool, error) {
	keepers, err := ebpf.LoadPinnedMap(p.keepers(), nil)
	if err != nil {
		return false, p.broken("has no map of keepers (" + err.Error() + ")")
	}
	defer keepers.Close()
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

// reap ends the namespaces whose keepers are gone. With the lock held, so that nobody comes
// or goes meanwhile.
func (e *Engine) reap() error {
	var errs []error
	for index := uint32(1); index < e.NamespacesMax(); index++ {
		state := e.Namespace(index)
		var times uint32
		if atomic.LoadUint64(&state.Id) == 0 || e.Map("keepers").Lookup(state.Keeper, &times) == nil {
			continue
		}
		atomic.OrUint32(&state.Flags, bpf.NamespaceClosed)
		errs = append(errs, e.Vacate(index))
	}
	return errors.Join(errs...)
}

// ErrFull: the kernel half has no room for another namespace.
var ErrFull = errors.New("no free namespace")

// Occupy makes an index that of a namespace of this process. Ids rise, so an index is reused as
// late as possible: a program that was held up since the last namespace of an index ended
// should not find the next one there. The error is ErrFull if there is none.
func (e *Engine) Occupy(id uint64) (index uint32, err error) {
	if e.pins != nil {
		// Nobody may look for namespaces without keeper between the two writes.
		lock, err := e.pins.lock()
		if err != nil {
			return 0, err
		}
		defer lock.Close()
	}
	most := e.NamespacesMax() - 1
	for i := range uint64(most) {
		index := uint32((id+i)%uint64(most)) + 1
		state := e.Namespace(index)
		if atomic.CompareAndSwapUint64(&state.Id, 0, id) {
			state.Keeper = e.keeper
			return index, nil
		}
	}
	return 0, fmt.Errorf("%w: %d are in use", ErrFull, most)
}

// Vacate gives the index of a namespace back that has ended, with what the kernel half has
// of it.
func (e *Engine) Vacate(index uint32) error {
	var errs []error
	for _, name := range []string{"magazines", "creations"} {
		if err := e.Map(name).Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("map %s: %w", name, err))
		}
	}
	if gates := e.Map("gates"); gates != nil && e.Namespace(index).Flags&bpf.NamespaceExternal != 0 {
		// The kernel half lets go of the gate process.
		errs = append(errs, gates.Put(index, make([]byte, gates.ValueSize())))
	}
	atomic.StoreUint64(&e.Namespace(index).Id, 0)
	return errors.Join(errs...)
}
