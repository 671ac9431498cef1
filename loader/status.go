// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// Status is what there is to say of the kernel half of a host.
type Status struct {
	Version    string            `json:"version"`    // of the object
	Folder     string            `json:"folder"`     // where it is pinned
	Stays      bool              `json:"stays"`      // also when nobody uses it
	Tier       Tier              `json:"tier"`       //
	Programs   int               `json:"programs"`   //
	Missing    []string          `json:"missing"`    // hooks that the kernel does not have
	Memory     uint64            `json:"memory"`     // bytes of its maps, without those of namespaces
	Keepers    []uint32          `json:"keepers"`    // their process ids, in the initial pid namespace
	Namespaces []NamespaceStatus `json:"namespaces"` // by index
}

// NamespaceStatus is what the kernel half says of a namespace.
type NamespaceStatus struct {
	ID        uint64 `json:"id"`
	Keeper    uint32 `json:"keeper"` // process id; 0: it is gone
	External  bool   `json:"external"`
	Orphaned  bool   `json:"orphaned"` // enforcing, its keeper is gone
	Closed    bool   `json:"closed"`
	Tasks     uint64 `json:"tasks"`
	Raised    uint64 `json:"raised"`
	Delivered uint64 `json:"delivered"`
	Refused   uint64 `json:"refused"`
}

// Status returns the status of a kernel half that is pinned. What changes meanwhile may be in
// it or not.
func (e *Engine) Status() (*Status, error) {
	s := &Status{
		Version: bpf.Version(), Folder: e.pins.folder(), Stays: e.stays, Tier: e.support.Tier, Programs: len(e.programs),
		Missing: append([]string{}, e.Missing()...), Keepers: []uint32{}, Namespaces: []NamespaceStatus{},
	}
	for name, m := range e.maps {
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		bytes, _ := info.Memlock()
		s.Memory += bytes
	}
	var keeper, times uint32
	keepers := e.Map("keepers").Iterate()
	for keepers.Next(&keeper, &times) {
		s.Keepers = append(s.Keepers, keeper)
	}
	slices.Sort(s.Keepers)
	e.namespaces(func(_ uint32, ns *bpf.Namespace) { s.Namespaces = append(s.Namespaces, namespaceStatus(ns)) })
	return s, keepers.Err()
}

func namespaceStatus(ns *bpf.Namespace) NamespaceStatus {
	flags := atomic.LoadUint32(&ns.Flags)
	s := NamespaceStatus{
		ID: ns.Id, Keeper: ns.Keeper, External: flags&bpf.NamespaceExternal != 0, Closed: flags&bpf.NamespaceClosed != 0,
		Orphaned: flags&bpf.NamespaceOrphaned != 0,
		Tasks:    atomic.LoadUint64(&ns.Tasks), Raised: atomic.LoadUint64(&ns.Raised), Delivered: atomic.LoadUint64(&ns.Delivered),
	}
	for i := range ns.Refused {
		s.Refused += atomic.LoadUint64(&ns.Refused[i])
	}
	return s
}

// Stay says whether the kernel half stays when nobody uses it. To be called between Open and
// Close.
func (e *Engine) Stay(stays bool) error {
	lock, err := e.pins.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := e.pins.about()
	if err != nil {
		return err
	}
	a.Stays = stays
	if err := e.pins.say(a); err != nil {
		return err
	}
	e.stays = stays
	return nil
}

// ErrInUse: somebody uses the kernel half.
var ErrInUse = errors.New("the kernel half is in use")

// Remove removes the kernel half of this host, of whatever version. With force it closes the
// namespaces that there are, if it is of this version: their tasks are no longer modeled. The
// error is fs.ErrNotExist if there is none, ErrInUse without force.
func Remove(force bool) error {
	p := &pins{bpffs, bpf.Version()}
	return Explain(remove(p, force))
}

func remove(p *pins, force bool) error {
	if err := p.check(); err != nil {
		return err
	}
	lock, err := p.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := p.names(p.folder()); errors.Is(err, fs.ErrNotExist) {
		return err
	}
	used, err := p.used()
	switch {
	case err != nil && !force:
		return err
	case used && !force:
		return ErrInUse
	case used:
		if err := p.closeAll(); err != nil {
			return err
		}
	}
	return p.remove()
}

// closeAll closes all namespaces, so that nobody waits for a verdict in a program that is
// about to go.
func (p *pins) closeAll() error {
	e, err := p.open()
	if errors.Is(err, ErrForeign) {
		return nil // whose keepers see to that
	}
	if err != nil {
		return err
	}
	if e.memory, err = mapNamespaces(e.Map("namespaces")); err == nil {
		e.namespaces(func(_ uint32, ns *bpf.Namespace) { atomic.OrUint32(&ns.Flags, bpf.NamespaceClosed) })
	}
	return errors.Join(err, e.release())
}
