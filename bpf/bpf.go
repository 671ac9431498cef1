// SPDX-License-Identifier: Apache-2.0

// Package bpf is the kernel half: one BPF object for all kernels from 6.1 on,
// and the Go types of what it shares with the daemon, generated from record.h and
// state.h. The C sources stand beside this file; tsem.bpf.c is where to begin.
package bpf

import (
	_ "embed"

	"github.com/cilium/ebpf"
)

// Version returns what tells objects apart: 16 hexadecimal digits of the digest of this one.
func Version() string { return version }

// version is computed when the object is made: every start needs it, and the object is large.
//
//go:embed tsem_bpfel.version
var version string

// Load returns the object, ready for pruning and loading; package loader does that.
// Each call returns a new one.
func Load() (*ebpf.CollectionSpec, error) {
	return loadTsem()
}

// Namespace is a value of the map `namespaces` (struct tsem_namespace in state.h).
// The kernel half counts in it at any time: read counters atomically.
type Namespace = tsemTsemNamespace

// Slot is a value of the map `slots` (struct tsem_slot in state.h).
type Slot = tsemTsemSlot

// Keeper is what the map of keepers says of one (struct tsem_keeper in state.h).
type Keeper = tsemTsemKeeper

// Caller is what the program task_caller says of a thread (struct tsem_caller in state.h).
type Caller = tsemTsemCaller

// Entry is what the program task_enter is told (struct tsem_entry in state.h).
type Entry = tsemTsemEntry

// Verdict is what is decided about an event (enum tsem_verdict in state.h).
type Verdict = tsemTsemVerdict

// The values of a Verdict.
const (
	VerdictNone      = tsemTsemVerdictTSEM_VERDICT_NONE
	VerdictTrusted   = tsemTsemVerdictTSEM_VERDICT_TRUSTED
	VerdictUntrusted = tsemTsemVerdictTSEM_VERDICT_UNTRUSTED
	VerdictLate      = tsemTsemVerdictTSEM_VERDICT_LATE
	VerdictKilled    = tsemTsemVerdictTSEM_VERDICT_KILLED
	VerdictClosed    = tsemTsemVerdictTSEM_VERDICT_CLOSED
	VerdictUnasked   = tsemTsemVerdictTSEM_VERDICT_UNASKED
	VerdictUnwaited  = tsemTsemVerdictTSEM_VERDICT_UNWAITED
)

// Untrusted is the bit of Slot.Trust that says so (enum tsem_trust in state.h).
const Untrusted = uint64(tsemTsemTrustTSEM_TRUST_UNTRUSTED)

// VerdictMax is one more than the highest verdict.
const VerdictMax = int(tsemTsemVerdictTSEM_VERDICT_MAX)

// Record is the header of a record (struct tsem_record in record.h).
type Record = tsemTsemRecord

// TaskIDRoom is the length of a value of the map `task_ids` (struct tsem_task_id in state.h).
const TaskIDRoom = len(tsemTsemTaskId{}.Digest)

// HookLater is the first ordinal of hooks whose events are those of later versions than TSEM v3 (enum
// tsem_hook in record.h).
const HookLater = int(tsemTsemHookTSEM_HOOK_LATER)

// HookMax is one more than the highest ordinal of a hook (enum tsem_hook in record.h).
const HookMax = int(tsemTsemHookTSEM_HOOK_MAX)

// Kinds of events (enum tsem_kind in record.h).
const (
	KindEvent = uint64(tsemTsemKindTSEM_KIND_EVENT)
	KindAsync = uint64(tsemTsemKindTSEM_KIND_ASYNC)
	KindLog   = uint64(tsemTsemKindTSEM_KIND_LOG)
	KindDeny  = uint64(tsemTsemKindTSEM_KIND_DENY)
)

// Flags of a Namespace (enum tsem_namespace_flags in state.h).
const (
	NamespaceClosed        = uint32(tsemTsemNamespaceFlagsTSEM_NS_CLOSED)
	NamespaceNSRefCurrent  = uint32(tsemTsemNamespaceFlagsTSEM_NS_NSREF_CURRENT)
	NamespaceExternal      = uint32(tsemTsemNamespaceFlagsTSEM_NS_EXTERNAL)
	NamespaceEnforcing     = uint32(tsemTsemNamespaceFlagsTSEM_NS_ENFORCING)
	NamespaceOrphaned      = uint32(tsemTsemNamespaceFlagsTSEM_NS_ORPHANED)
	NamespaceSealed        = uint32(tsemTsemNamespaceFlagsTSEM_NS_SEALED)
	NamespaceOrchestrated  = uint32(tsemTsemNamespaceFlagsTSEM_NS_ORCHESTRATED)
	NamespaceDigestsSHA256 = uint32(tsemTsemNamespaceFlagsTSEM_NS_SHA256)
)

// Indices of Namespace.Refused (enum tsem_refusal in record.h).
const (
	RefusedMagazineFull = int(tsemTsemRefusalTSEM_REFUSED_MAGAZINE_FULL)
	RefusedNoBuffer     = int(tsemTsemRefusalTSEM_REFUSED_NO_BUFFER)
	RefusedDescribe     = int(tsemTsemRefusalTSEM_REFUSED_DESCRIBE)
	RefusedOrphaned     = int(tsemTsemRefusalTSEM_REFUSED_ORPHANED)
)

// Refusals are the names of the reasons, by their index in Namespace.Refused.
var Refusals = [len(Namespace{}.Refused)]string{
	RefusedMagazineFull: "magazine_full",
	RefusedNoBuffer:     "no_buffer",
	RefusedDescribe:     "describe",
	RefusedOrphaned:     "orphaned",
}
