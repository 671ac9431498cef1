/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ring of a namespace: records begun and put there.
 *
 * The number is given after the reservation, so numbers have no gap: a record that is
 * in the magazine has one, an event that was refused has none.
 */
#ifndef TSEM_MAGAZINE_H
#define TSEM_MAGAZINE_H

#include "creds.h"
#include "room.h"
#include "wait.h"

/* Counts what will not be in the magazine: an event by its reason, and by its type. */
static __always_inline void lost(struct tsem_namespace *ns, __u16 hook, __u8 kind, enum tsem_refusal why)
{
	if (kind == TSEM_KIND_EXEC) {
		__sync_fetch_and_add(&ns->execs_lost, 1);
		return;
	}
	__sync_fetch_and_add(&ns->refused[why], 1);
	__sync_fetch_and_add(&ns->refused_types[hook % TSEM_HOOK_MAX], 1);
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
	const struct task_struct *task = this_task();
	struct tsem_record *r;
	struct buffer *buf;

	if (!t || !ns)
		return NO_BUFFER;
	if (index == NO_BUFFER)
		index = buffer_claim();
	buf = bpf_map_lookup_elem(&buffers, &index);
	if (!buf) {
		lost(ns, hook, kind, TSEM_REFUSED_NO_BUFFER);
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
	/* Who looks for a verdict all the time needs a reader that is awake, read everything or not. */
	bpf_ringbuf_submit_dynptr(&p.record, polls && buf->head.slot ? BPF_RB_FORCE_WAKEUP : 0);
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
		lost(ns, buf->head.hook, buf->head.kind,
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
