// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// Tier is what a kernel lets a hook do while user space decides.
type Tier string

const (
	// TierSleep: hooks sleep, for a decision and for room in the magazine.
	TierSleep Tier = "sleep"
	// TierPoll: hooks may sleep for a moment, again and again, but there is no
	// kfunc to wait in.
	TierPoll Tier = "poll"
	// TierExport: hooks never sleep; events can only be exported.
	TierExport Tier = "export"
)

// Waits says whether an event can wait for a verdict: asleep, or by looking again and again.
func (t Tier) Waits() bool { return t == TierSleep || t == TierPoll }

// What cannot be used here, for errors.Is. The errors that carry them are of
// type *SupportError.
var (
	// ErrInactive: BPF programs load, but the kernel does not call them in LSM hooks.
	ErrInactive = errors.New("the BPF LSM is not active")
	// ErrKernel: the kernel lacks something that the kernel half cannot do without.
	ErrKernel = errors.New("the kernel is not supported")
	// ErrPrivilege: the caller may not load BPF LSM programs.
	ErrPrivilege = errors.New("not permitted")
	// ErrLimit: a limit of the process, its cgroup or the kernel is reached.
	ErrLimit = errors.New("a limit is reached")
)

// SupportError says what stands in the way, and what to change.
type SupportError struct {
	Err    error  // ErrInactive, ErrKernel, ErrPrivilege or ErrLimit
	Detail string // what was seen
	Remedy string // what to change
}

// Error returns one sentence of what is wrong and one of what to do.
func (e *SupportError) Error() string {
	return fmt.Sprintf("%v: %s; %s", e.Err, e.Detail, e.Remedy)
}

// Unwrap returns Err.
func (e *SupportError) Unwrap() error { return e.Err }

// HookSupport is what the kernel makes of one hook.
type HookSupport struct {
	Name      string `json:"name"`
	Ordinal   uint16 `json:"ordinal"` // of its events or exec records (bpf/hooks.h); 0: it has none
	Present   bool   `json:"present"`
	Sleepable bool   `json:"sleepable"`
	Event     bool   `json:"event"` // raises events; else it is for bookkeeping only
	Waits     bool   `json:"waits"` // its events can wait for a verdict
}

// onDemand says whether the program of the hook is loaded and attached only where a namespace wants its events. One
// that keeps books too is there from the beginning.
func (h *HookSupport) onDemand() bool {
	return int(h.Ordinal) >= bpf.HookLater && !slices.Contains(indispensable, h.Name)
}

// later returns the programs on demand that a namespace needs which has such a mask of events.
func (s *Support) later(wanted [2]uint64) (names []string) {
	for _, h := range s.Hooks {
		if h.onDemand() && h.Present && wanted[h.Ordinal/64]>>(h.Ordinal%64)&1 != 0 {
			names = append(names, h.Name)
		}
	}
	return names
}

// Support is what a kernel offers.
type Support struct {
	Kernel     string        `json:"kernel"`      // its release
	LSMs       []string      `json:"lsms"`        // active ones, in order
	Tier       Tier          `json:"tier"`        //
	TierReason string        `json:"tier_reason"` // what decides it
	Digests    string        `json:"digests"`     // where the digests of files come from
	Hooks      []HookSupport `json:"hooks"`       // of the object, in the order of their names
}

// younger are hooks that were made of another one, which the kernels without them call
// instead: nothing is missing there.
var younger = []string{
	"file_ioctl_compat",                                  // 6.8, of file_ioctl
	"file_truncate",                                      // 6.2, of path_truncate
	"inode_get_acl", "inode_remove_acl", "inode_set_acl", // 6.2, of inode_getxattr and so on
}

// Missing returns the names of the hooks that the kernel does not have.
func (s *Support) Missing() []string {
	return slices.DeleteFunc(s.absent(), func(name string) bool { return slices.Contains(younger, name) })
}

// absent returns the names of the hooks whose programs the kernel cannot have.
func (s *Support) absent() []string {
	var names []string
	for _, h := range s.Hooks {
		if !h.Present {
			names = append(names, h.Name)
		}
	}
	return names
}

// The hooks without which nothing of a namespace would be right.
var indispensable = []string{"task_alloc", "task_free", "bprm_committed_creds"}

// Functions of the kernel that decide the tier.
const (
	// Since 6.2 LSM programs that sleep are entered without a recursion guard of
	// the CPU (kernel/bpf/trampoline.c); before, one that sleeps makes the same
	// program of every other task on that CPU be skipped.
	sleepableEntry = "__bpf_prog_enter_sleepable_recur"
	// The kfunc in which a task waits for the gate (fs/bpf_fs_kfuncs.c, 6.12).
	gateKfunc = "bpf_get_file_xattr"
)

// Probe finds out what this kernel offers. It loads small programs and attaches
// one for a moment; nothing stays. The error is a *SupportError if the kernel, its
// boot line, or the privileges or limits of the caller have to change; the Support is
// then as complete as it could be made.
func Probe() (*Support, error) {
	spec, err := bpf.Load()
	if err != nil {
		return nil, err
	}
	support, err := probe(spec, btf.NewCache())
	return support, Explain(err)
}

