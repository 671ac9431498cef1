/* SPDX-License-Identifier: GPL-2.0-only */
/* The maps, and the few values that the loader sets before the programs load. */
#ifndef TSEM_MAPS_H
#define TSEM_MAPS_H

#include "object.h"
#include "state.h"

/* Set by the loader; constant for the verifier, which drops what cannot run. */

/*
 * By hook: whether its program is one that may sleep. Not so where the kernel forbids
 * it, and nowhere below 6.2: there a per-CPU recursion guard skips every other task's
 * program while one sleeps.
 */
const volatile bool sleepable[TSEM_HOOK_MAX];
/*
 * Whether a task waits for its verdict by looking again and again: where there is no gate to
 * sleep in (verdict.h).
 */
const volatile bool polls;
const volatile __u32 mnt_ns_initial;	/* inode number of the initial mount namespace */
const volatile __u64 identity_key[2];	/* random; see identity.h */

/*
 * An index of `namespaces`: every task that is in no other namespace and is not
 * a keeper's belongs to it. 0: none.
 */
volatile __u32 root_index;

/* Offset of TAI, the only wall clock that a program can read, to UTC; ns. */
volatile __u64 tai_offset;

volatile __u64 last_ttd;	/* execs on this host since the programs are loaded */
volatile __u64 last_tnum;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TSEM_NAMESPACES_MAX);
	__type(key, __u32);
	__type(value, struct tsem_namespace);
} namespaces SEC(".maps");

/* The ring that the array of maps is typed after; its size is no constraint. */
struct magazine {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, TSEM_NAMESPACES_MAX);
	__type(key, __u32);
	__array(values, struct magazine);
} magazines SEC(".maps");

/*
 * Instance counters of created files. Directories times programs that create
 * in them, per namespace; memory is taken as entries come. A namespace that
 * exceeds it is told so in creations_lost.
 */
struct creations_of_namespace {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__uint(key_size, sizeof(struct tsem_creation));
	__uint(value_size, sizeof(__u64));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, TSEM_NAMESPACES_MAX);
	__type(key, __u32);
	__array(values, struct creations_of_namespace);
} creations SEC(".maps");

/*
 * State of modeled tasks, by the address of the task. Not in task storage: before 6.2
 * a look at it fails while another task was preempted on that CPU during its own, and
 * does not say so. The loader sets the number to that of the tasks that there may be;
 * memory is taken as they come.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct tsem_task);
} tasks SEC(".maps");

/*
 * How many of the tasks whose addresses share an index are in `tasks`. Where it is 0,
 * which is nearly everywhere while few tasks are modeled, the map need not be asked.
 */
#define TASK_FILTER_BITS 16
volatile __u32 task_filter[1 << TASK_FILTER_BITS];

/*
 * Threads of keepers that are about to start the first task of a namespace: address of
 * the task to index, until they have started it or are gone. A child forked by such a thread
 * is born in the namespace.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u32);
} births SEC(".maps");

/* Keepers by thread group id, from keeper_register to the exit of the last thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct tsem_keeper);
} keepers SEC(".maps");

/*
 * TASK_IDs by identity. Keepers write here what they have computed from
 * the records of execs, for other keepers and for a successor of theirs; programs do not
 * look. A TASK_ID stays as long as the kernel half. What comes when the map is full, which
 * then takes some 17 MB, is known to its own keeper only, and counted there.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, __u64);
	__type(value, struct tsem_task_id);
} task_ids SEC(".maps");

/* Where verdicts are: 4 MiB, for all namespaces. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TSEM_SLOTS_MAX);
	__type(key, __u32);
	__type(value, struct tsem_slot);
} slots SEC(".maps");

/* What the kernel tells of an inode's content without reading it. */
struct content {
	__u64 i_version;
	__u64 size;
	__u64 ctime_sec;
	__u64 ctime_nsec;
};

/*
 * The digest of an inode, as long as the kernel keeps the inode in memory.
 * `version` guards it: odd while one is being written.
 */
struct inode_digest {
	__u64 version;
	struct content content;	/* the digest belongs to this */
	__u64 sha256[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct inode_digest);
} digests SEC(".maps");

/*
 * Who created an inode, by its address; gone with the inode. Not in inode
 * storage, which the verifier does not let a program look up from a path.
 * The number bounds memory to some 30 MB; a namespace that creates more is
 * told so in creations_lost.
 */
struct creator {
	__u64 namespace;
	__u64 owner;		/* identity of the task */
	__u64 instance;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u64);
	__type(value, struct creator);
} creators SEC(".maps");

/* Identity of the task that created the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} sockets SEC(".maps");

/*
 * Identity of the task that created an IPC object, by the address of its
 * permission structure; gone with the object. 4096 shared memory segments,
 * 32000 semaphore sets and 32000 queues is what one IPC namespace may hold.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} ipc_objects SEC(".maps");

#endif
