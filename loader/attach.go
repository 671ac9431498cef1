// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
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
	others := slices.DeleteFunc(slices.Clone(e.constant), func(name string) bool { return slices.Contains(indispensable, name) })
	for _, names := range [][]string{indispensable, others} {
		programs, err := e.open(names)
		if err != nil {
			return err
		}
		links, err := attach(programs)
		maps.Copy(e.links, links)
		if err != nil {
			return err
		}
	}
	return nil
}

// allEvents is the mask of all events, as in bpf.Namespace.
var allEvents = [2]uint64{math.MaxUint64, math.MaxUint64}

// attachable returns the programs that are attached, or may be.
func (e *Engine) attachable() []string {
	return append(e.support.later(allEvents), e.constant...)
}

// ErrRemoved: somebody has removed the kernel half by force, so that nobody new finds it.
var ErrRemoved = errors.New("somebody has removed the kernel half by force")

// Attach loads and attaches the programs of later versions' events that a namespace is about to want, unless
// somebody has, so that nobody has them who does not ask for them: the other programs are there from the
// beginning. They stay as long as the kernel half. wanted is as in bpf.Namespace. The error is
// ErrRemoved, one of Explain, or one of the kernel.
//
// Each program is pinned before it is attached, and its link after that: whoever comes behind somebody who was
// interrupted sees by the links what is missing.
func (e *Engine) Attach(wanted [2]uint64) error {
	names := e.support.later(wanted)
	if len(names) == 0 {
		return nil
	}
	lock, err := e.pins.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	pinned, err := e.pinned()
	if err == nil && pinned == nil {
		err = ErrRemoved
	}
	if err != nil {
		return err
	}
	if names = e.unlinked(names, pinned); len(names) == 0 {
		return nil
	}
	if err := e.extend(names); err != nil {
		return fmt.Errorf("load programs of events of later versions: %w", err)
	}
	return nil
}

// extend loads, attaches and pins programs. With the lock held.
func (e *Engine) extend(names []string) error {
	programs, err := e.loadMore(names)
	if err != nil {
		return err
	}
	// What is pinned stays.
	defer func() {
		for _, program := range programs {
			_ = program.Close()
		}
	}()
	if err := e.repin(programs); err != nil {
		return err
	}
	links, err := attach(programs)
	if err == nil {
		err = pinLinks(links, e.pins.folder())
	}
	for _, l := range links {
		_ = l.Close()
	}
	return err
}

// repin pins programs, in place of those of somebody who was interrupted, whose links may be about to go.
func (e *Engine) repin(programs map[string]*ebpf.Program) error {
	e.opening.Lock()
	defer e.opening.Unlock()
	for name := range programs {
		delete(e.opened, name)
		if err := os.Remove(filepath.Join(e.pins.folder(), pinProgram+name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return pinPrograms(programs, e.pins.folder())
}

// loadMore loads programs for the maps that are there.
func (e *Engine) loadMore(names []string) (map[string]*ebpf.Program, error) {
	spec, err := bpf.Load()
	if err != nil {
		return nil, err
	}
	cache := btf.NewCache()
	if _, err := adapt(spec, e.support, cache); err != nil {
		return nil, err
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(names, name) })
	all := maps.Clone(e.maps)
	for name := range spec.Maps {
		if all[name] != nil {
			continue
		}
		// Variables, which are for programs only.
		if all[name], err = ebpf.LoadPinnedMap(filepath.Join(e.pins.folder(), pinnedMap(name)), nil); err != nil {
			return nil, err
		}
		defer all[name].Close()
	}
	return loadPrograms(spec, all, cache)
}

// attach attaches programs at the same time: the kernel waits long for each. It returns the links that
// were made also with an error.
func attach(programs map[string]*ebpf.Program) (map[string]link.Link, error) {
	var mu sync.Mutex
	var group errgroup.Group
	links := make(map[string]link.Link)
	for name, program := range programs {
		group.Go(func() error {
			l, err := attachOne(program)
			if err != nil {
				return explainAttach(name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			links[name] = l
			return nil
		})
	}
	return links, group.Wait()
}

func attachOne(program *ebpf.Program) (link.Link, error) {
	if program.Type() == ebpf.Tracing {
		return link.AttachTracing(link.TracingOptions{Program: program})
	}
	return link.AttachLSM(link.LSMOptions{Program: program})
}

// open returns some of the programs that attach, and opens those that are not open yet: most processes need none of
// them. It leaves those out that were not open when the kernel half was removed.
func (e *Engine) open(names []string) (map[string]*ebpf.Program, error) {
	e.opening.Lock()
	defer e.opening.Unlock()
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

// pinned returns the names of what is pinned; nil if the kernel half was removed.
func (e *Engine) pinned() ([]string, error) {
	if !e.isPinned() {
		return nil, nil
	}
	names, err := e.pins.names(e.pins.folder())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return names, err
}

// detached returns the programs that were attached and have no link any more, as far as this
// process can know: another one may hold links that are not pinned.
func (e *Engine) detached(pinned []string) []string {
	detached := e.unlinked(append(e.support.later(e.wanted()), e.constant...), pinned)
	slices.Sort(detached)
	return append([]string{}, detached...)
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
func (e *Engine) unlinked(programs, pinned []string) (without []string) {
	for _, name := range programs {
		if e.links[name] == nil && !slices.Contains(pinned, pinLink+name) {
			without = append(without, name)
		}
	}
	return without
}
