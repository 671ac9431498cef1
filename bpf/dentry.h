/* SPDX-License-Identifier: GPL-2.0-only */
/* DENTRY: the cells of a directory entry, its inode and its path. */
#ifndef TSEM_DENTRY_H
#define TSEM_DENTRY_H

#include "inode.h"
#include "path.h"

/* The inode of a directory entry, and who is to be named for its path. */
static __always_inline void entry_inode(struct buffer *buf, __u64 dentry, bool creator_owns,
					struct created *created)
{
	__u64 inode = address_of(buf, FIELD(struct dentry, dentry, d_inode));
	struct creator *c;

	/* A name that does not exist yet has no inode. */
	if (!inode) {
		cell_add(buf, TSEM_CELL_ABSENT, 0);
		return;
	}
	describe_inode(buf, inode);
	c = bpf_map_lookup_elem(&creators, &inode);
	if (c) {
		created->set = true;
		created->owner = creator_owns ? c->owner : buf->head.identity;
		created->instance = c->instance;
	}
}

SHARED int describe_dentry(struct buffer *buf, __u64 dentry, bool creator_owns)
{
	struct created created = {};

	if (!buf)
		return 0;
	entry_inode(buf, dentry, creator_owns, &created);
	describe_path(buf, dentry, 0, TSEM_PATH_TYPE_NONE, &created);
	return 0;
}

SHARED int describe_mounted_dentry(struct buffer *buf, __u64 dentry, __u64 mnt, bool creator_owns)
{
	struct created created = {};

	if (!buf)
		return 0;
	entry_inode(buf, dentry, creator_owns, &created);
	describe_place(buf, dentry, mnt, &created);
	return 0;
}

/*
 * A DENTRY: its path names the creator whatever the namespace, and as owner
 * the task that acts, or with creator_owns (unlink) the creator.
 */
static __always_inline void cell_dentry(struct event *e, struct dentry *dentry, bool creator_owns)
{
	describe_dentry(e->buf, address_of(e->buf, dentry), creator_owns);
}

/* The same with a path that is seen through mounts. */
static __always_inline void cell_mounted_dentry(struct event *e, const struct path *path)
{
	__u64 dentry = address_of(e->buf, path->dentry);

	describe_mounted_dentry(e->buf, dentry, address_of(e->buf, path->mnt), false);
}

/* That of an entry of a directory, which is seen through the mount of the directory. */
static __always_inline void cell_entry(struct event *e, const struct path *dir,
				       const struct dentry *entry, bool creator_owns)
{
	__u64 dentry = address_of(e->buf, entry);

	describe_mounted_dentry(e->buf, dentry, address_of(e->buf, dir->mnt), creator_owns);
}

/* The inode of a directory. */
static __always_inline void cell_directory(struct event *e, const struct path *dir)
{
	__u64 dentry = address_of(e->buf, dir->dentry);

	describe_inode(e->buf, address_of(e->buf, FIELD(struct dentry, dentry, d_inode)));
}

/* The directory entry of an inode that is about to be created. */
static __always_inline void cell_new_dentry(struct event *e, struct dentry *dentry)
{
	struct created created = {
		.set = true,
		.owner = e->task->identity,
		.instance = e->task->create_instance,
	};

	cell_absent(e);
	describe_path(e->buf, address_of(e->buf, dentry), 0, TSEM_PATH_TYPE_NONE, &created);
}

#endif
