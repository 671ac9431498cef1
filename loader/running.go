// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// ErrForeign: a kernel half that runs on this host is of another version.
var ErrForeign = errors.New("kernel half of another version")

// Running is a kernel half that another process has loaded. Close it.
type Running struct {
	// Slots is the map of verdicts, for verdict.MapSlots.
	Slots  *ebpf.Map
	memory []byte // of the map namespaces
}

// FindRunning returns the kernel halves that run on this host. It needs CAP_SYS_ADMIN; the
// error is a *SupportError without it, or ErrForeign, with the map that is not as expected.
func FindRunning() ([]*Running, error) {
	var all []*Running
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return all, nil
		case errors.Is(err, unix.EPERM): // kernel/bpf/syscall.c, bpf_obj_get_next_id
			err = &SupportError{ErrPrivilege, "cannot look for running programs without CAP_SYS_ADMIN", "run as root"}
		case err == nil:
			id = next
			var r *Running
			if r, err = runningOf(id); r != nil {
				all = append(all, r)
			}
			if err == nil || errors.Is(err, os.ErrNotExist) { // gone meanwhile
				continue
			}
		}
		for _, r := range all {
			_ = r.Close()
		}
		return nil, fmt.Errorf("look for a running kernel half: %w", err)
	}
}

// runningOf returns the kernel half that a program belongs to, nil if that is not the one
// program of each by which they are known: it uses both maps.
func runningOf(id ebpf.ProgramID) (*Running, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name != enterProgram {
		return nil, err
	}
	ids, _ := info.MapIDs()
	r := new(Running)
	for _, id := range ids {
		if err := r.take(id); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if r.Slots == nil || r.memory == nil {
		return nil, r.Close() // somebody else's program of that name
	}
	return r, nil
}

// take takes what is needed of one map.
func (r *Running) take(id ebpf.MapID) error {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err
	}
	info, err := m.Info()
	if err == nil && info.Name == "slots" {
		r.Slots = m
		return wantSize(info, id, unsafe.Sizeof(bpf.Slot{}))
	}
	defer m.Close()
	if err != nil || info.Name != "namespaces" {
		return err
	}
	if err = wantSize(info, id, unsafe.Sizeof(bpf.Namespace{})); err == nil {
		r.memory, err = mapNamespaces(m)
	}
	return err
}

func wantSize(info *ebpf.MapInfo, id ebpf.MapID, size uintptr) error {
	if uintptr(info.ValueSize) == size {
		return nil
	}
	return fmt.Errorf("%w: map %d, %s, has values of %d bytes, not of %d; use the tsem-bpf that runs there",
		ErrForeign, id, info.Name, info.ValueSize, size)
}

// Namespace is Engine.Namespace.
func (r *Running) Namespace(index uint32) *bpf.Namespace { return namespaceIn(r.memory, index) }

// Close lets go of the maps. What was returned by Namespace is gone then.
func (r *Running) Close() error {
	var errs []error
	if r.Slots != nil {
		errs = append(errs, r.Slots.Close())
	}
	if r.memory != nil {
		errs = append(errs, unix.Munmap(r.memory))
	}
	return errors.Join(errs...)
}
