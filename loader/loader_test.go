// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// TestListAndPrograms: every hook of bpf/hooks.h has its program, which is sleepable
// if and only if the list says so; and every other program is one we know.
func TestListAndPrograms(t *testing.T) {
	spec, err := bpf.Load()
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := eventKinds(spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(kinds) == 0 {
		t.Fatal("the list is empty")
	}
	for name, maySleep := range kinds {
		program := spec.Programs[name]
		if program == nil {
			t.Errorf("hook %s is in the list and has no program", name)
			continue
		}
		if sleeps(program) != maySleep || program.AttachTo != name {
			t.Errorf("hook %s: program for %s, sleepable %v; the list says %v", name, program.AttachTo, sleeps(program), maySleep)
		}
	}
	bookkeeping := []string{
		"bprm_committed_creds", "inode_free_security", "inode_get_acl", "inode_init_security", "inode_remove_acl", "inode_set_acl",
		"msg_queue_alloc_security", "msg_queue_free_security", "sem_alloc_security", "sem_free_security", "shm_alloc_security", "shm_free_security", "socket_post_create", "task_free",
	}
	for _, name := range hookNames(spec) {
		if _, raises := kinds[name]; raises == slices.Contains(bookkeeping, name) {
			t.Errorf("hook %s has a program and is in no list, or in both", name)
		}
	}
	for _, name := range indispensable {
		if spec.Programs[name] == nil {
			t.Errorf("no program for %s", name)
		}
	}
	for name, program := range spec.Programs {
		if runs := program.Type == ebpf.Syscall || name == callerProgram || name == probeProgram; runs == attaches(name) {
			t.Errorf("program %s: attached: %v, run by processes: %v", name, attaches(name), runs)
		}
	}
}

// Who opens a pinned kernel half trusts that it is of the same object.
func TestVersion(t *testing.T) {
	object, err := os.ReadFile("../bpf/tsem_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(object); bpf.Version() != hex.EncodeToString(sum[:8]) {
		t.Errorf("version %q of an object of digest %x: make generate", bpf.Version(), sum)
	}
}

// A reference to a kfunc that is missing goes, and nothing else changes: neither another
// instruction, nor where the functions begin.
func TestOmitKfuncs(t *testing.T) {
	const missing = "bpf_rdonly_cast"
	before, err := bpf.Load()
	if err != nil {
		t.Fatal(err)
	}
	after := before.Copy()
	if err := omitKfuncs(after, func(name string) bool { return name != missing }); err != nil {
		t.Fatal(err)
	}
	addresses, calls := 0, 0
	for name, program := range before.Programs {
		for i := range program.Instructions {
			old, now := &program.Instructions[i], &after.Programs[name].Instructions[i]
			if old.Symbol() != now.Symbol() || btf.FuncMetadata(old) != btf.FuncMetadata(now) || old.Source() != now.Source() {
				t.Fatalf("%s, instruction %d: %v begins something else than %v", name, i, now, old)
			}
			switch {
			case old.Reference() != missing:
				if old.OpCode != now.OpCode || old.Constant != now.Constant || old.Reference() != now.Reference() {
					t.Fatalf("%s, instruction %d: %v has become %v", name, i, old, now)
				}
			case old.IsKfuncCall():
				calls++
				if now.Reference() != "" || !now.IsBuiltinCall() {
					t.Fatalf("%s, instruction %d: the call %v has become %v", name, i, old, now)
				}
			default:
				addresses++
				if now.Reference() != "" || now.OpCode != old.OpCode || now.Dst != old.Dst || now.Constant != 0 {
					t.Fatalf("%s, instruction %d: the address %v has become %v", name, i, old, now)
				}
			}
		}
	}
	if addresses == 0 || calls == 0 {
		t.Errorf("%d addresses and %d calls of %s: nothing was tested", addresses, calls, missing)
	}
}

// TestSettleSleep: a hook that cannot sleep on this kernel becomes atomic, and no other;
// in tier export every hook does. The program that is no hook stays as it is.
func TestSettleSleep(t *testing.T) {
	for _, c := range []struct {
		tier   Tier
		asleep bool // whether the other hooks sleep
	}{{TierSleep, true}, {TierPoll, true}, {TierExport, false}} {
		spec, err := bpf.Load()
		if err != nil {
			t.Fatal(err)
		}
		support := &Support{Tier: c.tier}
		ordinals, err := ordinals(spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range hookNames(spec) {
			support.Hooks = append(support.Hooks, HookSupport{Name: name, Ordinal: ordinals[name], Present: true, Sleepable: name != "inode_unlink"})
		}
		delete(spec.Programs, "sb_mount") // as one that the kernel does not have
		sleepable := settleSleep(spec, support)
		if support.Tier != c.tier {
			t.Errorf("tier %s became %s", c.tier, support.Tier)
		}
		// Ordinals of bpf/hooks.h.
		for ordinal, want := range map[int]bool{1: c.asleep, 14: c.asleep, 64: false, 38: false, 2: false} {
			if sleepable[ordinal] != want {
				t.Errorf("tier %s: hook %d sleeps: %v, want %v", c.tier, ordinal, sleepable[ordinal], want)
			}
		}
		for name, want := range map[string]bool{
			"file_open": c.asleep, "socket_post_create": c.asleep, "inode_unlink": false, "task_kill": false, locksProgram: true,
		} {
			if sleeps(spec.Programs[name]) != want {
				t.Errorf("tier %s: program %s sleeps: %v, want %v", c.tier, name, !want, want)
			}
		}
		if err := spec.Variables["sleepable"].Set(sleepable); err != nil {
			t.Error(err)
		}
	}
}

// TestPlaneTaken: whoever finds another daemon is told so, and what to do.
func TestPlaneTaken(t *testing.T) {
	if err := planeChosen(0, nil); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		status uint32
		err    error
		is     error
		says   string
	}{
		{uint32(unix.EBUSY), nil, ErrPlaneTaken, "another tsem-bpf daemon serves orchestrators on this host, and there can be one: let orchestrators use that one, or end it first"},
		{uint32(unix.EINVAL), nil, unix.EINVAL, "choose the control plane: "},
		{0, unix.EPERM, unix.EPERM, "choose the control plane: "},
	} {
		if err := planeChosen(test.status, test.err); !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%d, %v: %v", test.status, test.err, err)
		}
	}
}

