/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ring of a namespace: a wait for room in it, records begun and put there.
 *
 * The number is given after the reservation, so numbers have no gap: a record that is
 * in the magazine has one, an event that was refused has none.
 */
#ifndef TSEM_MAGAZINE_H
#define TSEM_MAGAZINE_H

#include "creds.h"
#include "room.h"
#include "task.h"

#define RECORD_MAX (sizeof(struct tsem_record) + CELLS_ROOM + TSEM_VALUE_MAX)

struct wait {
	__u64 id;		/* of the namespace */
	__u64 until;		/* 0: nothing was waited for yet */
	__u64 address;		/* somewhere in the memory of the task */
	__u32 ns_index;		/* of the namespace */
	__u32 buffer;		/* index, once it is ours */
	__u32 over;		/* there is nothing to wait for any more */
	__u32 pad;
};

#define SIGKILL 9

/*
 * A look for a buffer and for room in the magazine beside the reserve, for what the
 * record may become. Says whether the wait is over: with a buffer, or in vain, if the
 * task cannot wait, nobody empties the ring any more, the task shall die, or there is no
 * time left.
 */
SHARED int wait_look(struct wait *w)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tsem_namespace *ns;
	__u32 ns_index;
	__u64 now;
	void *ring;

	if (!w)
		return true;
	ns_index = w->ns_index;
	ns = bpf_map_lookup_elem(&namespaces, &ns_index);
	ring = bpf_map_lookup_elem(&magazines, &ns_index);
	w->over = true;
	if (!ns || !ring)
		return true;
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) <= ns->magazine - ns->reserve - RECORD_MAX)
		w->buffer = buffer_claim();
	/* A task without memory of its own would not give up the CPU. */
	if (w->buffer != NO_BUFFER || !task->mm)
		return true;
	now = bpf_ktime_get_ns();
	if (!w->until) {
		__sync_fetch_and_add(&ns->waited, 1);
		w->until = now + ns->wait;
		w->address = task->mm->arg_start;
	}
	w->over = ns->id != w->id || (ns->flags & (TSEM_NS_CLOSED | TSEM_NS_ORPHANED)) ||
		  (task->pending.signal.sig[0] & 1UL << (SIGKILL - 1)) || now > w->until;
	return w->over;
}

/*
 * Reading a byte of the task's own memory is a place where the kernel gives the CPU to
 * somebody who needs it, for instance to the keeper that empties the ring; nothing else
 * in reach of a program does that.
 */
static long wait_step(__u32 round, struct wait *w)
{
	__u8 byte;

	if (wait_look(w))
		return 1;
	bpf_copy_from_user_task(&byte, sizeof(byte), (void *)w->address,
				bpf_get_current_task_btf(), 0);
	return 0;
}

/* BPF_MAX_LOOPS of the kernel: some seconds of looks. */
#define LOOPS_MAX (1 << 23)

static long wait_steps(__u32 round, struct wait *w)
{
	bpf_loop(LOOPS_MAX, wait_step, w, 0);
	return w->over ? 1 : 0;
}

/*
 * A sleepable hook waits, bounded, until it can be described and put into the
 * magazine without touching the reserve of the atomic hooks. After the time it
 * goes on as one that cannot wait; the reservation in event_end decides.
 *
 * What sleeps is not SHARED: kernels before 6.8 verify every global function that a
 * program has, called or not, and would refuse it in a program that may not sleep.
 */
static __always_inline __u32 wait_for_room(const struct tsem_task *t)
{
	struct wait w = { .id = t->namespace, .ns_index = t->ns_index, .buffer = NO_BUFFER };

	/* More looks than there is time for. */
	if (!wait_look(&w))
		bpf_loop(LOOPS_MAX, wait_steps, &w, 0);
	return w.buffer;
}

/* Counts what will not be in the magazine, by its reason. */
static __always_inline void lost(struct tsem_namespace *ns, __u8 kind, enum tsem_refusal why)
{
	if (kind == TSEM_KIND_EXEC)
		__sync_fetch_and_add(&ns->execs_lost, 1);
	else
		__sync_fetch_and_add(&ns->refused[why], 1);
}

/* What an event of a namespace with an agent is if its task is untrusted. */
SHARED int kind_by_trust(struct tsem_task *t, struct tsem_namespace *ns, __u16 hook, __u8 kind)
{
	__u64 denied;

	if (!t || !ns || kind == TSEM_KIND_EXEC || !(ns->flags & TSEM_NS_EXTERNAL) || !untrusted(t))
		return kind;
	denied = denies(ns, hook);
	__sync_fetch_and_add(&ns->logged, 1);
	__sync_fetch_and_add(&ns->denied, denied);
	return TSEM_KIND_LOG + denied;
}

/* Claims a buffer, if it is not NO_BUFFER, and writes the header of a record there. */
SHARED __u32 record_begin(struct tsem_task *t, struct tsem_namespace *ns, __u32 index, __u16 hook,
			  __u8 kind)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tsem_record *r;
	struct buffer *buf;

	if (!t || !ns)
		return NO_BUFFER;
	if (index == NO_BUFFER)
		index = buffer_claim();
	buf = bpf_map_lookup_elem(&buffers, &index);
	if (!buf) {
		lost(ns, kind, TSEM_REFUSED_NO_BUFFER);
		return NO_BUFFER;
	}
	buf->used = 0;
	buf->ns_index = t->ns_index;
	buf->failed = 0;
	buf->value_size = 0;
	buf->user_ns = 0;
	r = &buf->head;
	r->version = TSEM_RECORD_VERSION;
	r->hook = hook;
	r->kind = kind_by_trust(t, ns, hook, kind);
	r->cells = 0;
	r->cut = 0;
	r->share = TSEM_SHARE_NONE;
	r->number = 0;
	r->namespace = t->namespace;
	r->time = bpf_ktime_get_boot_ns();
	r->slot = 0;
	r->tid = task->pid;
	r->tgid = task->tgid;
	r->tnum = t->tnum;
	r->ttd = t->ttd;
	r->p_ttd = t->p_ttd;
	r->identity = t->identity;
	r->p_identity = t->p_identity;
	bpf_get_current_comm(r->comm, sizeof(r->comm));
	fill_creds(&r->creds, task->cred);
	/* Last: the verifier walks what follows once for each way in which this may end. */
	if (want_user_ns(buf, ns, task))
		map_creds(buf, &r->creds);
	return index;
}