// probe is Probe for an object that is only read, with a cache of the kernel's types:
// decoding these two is most of the work.
func probe(spec *ebpf.CollectionSpec, cache *btf.Cache) (*Support, error) {
	s := new(Support)
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	s.Kernel = unix.ByteSliceToString(name.Release[:])
	s.LSMs = activeLSMs()

	kernel, err := cache.Kernel()
	if err != nil {
		return s, &SupportError{ErrKernel, fmt.Sprintf("no BTF of kernel %s (%v)", s.Kernel, err),
			"use a kernel built with CONFIG_DEBUG_INFO_BTF=y"}
	}
	has := functions(kernel)
	if !has("bpf_lsm_file_open") {
		return s, &SupportError{ErrKernel, "kernel " + s.Kernel + " has no BPF LSM",
			"use a kernel built with CONFIG_BPF_LSM=y"}
	}
	if err := probeRuns(spec.Copy(), cache, s.LSMs); err != nil {
		return s, err
	}
	s.decideTier(has)
	if err := s.probeHooks(spec, cache, has); err != nil {
		return s, err
	}
	return s, nil
}

// functions returns what tells whether a kernel has a function, by its name.
func functions(kernel *btf.Spec) (has func(string) bool) {
	return func(name string) bool {
		var f *btf.Func
		return kernel.TypeByName(name, &f) == nil
	}
}

func (s *Support) decideTier(has func(string) bool) {
	forced := forcedTier()
	switch {
	case forced != "":
		s.Tier, s.TierReason = forced, "a test wants it"
	case !has(sleepableEntry):
		s.Tier, s.TierReason = TierExport, "LSM programs that sleep have a recursion guard for each CPU; kernel 6.2 or newer has none"
	case !has(gateKfunc):
		s.Tier, s.TierReason = TierPoll, "no kfunc "+gateKfunc+"; kernel 6.12 or newer has it"
	default:
		s.Tier, s.TierReason = TierSleep, "LSM programs may sleep, and have "+gateKfunc+" to wait in"
	}
}

func (s *Support) probeHooks(spec *ebpf.CollectionSpec, cache *btf.Cache, has func(string) bool) error {
	kinds, err := eventKinds(spec)
	if err != nil {
		return err
	}
	ordinals, err := ordinals(spec)
	if err != nil {
		return err
	}
	for _, name := range hookNames(spec) {
		maySleep, raises := kinds[name]
		h := HookSupport{Name: name, Ordinal: ordinals[name], Present: has("bpf_lsm_" + name), Event: raises}
		if h.Present {
			sleepable, err := canSleep(name, cache)
			if err != nil {
				return err
			}
			h.Sleepable = sleepable
			h.Waits = maySleep && sleepable && s.Tier.Waits()
		} else if slices.Contains(indispensable, name) {
			return &SupportError{ErrKernel, "kernel " + s.Kernel + " has no hook " + name, "use kernel 6.1 or newer"}
		}
		s.Hooks = append(s.Hooks, h)
	}
	s.Digests = "user space"
	if s.Tier != TierExport {
		s.Digests = "IMA in mmap_file, file_ioctl and exec; user space elsewhere"
		if !slices.Contains(s.LSMs, "ima") && !has("ima_file_hash") {
			s.Digests = "user space"
		}
	}
	return nil
}

// canSleep loads the smallest sleepable program for a hook.
func canSleep(hook string, cache *btf.Cache) (bool, error) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{hook: {
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: hook,
		Flags: unix.BPF_F_SLEEPABLE, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}}}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: cache})
	if errors.Is(err, unix.EINVAL) {
		return false, nil // kernel/bpf/verifier.c, check_attach_btf_id: "is not sleepable"
	}
	if err != nil {
		return false, fmt.Errorf("probe hook %s: %w", hook, err)
	}
	collection.Close()
	return true, nil
}

// probeRuns attaches a program and sees whether a system call makes it run.
func probeRuns(spec *ebpf.CollectionSpec, cache *btf.Cache, lsms []string) error {
	for name := range spec.Programs {
		if name != probeProgram && name != threadProgram {
			delete(spec.Programs, name)
		}
	}
	for name := range spec.Maps {
		if !strings.HasPrefix(name, ".") { // variables stay
			delete(spec.Maps, name)
		}
	}
	options, err := kernelOnly(cache)
	if err != nil {
		return err
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return fmt.Errorf("load the probe program: %w", err)
	}
	defer collection.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, err := threadID(collection.Programs[threadProgram])
	if err != nil {
		return err
	}
	if err := collection.Variables["probe_thread"].Set(thread); err != nil {
		return err
	}
	l, err := link.AttachLSM(link.LSMOptions{Program: collection.Programs[probeProgram]})
	if err != nil {
		return explainAttach(probeProgram, err)
	}
	// The kernel waits for all tasks to have left the program; nobody else has to.
	defer func() { go l.Close() }()
	// Of a process id that is not 0: only then the hook is called (kernel/sys.c, do_getpgid).
	if _, err := unix.Getpgid(os.Getpid()); err != nil {
		return err
	}
	var runs uint64
	if err := collection.Variables["probe_runs"].Get(&runs); err != nil {
		return err
	}
	if runs == 0 {
		return inactive(lsms)
	}
	return nil
}

// inactive is the error where programs attach and are never called. lsms may be empty.
func inactive(lsms []string) error {
	remedy := "add bpf to CONFIG_LSM, or to the lsm= list of the boot line"
	switch {
	case slices.Contains(lsms, "bpf"):
		remedy = "report this: bpf is in the list of active LSMs"
	case len(lsms) > 0:
		remedy = "boot with lsm=" + strings.Join(append(slices.Clone(lsms), "bpf"), ",")
	}
	return &SupportError{ErrInactive, "a probe program was attached and never called", remedy}
}

// activeLSMs reads the list, which is there only where securityfs is mounted.
func activeLSMs() []string {
	text, err := os.ReadFile("/sys/kernel/security/lsm")
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), ",")
}
