/* SPDX-License-Identifier: GPL-2.0-only */
/* Cells: how they are added, and those that need nothing but a look at a structure. */
#ifndef TSEM_CELLS_H
#define TSEM_CELLS_H

#include "event.h"

/* Adds a cell; returns where in buf->cells its payload begins, or more than CELLS_ROOM. */
SHARED __u64 cell_add(struct buffer *buf, __u16 type, __u32 size)
{
	struct tsem_cell *c;
	__u64 off;

	if (!buf)
		return -1;
	off = buf->used;
	/* The compiler must not read `used` again: the check below is for this value. */
	barrier_var(off);
	if (off > CELLS_ROOM - sizeof(*c) || off + sizeof(*c) + size > CELLS_ROOM) {
		buf->failed = 1;
		return -1;
	}
	c = (void *)&buf->cells[off];
	c->type = type;
	c->flags = 0;
	c->size = size;
	buf->used = off + sizeof(*c) + ((size + 7) & ~7u);
	buf->head.cells++;
	return off + sizeof(*c);
}

/* A cell of a type and payload size; NULL (and the event fails) if it has no room. */
static __always_inline void *cell_in(struct buffer *buf, __u16 type, __u32 size)
{
	__u64 off = cell_add(buf, type, size);

	barrier_var(off);
	return off > CELLS_ROOM - size ? NULL : &buf->cells[off];
}

static __always_inline void cell_absent(struct event *e)
{
	cell_add(e->buf, TSEM_CELL_ABSENT, 0);
}

SHARED int cell_number(struct buffer *buf, __u16 type, __u64 value)
{
	__u64 *v;

	if (!buf)
		return 0;
	v = cell_in(buf, type, sizeof(*v));
	if (v)
		*v = value;
	return 0;
}

static __always_inline void cell_scalar(struct event *e, __u64 value)
{
	cell_number(e->buf, TSEM_CELL_SCALAR, value);
}

/* The TASK_ID of a task; that of one without state is zeros. */
static __always_inline void cell_task(struct event *e, const struct tsem_task *task)
{
	cell_number(e->buf, TSEM_CELL_TASK, task ? task->identity : 0);
}

/* The same of a task of the kernel. */
static __always_inline void cell_task_at(struct event *e, const struct task_struct *task)
{
	cell_task(e, task_at(number_of(task)));
}

SHARED int describe_creds(struct buffer *buf, __u64 cred)
{
	struct tsem_creds *c;

	if (!buf)
		return 0;
	c = cell_in(buf, TSEM_CELL_CREDS, sizeof(*c));
	if (!c)
		return 0;
	fill_creds(c, LOOK(buf, struct cred, cred));
	if (buf->user_ns)
		map_creds(buf, c);
	return 0;
}

static __always_inline void cell_creds(struct event *e, const struct cred *cred)
{
	describe_creds(e->buf, address_of(e->buf, cred));
}

/*
 * Appends kernel memory to the cell that was begun last: `fixed` is the size of
 * what its payload holds already. What does not fit is cut, and marked.
 */
SHARED int cell_append(struct buffer *buf, __u32 start, __u32 fixed, __u64 from, __u64 length)
{
	struct tsem_cell *c;
	__u64 off, len;

	if (!buf)
		return 0;
	off = start;
	barrier_var(off);
	if (off > CELLS_ROOM - sizeof(*c) - 64 || fixed > 64)
		goto failed;
	c = (void *)&buf->cells[off];
	len = length;
	barrier_var(len);
	if (len > TSEM_TEXT_MAX) {
		len = TSEM_TEXT_MAX;
		c->flags = TSEM_CELL_CUT;
		buf->head.cut++;
	}
	off += sizeof(*c) + fixed;
	if (off + len > CELLS_ROOM - 8)
		goto failed;
	/* The zeros of the padding, before the bytes that may reach into them. */
	((__u64 *)buf->cells)[(off + len) / 8] = 0;
	/* No bytes need no address: an empty value of an attribute comes as NULL. */
	if (len && bpf_probe_read_kernel(&buf->cells[off], len, (void *)from))
		goto failed;
	c->size = fixed + len;
	buf->used = start + sizeof(*c) + ((fixed + len + 7) & ~7u);
	return 0;
failed:
	buf->failed = 1;
	return 0;
}

