// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// Status is what there is to say of the kernel half of a host.
type Status struct {
	ID         string            `json:"id"`         // Engine.ID
	Version    string            `json:"version"`    // of the object
	Folder     string            `json:"folder"`     // where it is pinned
	Pinned     bool              `json:"pinned"`     // there, for those who come next; else somebody removed it while it was used
	Stays      bool              `json:"stays"`      // also when nobody uses it
	Tier       Tier              `json:"tier"`       //
	Programs   int               `json:"programs"`   //
	Detached   []string          `json:"detached"`   // programs of hooks whose links somebody removed: they do not run any more
	Missing    []string          `json:"missing"`    // hooks that the kernel does not have
	Memory     uint64            `json:"memory"`     // bytes of its maps, without those of namespaces
	TaskIDs    uint64            `json:"task_ids"`   // that all know; there is room for 131,072
	Keepers    []uint32          `json:"keepers"`    // their process ids, in the initial pid namespace
	Namespaces []NamespaceStatus `json:"namespaces"` // by index
}

// NamespaceStatus is what the kernel half says of a namespace.
type NamespaceStatus struct {
	ID        uint64 `json:"id"`
	Keeper    uint32 `json:"keeper"` // process id; 0: it is gone
	External  bool   `json:"external"`
	Enforcing bool   `json:"enforcing"` // what nobody can judge does not happen
	Orphaned  bool   `json:"orphaned"`  // enforcing, its keeper is gone
	Sealed    bool   `json:"sealed"`    // what is refused does not change any more
	Closed    bool   `json:"closed"`

	Orchestrated bool   `json:"orchestrated"` // made through the control plane
	Orchestrator uint32 `json:"orchestrator"` // process id; 0: it has none, or none any more

	Tasks     uint64 `json:"tasks"`
	Raised    uint64 `json:"raised"`
	Delivered uint64 `json:"delivered"`
	Refused   uint64 `json:"refused"`
}

// ID returns what tells this kernel half from every other one, of other hosts, boots and
// installations too: 16 hexadecimal digits. It is the same from each process that uses it.
func (e *Engine) ID() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.id != "" {
		return e.id, nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // as that of the host in containers
	if err != nil {
		return "", fmt.Errorf("tell this boot from others: %w", err)
	}
	// A map's id is not given again for 2^31 maps (kernel/bpf/syscall.c, bpf_map_alloc_id).
	sum := sha256.Sum256(fmt.Appendf(boot, "%d", mapID(e.Map("namespaces"))))
	e.id = hex.EncodeToString(sum[:8])
	return e.id, nil
}

// mapMemory returns how many bytes the maps take.
func (e *Engine) mapMemory() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.grow == nil {
		fixed, grow := make(map[string]*ebpf.Map), make(map[string]*ebpf.Map)
		for name, m := range e.maps {
			if m.Flags()&unix.BPF_F_NO_PREALLOC != 0 {
				grow[name] = m
			} else {
				fixed[name] = m
			}
		}
		sum, err := memoryOf(fixed)
		if err != nil {
			return 0, err
		}
		e.fixed, e.grow = sum, grow
	}
	grown, err := memoryOf(e.grow)
	return e.fixed + grown, err
}

// memoryOf adds up the bytes of maps, as the kernel says it in /proc/self/fdinfo.
func memoryOf(maps map[string]*ebpf.Map) (sum uint64, err error) {
	for name, m := range maps {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("map %s: %w", name, err)
		}
		bytes, _ := info.Memlock()
		sum += bytes
	}
	return sum, nil
}

// Status returns the status of a kernel half that is pinned. What changes meanwhile may be in
// it or not.
func (e *Engine) Status() (*Status, error) {
	pinned, err := e.pinned()
	if err != nil {
		return nil, err
	}
	s := &Status{
		Version: bpf.Version(), Folder: e.pins.folder(), Stays: e.stays, Tier: e.support.Tier, Programs: len(e.programs) + len(e.constant),
		Pinned: pinned != nil, Missing: append([]string{}, e.Missing()...), TaskIDs: e.TaskIDs(), Keepers: []uint32{}, Namespaces: []NamespaceStatus{},
	}
	for _, name := range e.support.later(allEvents) {
		if slices.Contains(pinned, pinProgram+name) {
			s.Programs++
		}
	}
	if s.ID, err = e.ID(); err != nil {
		return nil, err
	}
	if s.Memory, err = e.mapMemory(); err != nil {
		return nil, err
	}
	s.Detached = e.detached(pinned)
	var tgid uint32
	var keeper bpf.Keeper
	keepers := e.Map("keepers").Iterate()
	for keepers.Next(&tgid, &keeper) {
		s.Keepers = append(s.Keepers, tgid)
	}
	slices.Sort(s.Keepers)
	for _, ns := range e.States() {
		s.Namespaces = append(s.Namespaces, StatusOf(&ns))
	}
	return s, keepers.Err()
}