/* A record that has room in the magazine. */
struct place {
	struct bpf_dynptr record;
	struct buffer *buf;
};

/*
 * One piece of a large value, from where it is into the magazine. By way of the text,
 * which nobody needs any more: a program cannot read into a dynptr before 6.10.
 */
static long value_step(__u32 i, struct place *p)
{
	struct buffer *buf = p->buf;
	__u64 done = (__u64)i * TSEM_TEXT_MAX, length = buf->value_size - done;

	if (done >= buf->value_size)
		return 1;
	barrier_var(length);
	if (length > TSEM_TEXT_MAX)
		length = TSEM_TEXT_MAX;
	/* The zeros of the padding, before the bytes that may reach into them. */
	((__u64 *)buf->text)[length / 8] = 0;
	if (bpf_probe_read_kernel(buf->text, length, (void *)(buf->value + done))) {
		buf->failed = 1;
		return 1;
	}
	bpf_dynptr_write(&p->record, sizeof(struct tsem_record) + buf->value_at + done, buf->text,
			 (length + 7) & ~7ULL, 0);
	return 0;
}

/* The value, which takes `size` bytes with its padding, and the cells behind it. */
static __always_inline void value_put(struct place *p, __u32 size)
{
	struct buffer *buf = p->buf;
	__u64 at = buf->value_at, rest = buf->used - at;

	bpf_loop(TSEM_VALUE_MAX / TSEM_TEXT_MAX, value_step, p, 0);
	barrier_var(at);
	barrier_var(rest);
	if (at > CELLS_ROOM || rest > TSEM_TEXT_MAX) {
		buf->failed = 1;
		return;
	}
	bpf_dynptr_write(&p->record, sizeof(struct tsem_record) + at + size, &buf->cells[at], rest, 0);
}

/* Only `with_value` looks for a large value, so that other hooks need not be verified with it. */
static __always_inline bool put(struct buffer *buf, struct tsem_namespace *ns, bool with_value)
{
	__u32 length = sizeof(struct tsem_record) + (buf->used & ~7u), ns_index = buf->ns_index;
	__u32 size = with_value ? (buf->value_size + 7) & ~7u : 0;
	__u32 bytes = RING_HEADER + length + size;
	struct place p;
	void *ring;

	if (buf->failed)
		return false;
	ring = bpf_map_lookup_elem(&magazines, &ns_index);
	if (!ring)
		return false;
	if (length > sizeof(struct tsem_record) + CELLS_ROOM)
		return false;
	if (!room_claim(ns, ring, buf->head.share, bytes))
		return false;
	if (bpf_ringbuf_reserve_dynptr(ring, length + size, 0, &p.record)) {
		bpf_ringbuf_discard_dynptr(&p.record, 0);
		room_return(ns, buf->head.share, bytes);
		return false;
	}
	buf->head.length = length + size;
	if (with_value && size) {
		p.buf = buf;
		value_put(&p, size);
		if (buf->failed) {
			bpf_ringbuf_discard_dynptr(&p.record, 0);
			/* It takes room until the daemon passes it by, unseen. */
			share_return(ns, buf->head.share, bytes);
			return false;
		}
		/* What comes before it is left. */
		length = sizeof(struct tsem_record) + (buf->value_at & (CELLS_ROOM - 1));
	}
	if (buf->head.kind != TSEM_KIND_EXEC)
		buf->head.number = __sync_fetch_and_add(&ns->delivered, 1) + 1;
	bpf_dynptr_write(&p.record, 0, &buf->head, length, 0);
	bpf_ringbuf_submit_dynptr(&p.record, 0);
	return true;
}

/*
 * Puts the record into the magazine, and says whether it is there. SHARED, for what
 * follows is then walked once and not for each way in which this may end.
 */
SHARED int magazine_put(struct buffer *buf, struct tsem_namespace *ns)
{
	return buf && ns ? put(buf, ns, false) : false;
}

/* The same with a large value, if there is one. */
SHARED int magazine_put_with_value(struct buffer *buf, struct tsem_namespace *ns)
{
	return buf && ns ? put(buf, ns, true) : false;
}

static __always_inline bool record_finish(struct buffer *buf, struct tsem_namespace *ns,
					  bool with_value)
{
	bool there = with_value ? magazine_put_with_value(buf, ns) : magazine_put(buf, ns);

	if (!there)
		lost(ns, buf->head.kind,
		     buf->failed ? TSEM_REFUSED_DESCRIBE : TSEM_REFUSED_MAGAZINE_FULL);
	else if (buf->head.cut)
		__sync_fetch_and_add(&ns->cut, 1);
	buffer_release(buf);
	return there;
}

SHARED int record_end(struct buffer *buf, struct tsem_namespace *ns)
{
	return buf && ns ? record_finish(buf, ns, false) : false;
}

SHARED int record_end_with_value(struct buffer *buf, struct tsem_namespace *ns)
{
	return buf && ns ? record_finish(buf, ns, true) : false;
}

#endif
