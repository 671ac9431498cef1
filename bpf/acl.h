/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A POSIX access control list as the value of its extended attribute, which is what a
 * program sets and TSEM shows: fs/posix_acl.c, posix_acl_to_xattr. The ids are those of
 * the initial user namespace, as inode_setxattr has them before 6.2.
 */
#ifndef TSEM_ACL_H
#define TSEM_ACL_H

#include "cells.h"

/* include/uapi/linux/posix_acl.h, posix_acl_xattr.h */
#define POSIX_ACL_XATTR_VERSION 2
#define ACL_USER 2
#define ACL_GROUP 8
#define ACL_UNDEFINED_ID ((__u32)-1)

struct posix_acl_xattr_entry {
	__u16 e_tag;
	__u16 e_perm;
	__u32 e_id;
};

/* One more than a text has room for: a longer list is then marked as cut. */
#define ACL_ENTRIES (TSEM_TEXT_MAX / sizeof(struct posix_acl_xattr_entry))

struct acl_context {
	struct buffer *buf;
};

static long acl_step(__u32 i, struct acl_context *context)
{
	struct buffer *buf = context->buf;
	struct posix_acl_xattr_entry *to;
	struct posix_acl_entry entry;

	if (i >= buf->acl.count || i >= ACL_ENTRIES)
		return 1;
	if (bpf_probe_read_kernel(&entry, sizeof(entry),
				  (void *)(buf->acl.entries + i * sizeof(entry)))) {
		buf->failed = 1;
		return 1;
	}
	to = (void *)&buf->text[sizeof(__u32) + i * sizeof(*to)];
	to->e_tag = entry.e_tag;
	to->e_perm = entry.e_perm;
	/* The others have no id, and there is none in the list. */
	to->e_id = entry.e_tag == ACL_USER || entry.e_tag == ACL_GROUP ? entry.e_uid.val :
									 ACL_UNDEFINED_ID;
	return 0;
}

SHARED int describe_acl(struct buffer *buf, __u64 address)
{
	struct acl_context context = { .buf = buf };
	__u32 start;

	if (!buf)
		return 0;
	if (!address) {
		cell_add(buf, TSEM_CELL_BYTES, 0);
		return 0;
	}
	buf->acl.count = FIELD(struct posix_acl, address, a_count);
	buf->acl.entries = address + bpf_core_field_offset(struct posix_acl, a_entries);
	*(__u32 *)buf->text = POSIX_ACL_XATTR_VERSION;
	bpf_loop(ACL_ENTRIES, acl_step, &context, 0);
	start = buf->used;
	if (cell_add(buf, TSEM_CELL_BYTES, 0) < CELLS_ROOM)
		text_append(buf, start, 0, 0,
			    sizeof(__u32) + buf->acl.count * sizeof(struct posix_acl_xattr_entry));
	return 0;
}

static __always_inline void cell_acl(struct event *e, __u64 acl)
{
	describe_acl(e->buf, acl);
}

#endif
