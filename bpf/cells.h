/* SPDX-License-Identifier: GPL-2.0-only */
/* The cells that need nothing but a look at a kernel structure. */
#ifndef TSEM_CELLS_H
#define TSEM_CELLS_H

#include "magazine.h"

/* 340 extents is what one id map of the kernel can hold. */
#define ID_EXTENTS_MAX 340

struct id_search {
	struct uid_gid_extent *extents;
	__u32 count;
	__u32 id;
	__u32 found;
};

static long id_step(__u32 i, struct id_search *s)
{
	struct uid_gid_extent x;

	if (i >= s->count || bpf_probe_read_kernel(&x, sizeof(x), &s->extents[i]))
		return 1;
	if (s->id - x.lower_first < x.count) {
		s->found = x.first + (s->id - x.lower_first);
		return 1;
	}
	return 0;
}

/* kernel/user_namespace.c, map_id_up: the id as the user namespace sees it. */
static __noinline __u32 map_id(struct uid_gid_map *map, __u32 id)
{
	struct id_search s = { .id = id, .found = (__u32)-1 };

	if (!map)
		return id;
	s.count = BPF_CORE_READ(map, nr_extents);
	/* Up to five extents stand in the map itself, more behind a pointer. */
	if (s.count <= 5)
		s.extents = (void *)map + bpf_core_field_offset(struct uid_gid_map, extent);
	else
		s.extents = BPF_CORE_READ(map, reverse);
	bpf_loop(ID_EXTENTS_MAX, id_step, &s, 0);
	return s.found;
}

/* The user namespace whose ids the namespace wants; NULL: the initial one. */
static __always_inline struct user_namespace *event_user_ns(const struct event *e)
{
	struct user_namespace *ns;

	if (!(e->ns->flags & TSEM_NS_NSREF_CURRENT))
		return NULL;
	ns = bpf_get_current_task_btf()->cred->user_ns;
	return ns->parent ? ns : NULL;
}

static __always_inline __u32 map_uid(struct user_namespace *ns, __u32 id)
{
	return ns ? map_id(&ns->uid_map, id) : id;
}

static __always_inline __u32 map_gid(struct user_namespace *ns, __u32 id)
{
	return ns ? map_id(&ns->gid_map, id) : id;
}

static __always_inline void fill_creds(struct tsem_creds *c, const struct cred *cred,
				       struct user_namespace *ns)
{
	c->uid = map_uid(ns, cred->uid.val);
	c->euid = map_uid(ns, cred->euid.val);
	c->suid = map_uid(ns, cred->suid.val);
	c->gid = map_gid(ns, cred->gid.val);
	c->egid = map_gid(ns, cred->egid.val);
	c->sgid = map_gid(ns, cred->sgid.val);
	c->fsuid = map_uid(ns, cred->fsuid.val);
	c->fsgid = map_gid(ns, cred->fsgid.val);
	c->capeff = 0;
	/* One u64, or two u32 before 6.3: eight bytes either way. */
	bpf_core_read(&c->capeff, sizeof(c->capeff), &cred->cap_effective);
	c->securebits = cred->securebits;
	c->pad = 0;
}

/* A cell of a type and payload size; NULL (and the event fails) if it has no room. */
static __always_inline void *cell(struct event *e, __u16 type, __u32 size)
{
	struct buffer *buf = e->buf;
	__u32 off = buf->used;
	struct tsem_cell *c;

	/* The compiler must not read `used` again: the check below is for this value. */
	barrier_var(off);
	if (off > CELLS_ROOM - sizeof(*c) - size) {
		e->failed = 1;
		return NULL;
	}
	c = (void *)&buf->cells[off];
	c->type = type;
	c->flags = 0;
	c->size = size;
	buf->used = off + sizeof(*c) + ((size + 7) & ~7u);
	buf->head.cells++;
	return c + 1;
}

static __always_inline void cell_absent(struct event *e)
{
	cell(e, TSEM_CELL_ABSENT, 0);
}

static __always_inline void cell_scalar(struct event *e, __u64 value)
{
	__u64 *v = cell(e, TSEM_CELL_SCALAR, sizeof(*v));

	if (v)
		*v = value;
}

static __always_inline void cell_task(struct event *e, struct task_struct *task)
{
	__u64 *v = cell(e, TSEM_CELL_TASK, sizeof(*v));

	if (v)
		*v = identity_of(task);
}

static __always_inline void cell_creds(struct event *e, const struct cred *cred)
{
	struct tsem_creds *c = cell(e, TSEM_CELL_CREDS, sizeof(*c));

	if (c)
		fill_creds(c, cred, event_user_ns(e));
}

/*
 * Appends kernel memory to the cell that was begun last: `fixed` is the size of
 * what its payload holds already. What does not fit is cut, and marked.
 */
static __always_inline void cell_append(struct event *e, __u32 start, __u32 fixed,
					const void *from, __u64 length)
{
	struct buffer *buf = e->buf;
	__u32 off = start + sizeof(struct tsem_cell) + fixed, len;
	struct tsem_cell *c;

	if (start > CELLS_ROOM - sizeof(*c) - 64)
		goto failed;
	c = (void *)&buf->cells[start];
	if (length > TSEM_TEXT_MAX) {
		length = TSEM_TEXT_MAX;
		c->flags = TSEM_CELL_CUT;
		buf->head.cut++;
	}
	len = length;
	barrier_var(len);
	if (len > TSEM_TEXT_MAX || off + len > CELLS_ROOM - 8)
		goto failed;
	/* The zeros of the padding, before the bytes that may reach into them. */
	((__u64 *)buf->cells)[(off + len) / 8] = 0;
	if (bpf_probe_read_kernel(&buf->cells[off], len, from))
		goto failed;
	c->size = fixed + len;
	buf->used = start + sizeof(*c) + ((fixed + len + 7) & ~7u);
	return;
failed:
	e->failed = 1;
}

static __always_inline void cell_bytes(struct event *e, __u16 type, const void *from, __u64 length)
{
	__u32 start = e->buf->used;

	if (cell(e, type, 0))
		cell_append(e, start, 0, from, length);
}

/* A string of the kernel; absent where there is none. */
static __always_inline void cell_string(struct event *e, const char *from)
{
	long length;

	if (!from) {
		cell_absent(e);
		return;
	}
	length = bpf_probe_read_kernel_str(e->buf->text, TSEM_TEXT_MAX + 1, from);
	if (length <= 0) {
		e->failed = 1;
		return;
	}
	cell_bytes(e, TSEM_CELL_TEXT, e->buf->text, length - 1);
}

static __noinline int cell_sock(struct event *e, struct sock *sk, __u64 owner)
{
	struct tsem_sock *s = cell(e, TSEM_CELL_SOCK, sizeof(*s));

	if (!s)
		return 0;
	s->family = sk->__sk_common.skc_family;
	s->type = sk->sk_type;
	s->protocol = sk->sk_protocol;
	s->pad = 0;
	s->owner = owner;
	return 0;
}

/* Who created the inode, as a path says it. */
struct created {
	bool set;
	__u64 owner;
	__u64 instance;
};

#endif
