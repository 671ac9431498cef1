// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"runtime"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sync/errgroup"
)

// create makes the maps of an object and loads its programs.
func create(spec *ebpf.CollectionSpec, cache *btf.Cache) (*ebpf.Collection, error) {
	mapsOnly := *spec
	mapsOnly.Programs = nil
	collection, err := ebpf.NewCollectionWithOptions(&mapsOnly, ebpf.CollectionOptions{Cache: cache})
	if err != nil {
		return nil, err
	}
	if collection.Programs, err = loadPrograms(spec, collection.Maps, cache); err != nil {
		collection.Close()
		return nil, err
	}
	return collection, nil
}

// loadPrograms loads the programs of an object whose maps are there, all or none, as many at the same time as there
// are CPUs: the kernel verifies a program on the CPU of who loads it, beside all others
// (kernel/bpf/verifier.c, bpf_check: only the unprivileged wait for each other).
func loadPrograms(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, cache *btf.Cache) (map[string]*ebpf.Program, error) {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	programs := make(map[string]*ebpf.Program)
	for name, program := range spec.Programs {
		group.Go(func() error {
			loaded, err := loadProgram(name, program, maps, cache)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			programs[name] = loaded
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		for _, program := range programs {
			_ = program.Close()
		}
		return nil, err
	}
	return programs, nil
}

// loadProgram loads a program that uses maps which are there. The error names it.
func loadProgram(name string, program *ebpf.ProgramSpec, maps map[string]*ebpf.Map, cache *btf.Cache) (*ebpf.Program, error) {
	program = program.Copy()
	for i := range program.Instructions {
		ins := &program.Instructions[i]
		if m := maps[ins.Reference()]; m != nil && ins.IsLoadFromMap() {
			if err := ins.AssociateMap(m); err != nil {
				return nil, err
			}
		}
	}
	one := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{name: program}}
	options, err := kernelOnly(cache)
	if err != nil {
		return nil, err
	}
	collection, err := ebpf.NewCollectionWithOptions(one, options)
	if err != nil {
		return nil, err
	}
	return collection.Programs[name], nil
}

// kernelOnly returns the options for programs that know types of the kernel itself, none of its modules. Without them the
// library decodes those of all modules that are loaded, too, and that not safely by several goroutines: the decoders of
// modules share that of the kernel, and do not lock it (btf/unmarshal.go, inflateType).
func kernelOnly(cache *btf.Cache) (ebpf.CollectionOptions, error) {
	kernel, err := cache.Kernel()
	return ebpf.CollectionOptions{Cache: cache, Programs: ebpf.ProgramOptions{KernelTypes: kernel}}, err
}

// omitKfuncs makes 0 of the address of each kfunc that the kernel does not have, as the library
// would: the programs ask for that before they call one. But the library searches, for each
// reference, the types of all that is loaded, the programs before it included. On 6.1, where
// most kfuncs are missing, that took longer than all the rest of the loading.
func omitKfuncs(spec *ebpf.CollectionSpec, has func(string) bool) error {
	var known *btf.Datasec
	if err := spec.Types.TypeByName(".ksyms", &known); err != nil {
		return err
	}
	missing := make(map[string]bool)
	for _, symbol := range known.Vars {
		name := symbol.Type.TypeName()
		missing[name] = !has(name)
	}
	for _, program := range spec.Programs {
		for i := range program.Instructions {
			if ins := &program.Instructions[i]; missing[ins.Reference()] {
				*ins = replaced(ins)
			}
		}
	}
	return nil
}

// replaced returns what stands for a reference to a kfunc that is missing: its address is 0,
// and a call, which is never reached, is none of a function that there is.
func replaced(reference *asm.Instruction) asm.Instruction {
	ins := asm.FnUnspec.Call()
	if !reference.IsKfuncCall() {
		ins = asm.LoadImm(reference.Dst, 0, asm.DWord)
	}
	ins = ins.WithSymbol(reference.Symbol()).WithSource(reference.Source())
	if f := btf.FuncMetadata(reference); f != nil {
		ins = btf.WithFuncMetadata(ins, f)
	}
	return ins
}
