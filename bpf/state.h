/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the kernel half and the daemon, second part: the maps.
 * (The first part, what stands in a magazine, is record.h.)
 */
#ifndef TSEM_STATE_H
#define TSEM_STATE_H

#include "record.h"

/* Value of map `task_ids`: a TASK_ID, as in TSEM in the room of the longest digest. */
struct tsem_task_id {
	__u8 digest[64];	/* with zeros behind it */
};

/*
 * Namespaces that can live at the same time. One costs a value here and a pointer
 * in each array of maps; ids are never reused, indices are. Index 0 is no namespace, so
 * that 0 can mean that; its id is the last one that was given, its `delivered` the size of `task_ids`.
 */
#define TSEM_NAMESPACES_MAX 1024

enum tsem_namespace_flags {
	TSEM_NS_CLOSED = 1,		/* raises no further event */
	TSEM_NS_NSREF_CURRENT = 2,	/* ids as the user namespace of the task sees them */
	TSEM_NS_SHA256 = 4,		/* its digests are those that IMA has */
	TSEM_NS_EXTERNAL = 8,		/* its tasks wait for verdicts where they can sleep */
	TSEM_NS_ENFORCING = 16,		/* what nobody can judge does not happen, where DENY is the action */
	TSEM_NS_ORPHANED = 32,		/* enforcing, and its keeper is gone: nobody can judge any more */
	TSEM_NS_SEALED = 64,		/* `deny` does not change any more; nothing to the kernel half */
	TSEM_NS_ORCHESTRATED = 128,	/* made through the control plane; nothing to the kernel half */
};

enum tsem_verdict {
	TSEM_VERDICT_NONE = 0,		/* nobody has decided */
	TSEM_VERDICT_TRUSTED = 1,	/* by the agent */
	TSEM_VERDICT_UNTRUSTED = 2,
	TSEM_VERDICT_LATE = 3,		/* the deadline has passed */
	TSEM_VERDICT_KILLED = 4,	/* the task shall die */
	TSEM_VERDICT_CLOSED = 5,	/* the namespace ends, or its agent has failed */
	TSEM_VERDICT_UNASKED = 6,	/* by the task itself: the gate did not work, or it has no slot */
	TSEM_VERDICT_UNWAITED = 7,	/* by the task itself: in a hook that cannot wait */
	TSEM_VERDICT_MAX = 8,	/* a power of two: then a mask bounds an index */
};

/*
 * The shares of the reserve. Each hook has one, which its records use where it cannot
 * sleep, on this kernel or at all; there is room for these alone (namespace.shares in Go).
 */
enum tsem_share_of {
	TSEM_SHARE_NONE,	/* of the size 0: the hook waits for room */
	TSEM_SHARE_bprm_committed_creds,
	TSEM_SHARE_elsewhere,	/* of all events that are raised in another hook than their own (EVENT_ATOMIC) */
#define HOOK(name, ordinal, context) TSEM_SHARE_##name,
	TSEM_HOOKS(HOOK)
#undef HOOK
	TSEM_SHARES,
};

/* The account of a share, in bytes of the ring: the difference is unread. */
struct tsem_share {
	__u64 claimed;		/* by the kernel half, before a record is put */
	__u64 read;		/* by the daemon, after a record has left the ring */
};

/*
 * Value of map `namespaces`. The daemon writes the first part once, before any
 * task is in the namespace. Later the keeper, TSEM_NS_CLOSED and TSEM_NS_ORPHANED change, by the
 * daemon or by the kernel half, the orchestrator by the daemon, and, by any process of root until TSEM_NS_SEALED is
 * there, `deny` and TSEM_NS_ENFORCING. The kernel half counts in the second part. When nothing is under way:
 * raised == delivered + the sum of refused.
 */
struct tsem_namespace {
	__u64 id;		/* 0: nobody's */
	__u32 flags;		/* enum tsem_namespace_flags */
	__u32 magazine;		/* bytes of the ring */
	__u32 reserve;		/* bytes of it that are for the shares: the sum of them */
	__u32 share;		/* bytes of each share */
	__u32 keeper;		/* thread group id; 0: it has exited, and the namespace is closed or an orphan */
	__u32 digest;		/* bytes of each of its digests, TASK_IDs included: tells the function */
	__u32 awake;		/* 1: the keeper looks for records all the time; a task that looked in vain sets 0 */
	__u32 orchestrator;	/* thread group id; 0: it has none, or TSEM_NS_ORCHESTRATED is not there */
	__u64 wait;		/* ns that a sleepable hook waits for room */
	__u64 deadline;		/* ns that one waits for a verdict, where no gate does that */
	__u64 beat;		/* CLOCK_MONOTONIC, ns: when the keeper was last seen alive; 0: not watched */
	__u64 events[TSEM_HOOK_MAX / 64];	/* a bit for each hook: its events are raised */
	__u64 deny[TSEM_HOOK_MAX / 64];		/* the same: the action of its event is DENY, else LOG */
	__u64 passing;		/* a bit for each verdict: 1 << verdict, if DENY lets such an event happen */
	__u8 task_key[64];	/* for the next daemon: by which it knows the key of the orchestrator (control.Pairing) */
	__u8 tma_key[64];	/* zeros behind both, and zeros alone: made without a key */

