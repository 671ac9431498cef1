// SPDX-License-Identifier: Apache-2.0

// Package loader brings the kernel half into the kernel: it finds out what the kernel can do,
// leaves out what it cannot, loads, attaches, and pins it in a bpffs, where every later process
// finds it. It gives access to the maps, and takes all away with the last process that closes
// it.
package loader

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// Programs of the object that a process runs.
const (
	probeProgram  = "probe"
	locksProgram  = "find_locks"
	keeperProgram = "keeper_register"
	threadProgram = "thread_id"
	birthProgram  = "birth_announce"
	gateProgram   = "gate_register"
	enterProgram  = "task_enter"
	rootProgram   = "root_choose"
	planeProgram  = "plane_choose"
	callerProgram = "task_caller"
)

// exitProgram is attached, but to no hook.
const exitProgram = "task_exit"

// runnable are the programs that a process runs.
var runnable = []string{
	probeProgram, locksProgram, keeperProgram, threadProgram, birthProgram, gateProgram, enterProgram, rootProgram, planeProgram, callerProgram,
}

// attaches says whether a program is attached to something, and not one that a process runs.
func attaches(name string) bool { return !slices.Contains(runnable, name) }

// eventKinds returns the hooks that raise events, and whether theirs may sleep: the
// list of bpf/hooks.h, from the types of the object.
func eventKinds(spec *ebpf.CollectionSpec) (map[string]bool, error) {
	var list *btf.Enum
	if err := spec.Types.TypeByName("tsem_kind_of_hook", &list); err != nil {
		return nil, err
	}
	kinds := make(map[string]bool)
	for _, v := range list.Values {
		if v.Value == bpf.KindEvent || v.Value == bpf.KindAsync {
			kinds[strings.TrimPrefix(v.Name, "TSEM_KIND_")] = v.Value == bpf.KindEvent
		}
	}
	return kinds, nil
}

// ordinals returns the ordinals of hooks that have one, by name: those of bpf/hooks.h, from the types of
// the object.
func ordinals(spec *ebpf.CollectionSpec) (map[string]uint16, error) {
	var list *btf.Enum
	if err := spec.Types.TypeByName("tsem_hook", &list); err != nil {
		return nil, err
	}
	found := make(map[string]uint16)
	for _, v := range list.Values {
		found[strings.TrimPrefix(v.Name, "TSEM_HOOK_")] = uint16(v.Value)
	}
	return found, nil
}

func sleeps(p *ebpf.ProgramSpec) bool { return p.Flags&unix.BPF_F_SLEEPABLE != 0 }