// States returns the states of the namespaces that there are, by index, but for those that are Unnamed.
// They are copies; each number in one is right, but they are not read at one instant.
func (e *Engine) States() (all []bpf.Namespace) {
	e.namespaces(func(_ uint32, ns *bpf.Namespace) {
		if state := copyOf(ns); state.Id != Unnamed {
			all = append(all, state)
		}
	})
	return all
}

// copyOf copies a state that the kernel half is counting in.
func copyOf(ns *bpf.Namespace) (copied bpf.Namespace) {
	const words = unsafe.Sizeof(copied) / 8 // of which it is made
	from, to := (*[words]uint64)(unsafe.Pointer(ns)), (*[words]uint64)(unsafe.Pointer(&copied))
	for i := range from {
		to[i] = atomic.LoadUint64(&from[i])
	}
	return copied
}

// StatusOf returns what Status says of a namespace in such a state.
func StatusOf(ns *bpf.Namespace) NamespaceStatus {
	s := NamespaceStatus{
		ID: ns.Id, Keeper: ns.Keeper,
		External: ns.Flags&bpf.NamespaceExternal != 0, Enforcing: ns.Flags&bpf.NamespaceEnforcing != 0,
		Orphaned: ns.Flags&bpf.NamespaceOrphaned != 0, Sealed: ns.Flags&bpf.NamespaceSealed != 0, Closed: ns.Flags&bpf.NamespaceClosed != 0,
		Orchestrated: ns.Flags&bpf.NamespaceOrchestrated != 0, Orchestrator: ns.Orchestrator,
		Tasks: ns.Tasks, Raised: ns.Raised, Delivered: ns.Delivered,
	}
	for _, count := range ns.Refused {
		s.Refused += count
	}
	return s
}

// Unclaimed says whether a process keeps the namespace for an orchestrator that has ended: another one may take its place.
func (s *NamespaceStatus) Unclaimed() bool {
	return s.External && s.Orchestrated && s.Orchestrator == 0 && s.Keeper != 0 && !s.Closed
}

// Kind says in words what a namespace is: export or external, and whether it is orphaned, closed, or waits for an orchestrator.
func (s *NamespaceStatus) Kind() string {
	kind := "export"
	if s.External {
		kind = "external"
	}
	if s.Orphaned {
		kind += ", orphaned"
	}
	if s.Unclaimed() {
		kind += ", waits for an orchestrator"
	}
	if s.Closed {
		kind += ", closed"
	}
	return kind
}

// ProgramStatus says what became of the runs of a program.
type ProgramStatus struct {
	Name    string // that of its hook
	Runs    uint64 // while the kernel counts them (sysctl kernel.bpf_stats_enabled)
	Time    time.Duration
	Skipped uint64 // because the same one was already running on that CPU; see Skipped
}

// Runs returns the programs that are loaded and attached when the kernel half is whole, by name, since they
// were loaded. They are fewer where it was removed before the first call.
func (e *Engine) Runs() ([]ProgramStatus, error) {
	programs, err := e.open(e.attachable())
	if err != nil {
		return nil, err
	}
	var all []ProgramStatus
	for name, program := range programs {
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		all = append(all, ProgramStatus{name, stats.RunCount, stats.Runtime, stats.RecursionMisses})
	}
	slices.SortFunc(all, func(a, b ProgramStatus) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
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
	if err := p.checkThere(); err != nil {
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
	if err == nil && used {
		// A tsem-bpf that was killed is none that uses it.
		if err = p.withNamespaces((*Engine).reap); err == nil {
			used, err = p.used()
		}
	}
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
	return p.withNamespaces(func(e *Engine) error {
		e.namespaces(func(_ uint32, ns *bpf.Namespace) { atomic.OrUint32(&ns.Flags, bpf.NamespaceClosed) })
		return nil
	})
}

// withNamespaces calls a function for the pinned kernel half, unless that is of another version,
// whose keepers see to its namespaces. With the lock held.
func (p *pins) withNamespaces(do func(*Engine) error) error {
	e, err := p.open()
	if errors.Is(err, ErrForeign) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.memory, err = mapNamespaces(e.Map("namespaces")); err == nil {
		err = do(e)
	}
	return errors.Join(err, e.release())
}
