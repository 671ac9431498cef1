/* SPDX-License-Identifier: GPL-2.0-only */
/* The buffers in which records are built, and the claim to one. */
#ifndef TSEM_BUFFER_H
#define TSEM_BUFFER_H

#include "object.h"
#include "record.h"

/*
 * Where records are built. Not per CPU and not per task: a program claims a
 * free one for the time it describes, so that a task that is preempted and an
 * interrupt on top of it each have their own, and a task that does nothing
 * costs nothing. The loader sets the number to BUFFERS_PER_CPU times the CPUs, but
 * to no less than BUFFERS_MIN: with few CPUs it is soon that as many tasks were
 * preempted while they described (with 2 CPUs and 100 namespaces, 8 were too few).
 */
#define BUFFERS_PER_CPU 4
#define BUFFERS_MIN 32

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

struct pid_search {
	__u64 entry;		/* of the tree */
	__u32 number;
	__u32 pad;
};

struct acl {
	__u64 entries;
	__u32 count;
	__u32 pad;
};

struct buffer {
	__u32 busy;
	__u32 used;		/* bytes of cells */
	__u32 ns_index;		/* of the event's namespace */
	__u32 failed;		/* the event could not be described */
	__u64 address;		/* see address_of */
	__u64 user_ns;		/* whose ids are wanted; 0: the initial one */
	__u64 value;		/* bytes that have no room here (see cell_value) */
	__u32 value_size;	/* 0: there are none */
	__u32 value_at;		/* where in the cells they belong */
	struct id_search search;
	struct pid_search pid_search;
	struct acl acl;
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

/* Set by the loader, which finds here what it is at least. */
const volatile __u32 buffers_count = BUFFERS_MIN;

/* The index of a buffer that is ours now, or NO_BUFFER. */
#define NO_BUFFER ((__u32)-1)

static long claim_step(__u32 i, __u32 *claimed)
{
	__u32 index = bpf_get_smp_processor_id() * BUFFERS_PER_CPU + i;
	struct buffer *buf;

	if (index >= buffers_count)
		index -= buffers_count;
	buf = bpf_map_lookup_elem(&buffers, &index);
	if (!buf || __sync_val_compare_and_swap(&buf->busy, 0, 1))
		return 0;
	*claimed = index;
	return 1;
}

SHARED __u32 buffer_claim(void)
{
	__u32 claimed = NO_BUFFER;

	/* This CPU's first, then its neighbours': as many as there are with few CPUs. */
	bpf_loop(BUFFERS_MIN, claim_step, &claimed, 0);
	return claimed;
}

static __always_inline void buffer_release(struct buffer *buf)
{
	/* An exchange is a full barrier: the next owner sees no half of ours. */
	__sync_lock_test_and_set(&buf->busy, 0);
}

/*
 * The address of a kernel object as the verifier lets a SHARED function have it: what
 * was in memory of a map is a number. To be used before the next call of it.
 */
static __always_inline __u64 address_of(struct buffer *buf, const void *object)
{
	*(volatile __u64 *)&buf->address = (__u64)object;
	return *(volatile __u64 *)&buf->address;
}

#endif