/* A cell of nothing but bytes of the kernel. */
SHARED int describe_bytes(struct buffer *buf, __u16 type, __u64 from, __u64 length)
{
	__u32 start;

	if (!buf)
		return 0;
	start = buf->used;
	if (cell_add(buf, type, 0) < CELLS_ROOM)
		cell_append(buf, start, 0, from, length);
	return 0;
}

static __always_inline void cell_bytes(struct event *e, __u16 type, __u64 from, __u64 length)
{
	describe_bytes(e->buf, type, from, length);
}

/*
 * A byte string of up to TSEM_VALUE_MAX; one in an event, which event_end_with_value
 * ends. What has no room in the buffer goes into the magazine when the event ends: it
 * must stay until then where it is.
 */
static __always_inline void cell_value(struct event *e, __u64 from, __u64 length)
{
	struct buffer *buf = e->buf;
	struct tsem_cell *c;

	if (length <= TSEM_TEXT_MAX) {
		cell_bytes(e, TSEM_CELL_BYTES, from, length);
		return;
	}
	c = cell_in(buf, TSEM_CELL_BYTES, 0);
	if (!c)
		return;
	c--;
	if (length > TSEM_VALUE_MAX) {
		length = TSEM_VALUE_MAX;
		c->flags = TSEM_CELL_CUT;
		buf->head.cut++;
	}
	c->size = length;
	buf->value = from;
	buf->value_size = length;
	buf->value_at = buf->used;
}

/* What is in buf->text, from `pos` on. */
static __always_inline void text_append(struct buffer *buf, __u32 start, __u32 fixed, __u32 pos,
					__u32 length)
{
	cell_append(buf, start, fixed, address_of(buf, &buf->text[pos & (TSEM_TEXT_MAX - 1)]), length);
}

SHARED int describe_string(struct buffer *buf, __u64 from)
{
	__u32 start;
	long length;

	if (!buf)
		return 0;
	if (!from) {
		cell_add(buf, TSEM_CELL_ABSENT, 0);
		return 0;
	}
	/* One byte and a NUL more than what is not cut. */
	length = bpf_probe_read_kernel_str(buf->text, TSEM_TEXT_MAX + 2, (void *)from);
	if (length <= 0) {
		buf->failed = 1;
		return 0;
	}
	start = buf->used;
	if (cell_add(buf, TSEM_CELL_TEXT, 0) < CELLS_ROOM)
		text_append(buf, start, 0, 0, length - 1);
	return 0;
}

/* A string of the kernel; absent where there is none. */
static __always_inline void cell_string(struct event *e, const char *from)
{
	describe_string(e->buf, address_of(e->buf, from));
}

SHARED int describe_sock(struct buffer *buf, __u32 family, __u32 type, __u32 protocol, __u64 owner)
{
	struct tsem_sock *s;

	if (!buf)
		return 0;
	s = cell_in(buf, TSEM_CELL_SOCK, sizeof(*s));
	if (!s)
		return 0;
	s->family = family;
	s->type = type;
	s->protocol = protocol;
	s->pad = 0;
	s->owner = owner;
	return 0;
}

static __always_inline void cell_sock(struct event *e, struct sock *sk, __u64 owner)
{
	describe_sock(e->buf, sk->__sk_common.skc_family, sk->sk_type, sk->sk_protocol, owner);
}

#define SECTION_SLEEPABLE "lsm.s/"
#define SECTION_ATOMIC "lsm/"
#define ARGS(...) __VA_ARGS__

/*
 * The program of a hook, of which a call is an event where `begun` is true. What follows adds
 * the cells, in the order of the event table. The context is that of the list (hooks.h).
 */
#define EVENT_HOOK(name, context, args, begun, ...)	\
	SEC(SECTION_##context #name)			\
	int BPF_PROG(name, args, int ret)		\
	{						\
		EVENT(e, name, ret);			\
							\
		if (!(begun))				\
			return unraised(&e);		\
		__VA_ARGS__;				\
		return event_end(&e);			\
	}

/* The same of a plain hook: each call is an event. */
#define PLAIN_HOOK(name, context, args, ...)		\
	EVENT_HOOK(name, context, ARGS(args), modeled(&e) && event_begin(&e), __VA_ARGS__)

#endif