	__u64 raised;		/* events */
	__u64 delivered;	/* of these in the magazine; also the last number given */
	__u64 refused[TSEM_REFUSED_MAX];
	__u64 refused_types[TSEM_HOOK_MAX];	/* the same events, by enum tsem_hook */
	__u64 cut;		/* delivered with a text that is not complete */
	__u64 waited;		/* sleepable hooks that had to wait for room */
	__u64 tasks;		/* tasks in it now */
	__u64 tasks_lost;	/* tasks that should be in it, but no room for their state */
	__u64 execs_lost;	/* TASK_IDs that cannot be known: no room for the exec record */
	__u64 creations_lost;	/* created files without instance: map `creations` full */
	__u64 digests_ima;	/* file digests taken in the hook */
	__u64 digests_cached;	/* of an inode whose digest was known */
	__u64 digests_wanted;	/* left to the daemon */
	__u64 digests_volatile;	/* of content that changes without a trace */
	__u64 inner;		/* what filesystems did for themselves; no events */
	__u64 verdicts[TSEM_VERDICT_MAX];	/* that tasks have found when they waited or looked */
	__u64 logged;		/* events of untrusted tasks */
	__u64 denied;		/* events that did not happen for want of trust */
	__u64 late;		/* releases by tsem-bpf release for an event that was over */
	__u64 claimed;		/* bytes of the ring: where it ends when all under way is put */
	struct tsem_share shares[TSEM_SHARES];
};

/* Value of map `tasks`, from fork (or from its adoption) until it is freed. */
struct tsem_task {
	__u64 namespace;
	__u32 ns_index;
	__u32 slot;		/* where it waits for verdicts; 0: nowhere */
	__u16 untrusted;	/* since its fork: its parent was */
	__u16 left;		/* no longer counted in the namespace */
	__u32 pad;
	__u64 tnum;
	__u64 ttd;
	__u64 p_ttd;
	__u64 identity;
	__u64 p_identity;
	/* The inode_create under way, until inode_init_security of the new inode. */
	__u64 create_dir;	/* address of the directory's inode, never followed; 0: none */
	__u64 create_name;	/* hash and length of the name (struct qstr) */
	__u64 create_instance;
};

/* Value of map `keepers`. */
struct tsem_keeper {
	__u64 process;		/* address of what its threads share (struct signal_struct) */
	__u32 times;		/* it has registered, and not left */
	__u32 pad;
};

/* What task_caller says of a thread. */
struct tsem_caller {
	__u64 address;		/* of the task, for task_enter */
	__u64 namespace;	/* 0: none, or that of the host */
	__u32 tgid;		/* in the initial pid namespace, as all here */
	__u32 parent;		/* thread group of its parent, whoever traces it */
	__u32 mac_admin;	/* 1: it has CAP_MAC_ADMIN in the initial user namespace */
	__u32 io_worker;	/* 1: it is none that runs programs, but makes requests for io_uring */
};

/* What task_enter is told. */
struct tsem_entry {
	__u32 index;		/* of the namespace */
	__u32 pad;
	__u64 address;		/* of the task that joins; 0: the one that runs it */
};

enum tsem_trust {
	TSEM_TRUST_TRUSTED = 1,	/* TSEM's flag values */
	TSEM_TRUST_UNTRUSTED = 2,
};

/*
 * Value of map `slots`, one cache line: whether a task is trusted, and what is decided
 * about its latest event. A thread takes a slot when it joins a namespace with an agent
 * and has it until it exits. The ticket counts the events that could be decided in this
 * slot, over all owners, and is never set back: slot and ticket name one event for ever. The
 * task writes the word before its record is in the magazine; from there on it only
 * changes by one compare-and-swap, from TSEM_VERDICT_NONE to the verdict. Trust only ever
 * goes from trusted to untrusted, in one step, by the task or by the keeper; the task
 * number in it keeps a late keeper from distrusting the next owner. Slot 0 is nobody's, so
 * that 0 can mean that; its word says TSEM_VERDICT_UNASKED from the beginning.
 */
struct tsem_slot {
	__u64 word;		/* ticket << 8 | enum tsem_verdict */
	__u64 owner;		/* address of the task; 0: free */
	__u64 trust;		/* tnum << 8 | bits of enum tsem_trust */
	/* For whoever asks who waits; written before the word. */
	__u64 time;		/* of the event: CLOCK_BOOTTIME, ns */
	__u32 tid;		/* in the initial pid namespace */
	__u16 hook;		/* enum tsem_hook */
	__u16 ns_index;
	__u64 namespace;
	__u64 pad[2];
};

/*
 * A waiting task asks the gate for an extended attribute of as many bytes as the number
 * of its slot; there are no longer ones (XATTR_SIZE_MAX).
 */
#define TSEM_SLOTS_MAX 65536

/* Key of a namespace's map in `creations`: who creates in which directory. */
struct tsem_creation {
	__u64 identity;
	__u64 ino;
	__u32 dev;
	__u32 generation;
};

#endif