// TestErrorsSayWhatToDo: an errno of the kernel becomes a sentence; what it is not the
// cause of stays as it is.
func TestErrorsSayWhatToDo(t *testing.T) {
	for _, test := range []struct {
		errno error
		is    error
		says  string
	}{
		{unix.EPERM, ErrPrivilege, "cannot load it"},
		{unix.EMFILE, ErrLimit, "ulimit -n"},
		{unix.ENFILE, ErrLimit, "fs.file-max"},
		{unix.ENOMEM, ErrLimit, "memory.max"},
	} {
		err := Explain(fmt.Errorf("load it: %w: and 155 lines more", test.errno))
		var support *SupportError
		if !errors.As(err, &support) || !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "155") {
			t.Errorf("%v: %v", test.errno, err)
		}
		if again := Explain(err); again != err {
			t.Errorf("explained twice: %v", again)
		}
	}
	if err := Explain(unix.EINVAL); err != unix.EINVAL {
		t.Error(err)
	}
	if err := Explain(nil); err != nil {
		t.Error(err)
	}
	if err := explainAttach("file_open", unix.E2BIG); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "file_open") {
		t.Error(err)
	}
	if err := explainAttach("file_open", unix.EBUSY); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
}

// TestInactive: what to boot with has bpf in it once.
func TestInactive(t *testing.T) {
	for _, test := range []struct {
		lsms []string
		says string
	}{
		{nil, "add bpf to CONFIG_LSM"},
		{[]string{"lockdown", "yama"}, "boot with lsm=lockdown,yama,bpf\n"},
		{[]string{"lockdown", "bpf"}, "report this"},
	} {
		if err := inactive(test.lsms); !errors.Is(err, ErrInactive) || !strings.Contains(err.Error()+"\n", test.says) {
			t.Errorf("%v: %v, want %q", test.lsms, err, test.says)
		}
	}
}

// TestStatusOf: the status of a namespace is what a copy of its state says, each word of which
// is there.
func TestStatusOf(t *testing.T) {
	ns := bpf.Namespace{
		Id: 3, Keeper: 10, Flags: bpf.NamespaceExternal | bpf.NamespaceOrphaned, Tasks: 2, Raised: 9, Delivered: 4,
		Refused: [len(bpf.Refusals)]uint64{2, 0, 0, 3},
	}
	ns.Shares[len(ns.Shares)-1].Read = 1
	copied := copyOf(&ns)
	if copied != ns {
		t.Errorf("the copy is %+v", copied)
	}
	want := NamespaceStatus{ID: 3, Keeper: 10, External: true, Orphaned: true, Tasks: 2, Raised: 9, Delivered: 4, Refused: 5}
	if got := StatusOf(&copied); got != want {
		t.Errorf("the status is %+v, not %+v", got, want)
	}
	for want, ns := range map[string]bpf.Namespace{
		"external":                            {Flags: bpf.NamespaceExternal | bpf.NamespaceOrchestrated, Keeper: 10, Orchestrator: 5},
		"external, waits for an orchestrator": {Flags: bpf.NamespaceExternal | bpf.NamespaceOrchestrated, Keeper: 10},
		"export":                              {Flags: bpf.NamespaceOrchestrated, Keeper: 10},
		"external, orphaned":                  {Flags: bpf.NamespaceExternal | bpf.NamespaceOrchestrated | bpf.NamespaceOrphaned},
		"external, closed":                    {Flags: bpf.NamespaceExternal | bpf.NamespaceOrchestrated | bpf.NamespaceClosed, Keeper: 10},
	} {
		if got := StatusOf(&ns); got.Kind() != want {
			t.Errorf("the kind of %+v is %q, want %q", got, got.Kind(), want)
		}
	}
	closed := bpf.Namespace{Flags: bpf.NamespaceClosed | bpf.NamespaceEnforcing}
	if got := StatusOf(&closed); !got.Closed || !got.Enforcing || got.External || got.Orphaned {
		t.Errorf("the status is %+v", got)
	}
}

// TestSkippedUnread: a program whose runs cannot be read any more has not skipped any, rather than nearly 2^64.
func TestSkippedUnread(t *testing.T) {
	e := newEngine(&Support{Tier: TierExport})
	var err error
	if e.folder, err = os.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer e.folder.Close()
	e.constant, e.skipped = []string{"file_open"}, map[string]uint64{"file_open": 3}
	if skipped, err := e.Skipped(); len(skipped) > 0 || err != nil {
		t.Errorf("skipped are %v, %v", skipped, err)
	}
}

// TestTooFewFiles: what to allow is more than what was too few.
func TestTooFewFiles(t *testing.T) {
	for limit, want := range map[uint64]string{
		300: "300 open files are too few; allow at least 512 (", 1024: "1024 open files are too few; allow more (",
	} {
		if err := tooFewFiles(limit); !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// TestCallerInvisible: 0 stands for a thread that is not visible here. To the kernel it stands for all there are, of which init is
// the first.
func TestCallerInvisible(t *testing.T) {
	if c, err := new(Engine).Caller(0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("%+v, %v", c, err)
	}
}