// hookNames returns the hooks of the object, sorted.
func hookNames(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name, program := range spec.Programs {
		if program.Type == ebpf.LSM && name != probeProgram {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Engine is the kernel half at work. Its methods may be called from anywhere.
type Engine struct {
	support  *Support
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program // that a process runs
	inner    map[string]*ebpf.MapSpec // of arrays of maps
	constant []string                 // the programs that are attached as long as the kernel half is there
	links    map[string]link.Link     // of these, where it was installed
	opening  sync.Mutex               // guards opened
	opened   map[string]*ebpf.Program // of those that attach; see open
	pins     *pins                    // where it is pinned
	folder   *os.File                 // that of its pins, also when another one has taken its place
	users    *os.File                 // nil: it is only looked at
	stays    bool                     // also when nobody uses it
	keeper   uint32
	memory   []byte            // the mapped map `namespaces`
	skipped  map[string]uint64 // what allSkipped was when it was opened

	mu    sync.Mutex           // guards what is read once, when it is first asked for
	id    string               // see ID
	fixed uint64               // bytes of the maps that take all of it when they are made
	grow  map[string]*ebpf.Map // the others, which take it as entries come
}

// Prepare probes the kernel and returns the object as Load loads it there: without the
// hooks that the kernel lacks, sleepable where it lets them sleep, its variables set.
// The error is as that of Open.
func Prepare() (*ebpf.CollectionSpec, *Support, error) {
	spec, support, err := prepare(btf.NewCache())
	return spec, support, Explain(err)
}

func prepare(cache *btf.Cache) (*ebpf.CollectionSpec, *Support, error) {
	spec, err := bpf.Load()
	if err != nil {
		return nil, nil, err
	}
	support, err := probe(spec, cache)
	if err != nil {
		return nil, nil, err
	}
	sleepable, err := adapt(spec, support, cache)
	if err != nil {
		return nil, nil, err
	}
	return spec, support, configure(spec, sleepable, support.Tier)
}

// adapt makes the programs of an object such as this kernel can have. It returns what settleSleep does.
func adapt(spec *ebpf.CollectionSpec, support *Support, cache *btf.Cache) (sleepable []bool, err error) {
	delete(spec.Programs, probeProgram)
	for _, name := range support.absent() {
		delete(spec.Programs, name)
	}
	if support.Tier != TierSleep {
		delete(spec.Programs, gateProgram) // its kfuncs are not there
	}
	kernel, err := cache.Kernel()
	if err != nil {
		return nil, err
	}
	if err := omitKfuncs(spec, functions(kernel)); err != nil {
		return nil, err
	}
	return settleSleep(spec, support), nil
}

// load probes the kernel, loads the object and attaches every program, but for what Attach loads. The calling process
// becomes a keeper.
func load() (*Engine, error) {
	cache := btf.NewCache()
	spec, support, err := prepare(cache)
	if err != nil {
		return nil, err
	}
	e := newEngine(support)
	for name, m := range spec.Maps {
		if m.InnerMap != nil {
			e.inner[name] = m.InnerMap.Copy()
		}
	}
	for _, name := range support.later(allEvents) {
		delete(spec.Programs, name)
	}
	collection, err := create(spec, cache)
	if err != nil {
		return nil, fmt.Errorf("load the kernel half: %w", err)
	}
	e.maps = collection.Maps
	for name, program := range collection.Programs {
		if attaches(name) {
			e.constant = append(e.constant, name)
			e.opened[name] = program
		} else {
			e.programs[name] = program
		}
	}
	if err := e.start(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func newEngine(support *Support) *Engine {
	return &Engine{
		support: support, maps: make(map[string]*ebpf.Map), programs: make(map[string]*ebpf.Program), inner: make(map[string]*ebpf.MapSpec),
		opened: make(map[string]*ebpf.Program), links: make(map[string]link.Link),
	}
}

// settleSleep makes every program atomic that may not sleep on this kernel, because of
// its hook or of the tier. It returns which hooks may, by their ordinal: the value of the
// variable sleepable in maps.h, which decides what a record is and whether it waits.
func settleSleep(spec *ebpf.CollectionSpec, support *Support) []bool {
	sleepable := make([]bool, bpf.HookMax)
	for _, h := range support.Hooks {
		program := spec.Programs[h.Name]
		if program == nil || !sleeps(program) {
			continue
		}
		if support.Tier == TierExport || !h.Sleepable {
			program.Flags &^= unix.BPF_F_SLEEPABLE
			continue
		}
		if h.Ordinal != 0 {
			sleepable[h.Ordinal] = true
		}
	}
	return sleepable
}

// configure sets what the programs have to know before they are verified.
func configure(spec *ebpf.CollectionSpec, sleepable []bool, tier Tier) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	var buffers uint32 // at least
	if err := spec.Variables["buffers_count"].Get(&buffers); err != nil {
		return fmt.Errorf("variable buffers_count: %w", err)
	}
	buffers = max(buffers, spec.Maps["buffers"].MaxEntries*uint32(cpus)) // of each CPU
	spec.Maps["buffers"].MaxEntries = buffers
	tasks, err := tasksMax()
	if err != nil {
		return err
	}
	spec.Maps["tasks"].MaxEntries = tasks
	// The first tasks of all namespaces may start at the same time.
	spec.Maps["births"].MaxEntries = spec.Maps["namespaces"].MaxEntries
	// Nobody decides in slot 0 (state.h).
	spec.Maps["slots"].Contents = []ebpf.MapKV{{Key: uint32(0), Value: bpf.Slot{Word: uint64(bpf.VerdictUnasked)}}}

	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	var mounts unix.Stat_t
	if err := unix.Stat("/proc/1/ns/mnt", &mounts); err != nil {
		return fmt.Errorf("look at the mount namespace of process 1: %w", err)
	}
	var tai, real unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_TAI, &tai), unix.ClockGettime(unix.CLOCK_REALTIME, &real)); err != nil {
		return err
	}
	for name, value := range map[string]any{
		"buffers_count": buffers,
		"sleepable":     sleepable,
		"polls":         tier == TierPoll,
		"identity_key":  [2]uint64{binary.NativeEndian.Uint64(key[:8]), binary.NativeEndian.Uint64(key[8:])},
		// The nearest to "initial" that can be asked for: that of process 1.
		"mnt_ns_initial": uint32(mounts.Ino),
		// Whole seconds; the two clocks are not read at the same moment.
		"tai_offset": uint64((tai.Nano() - real.Nano() + 500_000_000) / 1_000_000_000 * 1_000_000_000),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("variable %s: %w", name, err)
		}
	}
	return nil
}

// tasksMax returns how many tasks there may be on this host.
func tasksMax() (uint32, error) {
	const path = "/proc/sys/kernel/threads-max"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	tasks, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	// There are no more process ids on 64 bits (include/linux/threads.h, PID_MAX_LIMIT).
	return uint32(min(tasks, 4<<20)), nil
}

// join makes this process a keeper.
func (e *Engine) join() error {
	keeper, err := e.programs[keeperProgram].Run(&ebpf.RunOptions{})
	if err != nil {
		return fmt.Errorf("become a keeper: %w", err)
	}
	if e.keeper = keeper; keeper == 0 {
		return fmt.Errorf("become a keeper: %d processes are", e.Map("keepers").MaxEntries())
	}
	if e.memory, err = mapNamespaces(e.Map("namespaces")); err != nil {
		return err
	}
	e.skipped, err = e.allSkipped()
	return err
}

func mapNamespaces(m *ebpf.Map) ([]byte, error) {
	page := syscall.Getpagesize()
	size := (int(m.MaxEntries()*m.ValueSize()) + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the map namespaces: %w", err)
	}
	return memory, nil
}

func namespaceIn(memory []byte, index uint32) *bpf.Namespace {
	all := unsafe.Slice((*bpf.Namespace)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/int(unsafe.Sizeof(bpf.Namespace{})))
	return &all[index]
}

// Support returns what was found out about the kernel.
func (e *Engine) Support() *Support { return e.support }

// Missing returns the names of the hooks that this kernel does not have, and whose
// events will therefore not come.
func (e *Engine) Missing() []string { return e.support.Missing() }

// Map returns a map of the kernel half by its name in maps.h.
func (e *Engine) Map(name string) *ebpf.Map { return e.maps[name] }

// MapSpecOf returns the specification of the inner maps of an array of maps; the
// caller may change it.
func (e *Engine) MapSpecOf(name string) *ebpf.MapSpec { return e.inner[name].Copy() }

// NamespacesMax returns how many namespaces the kernel half has room for; index 0 is not
// used.
func (e *Engine) NamespacesMax() uint32 { return e.Map("namespaces").MaxEntries() }

// NewID returns the id of a new namespace, never given before in the life of the kernel half.
func (e *Engine) NewID() uint64 { return atomic.AddUint64(&e.Namespace(0).Id, 1) }

// Namespace returns the state of the namespace at an index. It is the kernel's own memory: use atomic
// operations, and do not touch it after Close.
func (e *Engine) Namespace(index uint32) *bpf.Namespace {
	return namespaceIn(e.memory, index)
}

// Keeper returns the thread group id of this process as the kernel half knows it, which
// is not what os.Getpid returns in a pid namespace. Namespaces that have it in their
// state are closed by the kernel half when the process has exited.
func (e *Engine) Keeper() uint32 { return e.keeper }

// Announce says that the calling thread is about to start the first task of the namespace at an
// index: a child that it forks is born there. 0 says that it has started it. The thread must be
// locked to its goroutine until then.
func (e *Engine) Announce(index uint32) error {
	if err := run(e.programs[birthProgram], index); err != nil {
		return fmt.Errorf("announce a task: %w", err)
	}
	return nil
}

// run runs a program that answers 0 or a negative errno, which is the error then.
func run(program *ebpf.Program, context any) error {
	status, err := program.Run(&ebpf.RunOptions{Context: context})
	if errno := unix.Errno(-int32(status)); err == nil && errno != 0 {
		return errno
	}
	return err
}

// threadID returns the id of the calling thread as programs see it, which is another one in a pid
// namespace.
func threadID(program *ebpf.Program) (uint32, error) {
	id, err := program.Run(&ebpf.RunOptions{})
	if err != nil {
		return 0, fmt.Errorf("ask for the id of this thread: %w", err)
	}
	return id, nil
}

// Gate returns the program that a process runs on itself to become the gate of a namespace
// (gate_register in bpf/verdict.h); nil where hooks do not sleep. The engine's Close
// closes it.
func (e *Engine) Gate() *ebpf.Program { return e.programs[gateProgram] }

// Enter returns the program that a process runs on itself to join a namespace
// (task_enter in bpf/verdict.h). The engine's Close closes it.
func (e *Engine) Enter() *ebpf.Program { return e.programs[enterProgram] }

// SetRoot puts every task of the host that is in no namespace, and in no keeper,
// into the namespace at an index; 0 ends that.
func (e *Engine) SetRoot(index uint32) error {
	if err := run(e.programs[rootProgram], index); err != nil {
		return fmt.Errorf("choose the namespace of the host: %w", err)
	}
	return nil
}

// Skipped returns how often the kernel, since Open, did not run a program because the same
// one was already running on that CPU: events that nobody saw, by hook. It never
// happens where hooks sleep (TierSleep, TierPoll). The program of the exit of tasks is not among them:
// what it misses is made good (keeper_exit in bpf/keeper.h).
func (e *Engine) Skipped() (map[string]uint64, error) {
	skipped, err := e.allSkipped()
	for name, before := range e.skipped {
		// What cannot be read any more is 0.
		if skipped[name] -= min(before, skipped[name]); skipped[name] == 0 {
			delete(skipped, name)
		}
	}
	return skipped, err
}

// allSkipped is Skipped since the kernel half was loaded.
func (e *Engine) allSkipped() (map[string]uint64, error) {
	skipped := make(map[string]uint64)
	if e.support.Tier != TierExport {
		return skipped, nil
	}
	runs, err := e.Runs()
	for _, program := range runs {
		if program.Skipped > 0 && program.Name != exitProgram {
			skipped[program.Name] = program.Skipped
		}
	}
	return skipped, err
}

// Verified returns how many instructions the verifier walked for each program, by its
// name; 0 where the kernel does not tell (before 5.16).
func (e *Engine) Verified() (map[string]uint32, error) {
	walked := make(map[string]uint32)
	programs, err := e.open(e.attachable())
	if err != nil {
		return nil, err
	}
	maps.Copy(programs, e.programs)
	for name, program := range programs {
		info, err := program.Info()
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		walked[name], _ = info.VerifiedInstructions()
	}
	return walked, nil
}

// Close detaches the programs and lets go of the maps: of a kernel half that others use, too,
// only the last one. Tasks are no longer modeled.
func (e *Engine) Close() error {
	if e.users != nil {
		return e.leave()
	}
	var group errgroup.Group
	for _, l := range e.links {
		group.Go(l.Close)
	}
	return errors.Join(group.Wait(), e.release())
}

// release lets go of everything but the links.
func (e *Engine) release() (err error) {
	if e.memory != nil {
		err = unix.Munmap(e.memory)
	}
	e.links, e.memory = nil, nil
	for _, programs := range []map[string]*ebpf.Program{e.programs, e.opened} {
		for _, p := range programs {
			err = errors.Join(err, p.Close())
		}
	}
	for _, m := range e.maps {
		err = errors.Join(err, m.Close())
	}
	if e.folder != nil {
		err = errors.Join(err, e.folder.Close())
	}
	return err
}
