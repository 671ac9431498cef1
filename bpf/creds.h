/* SPDX-License-Identifier: GPL-2.0-only */
/* Credentials, and ids as the user namespace sees them that the event wants. */
#ifndef TSEM_CREDS_H
#define TSEM_CREDS_H

#include "buffer.h"
#include "state.h"

/* Are ids wanted as another user namespace than the initial one sees them? buf tells of which. */
static __always_inline bool want_user_ns(struct buffer *buf, const struct tsem_namespace *ns,
					 const struct task_struct *task)
{
	struct user_namespace *user_ns;

	if (!(ns->flags & TSEM_NS_NSREF_CURRENT))
		return false;
	user_ns = task->cred->user_ns;
	if (!user_ns->parent)
		return false;
	buf->user_ns = (__u64)user_ns;
	return true;
}

/* 340 extents is what one id map of the kernel can hold. */
#define ID_EXTENTS_MAX 340

struct id_context {
	struct buffer *buf;
};

static long id_step(__u32 i, struct id_context *context)
{
	struct id_search *s = &context->buf->search;
	struct uid_gid_extent x;

	if (i >= s->count ||
	    bpf_probe_read_kernel(&x, sizeof(x), (void *)(s->extents + i * sizeof(x))))
		return 1;
	if (s->id - x.lower_first < x.count) {
		s->found = x.first + (s->id - x.lower_first);
		return 1;
	}
	return 0;
}

/*
 * kernel/user_namespace.c, map_id_up: the id as the user namespace sees it that the
 * event wants. `map` is the offset of the map in it.
 */
SHARED __u32 map_id(struct buffer *buf, __u32 map, __u32 id)
{
	struct id_context context = { .buf = buf };
	struct id_search *s;
	__u64 m;

	if (!buf || !buf->user_ns)
		return id;
	m = buf->user_ns + map;
	s = &buf->search;
	s->id = id;
	s->found = -1;
	s->count = BPF_CORE_READ((struct uid_gid_map *)m, nr_extents);
	/* Up to five extents stand in the map itself, more behind a pointer. */
	if (s->count <= 5)
		s->extents = m + bpf_core_field_offset(struct uid_gid_map, extent);
	else
		s->extents = (__u64)BPF_CORE_READ((struct uid_gid_map *)m, reverse);
	bpf_loop(ID_EXTENTS_MAX, id_step, &context, 0);
	return s->found;
}

#define map_uid(buf, id) map_id(buf, bpf_core_field_offset(struct user_namespace, uid_map), id)
#define map_gid(buf, id) map_id(buf, bpf_core_field_offset(struct user_namespace, gid_map), id)

/* The ids as the event wants them. */
SHARED int map_creds(struct buffer *buf, struct tsem_creds *c)
{
	if (!buf || !c)
		return 0;
	c->uid = map_uid(buf, c->uid);
	c->euid = map_uid(buf, c->euid);
	c->suid = map_uid(buf, c->suid);
	c->gid = map_gid(buf, c->gid);
	c->egid = map_gid(buf, c->egid);
	c->sgid = map_gid(buf, c->sgid);
	c->fsuid = map_uid(buf, c->fsuid);
	c->fsgid = map_gid(buf, c->fsgid);
	return 0;
}

/* Ids as the initial user namespace sees them. */
static __always_inline void fill_creds(struct tsem_creds *c, const struct cred *cred)
{
	c->uid = cred->uid.val;
	c->euid = cred->euid.val;
	c->suid = cred->suid.val;
	c->gid = cred->gid.val;
	c->egid = cred->egid.val;
	c->sgid = cred->sgid.val;
	c->fsuid = cred->fsuid.val;
	c->fsgid = cred->fsgid.val;
	c->securebits = cred->securebits;
	c->pad = 0;
	/* One u64, or two u32 before 6.3: eight bytes either way. */
	bpf_core_read(&c->capeff, sizeof(c->capeff), &cred->cap_effective);
}

#endif
