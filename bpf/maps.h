/* SPDX-License-Identifier: GPL-2.0-only */
/* The maps, and the few values that the loader sets before the programs load. */
#ifndef TSEM_MAPS_H
#define TSEM_MAPS_H

#include "state.h"

/*
 * A function that the verifier looks at once in each program, however often it is
 * called and whatever is known at the call; one that is static it walks again at every
 * call, once for each state that it comes with. The price: arguments are numbers or
 * memory of a known size (which is tested for NULL), the result is a number, and
 * kernel objects come as addresses (address_of), read with FIELD and LOOK.
 */
#define SHARED __attribute__((noinline))

/*
 * Looking at a kernel object through its address. Since 6.2 the verifier takes our
 * word for the type, and a field costs a load; before, it is a call of a helper.
 */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

#define CAST(type, address)								\
	((const type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))

/*
 * One field; of an object of which many are wanted, LOOK is better. A field that is a
 * pointer needs address_of before it can be an argument of a SHARED function. The
 * address is evaluated first: an expression in it is not for the relocation to see.
 */
#define FIELD(type, address, field) ({							\
	typeof(((type *)0)->field) field_;						\
	__u64 at_ = (__u64)(address);							\
	if (bpf_rdonly_cast)								\
		field_ = CAST(type, at_)->field;					\
	else										\
		bpf_core_read(&field_, sizeof(field_), &((type *)at_)->field);		\
	field_; })

/* The object; before 6.2 a copy in the buffer, until the next LOOK. */
#define LOOK(buf, type, address) ({							\
	const type *object_;								\
	if (bpf_rdonly_cast) {								\
		object_ = CAST(type, address);						\
	} else {									\
		bpf_probe_read_kernel((buf)->object, bpf_core_type_size(type),		\
				      (void *)(address));				\
		object_ = (void *)(buf)->object;					\
	}										\
	object_; })

/* Set by the loader; constant for the verifier, which drops what cannot run. */

/*
 * Sleepable hooks are loaded as sleepable programs. Not so below 6.2: there a
 * per-CPU recursion guard skips every other task's program while one sleeps.
 */
const volatile bool may_sleep;
const volatile __u32 mnt_ns_initial;	/* inode number of the initial mount namespace */
const volatile __u64 identity_key[2];	/* random; see identity.h */

/*
 * A slot of `namespaces`: every task that is in no other namespace and is not
 * a keeper's belongs to it. 0: none.
 */
volatile __u32 root_slot;

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
 * Threads of keepers that are about to start the first task of a namespace:
 * thread id to slot. A child forked by such a thread is born in the namespace.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} births SEC(".maps");

/*
 * Thread group ids of keepers, from keeper_register to the exit of the last thread:
 * never modeled, also in a root namespace.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} keepers SEC(".maps");

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
	__u8 sha256[32];
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

/*
 * Where records are built. Not per CPU and not per task: a program claims a
 * free one for the time it describes, so that a task that is preempted and an
 * interrupt on top of it each have their own, and a task that does nothing
 * costs nothing. The loader sets the number to BUFFERS_PER_CPU times the CPUs.
 */
#define BUFFERS_PER_CPU 4

/* FILE, DENTRY and the largest texts of one hook (sb_mount: three) fit. */
#define CELLS_ROOM 16384

/* The largest structure for LOOK, also with the kernel's debugging options. */
#define OBJECT_MAX 2048

/*
 * The state of loops (path.h, cells.h) is in the buffer, not on the stack: what the
 * verifier reads from a map is any number, so that the second round looks like the first.
 */
struct walk {
	__u64 dentry;
	__u64 mnt;		/* 0: dentry style, mounts are invisible */
	__u64 mnt_root;
	__u64 first_dentry;	/* where it starts, and starts again */
	__u64 first_mnt;
	__u64 sequence;
	__u32 tries;
	__u32 pos;		/* where in buf->text the name begins */
	__u32 end;		/* enum walk_end */
	__u32 pad;
};

struct id_search {
	__u64 extents;
	__u32 count;
	__u32 id;
	__u32 found;
	__u32 pad;
};

struct buffer {
	__u32 busy;
	__u32 used;		/* bytes of cells */
	__u32 slot;		/* of the event's namespace */
	__u32 failed;		/* the event could not be described */
	__u64 address;		/* see address_of */
	__u64 user_ns;		/* whose ids are wanted; 0: the initial one */
	__u64 value;		/* bytes that have no room here (see cell_value) */
	__u32 value_size;	/* 0: there are none */
	__u32 value_at;		/* where in the cells they belong */
	struct id_search search;
	struct walk walk;
	struct tsem_record head;
	/* The slack lets the verifier see that a text at any offset stays inside. */
	__u8 cells[CELLS_ROOM + 2 * TSEM_TEXT_MAX];
	__u8 object[OBJECT_MAX];	/* see LOOK */
	__u8 text[2 * TSEM_TEXT_MAX];	/* where a path is put together, from its end */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUFFERS_PER_CPU);
	__type(key, __u32);
	__type(value, struct buffer);
} buffers SEC(".maps");

const volatile __u32 buffers_count = BUFFERS_PER_CPU;

#endif
