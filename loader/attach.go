// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// start does what needs the loaded object; attaching comes last, so that no program
// runs on half a set-up.
func (e *Engine) start() error {
	if _, err := e.programs[locksProgram].Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("find the locks of the path walk: %w", err)
	}
	if err := e.join(); err != nil {
		return err
	}
	// The tasks' own hooks first: no event before its task is known.
	if err := e.attach(indispensable); err != nil {
		return err
	}
	return e.attach(slices.DeleteFunc(e.permanent(), func(name string) bool { return slices.Contains(indispensable, name) }))
}

// permanent returns the programs that are attached as long as the kernel half is there: all but those that a
// process runs, and those on demand.
func (e *Engine) permanent() (names []string) {
	later := e.onDemand(allEvents)
	for name, program := range e.programs {
		if attaches(name, program) && !slices.Contains(later, name) {
			names = append(names, name)
		}
	}
	return names
}

// allEvents is the mask of all events, as in bpf.Namespace.
var allEvents = [2]uint64{math.MaxUint64, math.MaxUint64}

// onDemand returns the programs that are attached only where a namespace wants their events, if one has
// such a mask. This kernel may not have all of them.
func (e *Engine) onDemand(wanted [2]uint64) (names []string) {
	for _, h := range e.support.Hooks {
		if h.onDemand() && e.programs[h.Name] != nil && wanted[h.Ordinal/64]>>(h.Ordinal%64)&1 != 0 {
			names = append(names, h.Name)
		}
	}
	return names
}

// Attach attaches the programs of later versions' events that a namespace is about to want, unless they
// are, so that nobody has them who does not ask for them: the other programs are attached from the
// beginning. They stay as long as the kernel half. wanted is as in bpf.Namespace.
func (e *Engine) Attach(wanted [2]uint64) error {
	names := e.onDemand(wanted)
	if len(names) == 0 {
		return nil
	}
	lock, err := e.pins.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	pinned := e.isPinned()
	if names, err = e.unlinked(names, pinned); err != nil {
		return err
	}
	if err := e.attach(names); err != nil || !pinned {
		return err
	}
	if err := pinLinks(e.links, names, e.pins.folder()); err != nil {
		return fmt.Errorf("pin what was attached: %w", err)
	}
	return nil
}

// attach attaches programs at the same time: the kernel waits long for each.
func (e *Engine) attach(names []string) error {
	var group errgroup.Group
	for _, name := range names {
		group.Go(func() error {
			l, err := attach(e.programs[name])
			if err != nil {
				return explainAttach(name, err)
			}
			e.linking.Lock()
			defer e.linking.Unlock()
			e.links[name] = l
			return nil
		})
	}
	return group.Wait()
}

// attaches says whether a program is attached to something, and not one that a process runs.
func attaches(name string, program *ebpf.Program) bool {
	return program.Type() != ebpf.Syscall && name != callerProgram
}

func attach(program *ebpf.Program) (link.Link, error) {
	if program.Type() == ebpf.Tracing {
		return link.AttachTracing(link.TracingOptions{Program: program})
	}
	return link.AttachLSM(link.LSMOptions{Program: program})
}

// detached returns the programs that were attached and have no link any more, as far as this
// process can know: another one may hold links that are not pinned.
func (e *Engine) detached(pinned bool) ([]string, error) {
	detached, err := e.unlinked(append(e.permanent(), e.onDemand(e.wanted())...), pinned)
	slices.Sort(detached)
	return append([]string{}, detached...), err
}

// wanted returns which events any namespace wants.
func (e *Engine) wanted() (all [2]uint64) {
	e.namespaces(func(_ uint32, ns *bpf.Namespace) {
		for i := range all {
			all[i] |= atomic.LoadUint64(&ns.Events[i])
		}
	})
	return all
}

// unlinked returns those of some programs that have no link, as far as this process can know.
func (e *Engine) unlinked(programs []string, pinned bool) (without []string, err error) {
	var names []string
	if pinned {
		if names, err = e.pins.names(e.pins.folder()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	e.linking.Lock()
	defer e.linking.Unlock()
	for _, name := range programs {
		if e.links[name] == nil && !slices.Contains(names, pinLink+name) {
			without = append(without, name)
		}
	}
	return without, nil
}
