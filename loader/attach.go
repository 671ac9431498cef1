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
func (e *Engine) permanent() []string {
	later := e.onDemand(allEvents)
	return slices.DeleteFunc(slices.Clone(e.attached), func(name string) bool { return slices.Contains(later, name) })
}

// allEvents is the mask of all events, as in bpf.Namespace.
var allEvents = [2]uint64{math.MaxUint64, math.MaxUint64}

// onDemand returns the programs that are attached only where a namespace wants their events, if one has
// such a mask.
func (e *Engine) onDemand(wanted [2]uint64) (names []string) {
	for _, h := range e.support.Hooks {
		if h.onDemand() && h.Present && wanted[h.Ordinal/64]>>(h.Ordinal%64)&1 != 0 {
			names = append(names, h.Name)
		}
	}
	return names
}

// ErrRemoved: somebody has removed the kernel half by force, so that nobody new finds it.
var ErrRemoved = errors.New("somebody has removed the kernel half by force")

// Attach attaches the programs of later versions' events that a namespace is about to want, unless they
// are, so that nobody has them who does not ask for them: the other programs are attached from the
// beginning. They stay as long as the kernel half. wanted is as in bpf.Namespace. The error is
// ErrRemoved, one of Explain, or one of the kernel.
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
	if !e.isPinned() {
		return ErrRemoved
	}
	if names, err = e.unlinked(names, true); err != nil {
		return err
	}
	if err := e.attach(names); err != nil {
		return err
	}
	if err := pinLinks(e.links, names, e.pins.folder()); err != nil {
		return fmt.Errorf("pin what was attached: %w", err)
	}
	return nil
}

// attach attaches programs at the same time: the kernel waits long for each.
func (e *Engine) attach(names []string) error {
	programs, err := e.open(names)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for name, program := range programs {
		group.Go(func() error {
			l, err := attach(program)
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

// open returns some of the programs that attach, and opens those that are not open yet: most processes need none of
// them. It leaves those out that were not open when the kernel half was removed.
func (e *Engine) open(names []string) (map[string]*ebpf.Program, error) {
	e.linking.Lock()
	defer e.linking.Unlock()
	found := make(map[string]*ebpf.Program)
	for _, name := range names {
		if e.opened[name] == nil {
			// In that folder, not in one that has its name now.
			program, err := ebpf.LoadPinnedProgram(fmt.Sprintf("/proc/self/fd/%d/%s%s", e.folder.Fd(), pinProgram, name), nil)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("open program %s: %w", name, err)
			}
			e.opened[name] = program
		}
		found[name] = e.opened[name]
	}
	return found, nil
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
