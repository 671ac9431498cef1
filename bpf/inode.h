/* SPDX-License-Identifier: GPL-2.0-only */
/* The cells of inodes, directory entries and files; who created an inode. */
#ifndef TSEM_INODE_H
#define TSEM_INODE_H

#include "digest.h"
#include "path.h"

SHARED int describe_inode(struct buffer *buf, __u64 address)
{
	const struct inode *inode;
	struct super_block *sb;
	struct tsem_inode *i;

	if (!buf)
		return 0;
	i = cell_in(buf, TSEM_CELL_INODE, sizeof(*i));
	if (!i)
		return 0;
	inode = LOOK(buf, struct inode, address);
	i->uid = inode->i_uid.val;
	i->gid = inode->i_gid.val;
	i->mode = inode->i_mode;
	i->ino = inode->i_ino;
	i->size = inode->i_size;
	inode_ctime(inode, &i->ctime_sec, &i->ctime_nsec);
	sb = inode->i_sb;
	if (buf->user_ns) {
		i->uid = map_uid(buf, i->uid);
		i->gid = map_gid(buf, i->gid);
	}
	i->s_magic = FIELD(struct super_block, sb, s_magic);
	i->dev_minor = FIELD(struct super_block, sb, s_dev);
	i->dev_major = i->dev_minor >> 20;
	i->dev_minor &= 0xfffff;
	bpf_core_read(i->s_id, sizeof(i->s_id), &sb->s_id);
	bpf_core_read(i->s_uuid, sizeof(i->s_uuid), &sb->s_uuid);
	return 0;
}

static __always_inline void cell_inode(struct event *e, struct inode *inode)
{
	describe_inode(e->buf, address_of(e->buf, inode));
}

/* A FILE: its path names the creator only within the creator's namespace. */
SHARED int describe_file(struct buffer *buf, __u64 address, const struct digest *d)
{
	struct tsem_file *f;
	__u64 dentry, mnt;

	if (!buf || !d)
		return 0;
	f = cell_in(buf, TSEM_CELL_FILE, sizeof(*f));
	if (!f)
		return 0;
	f->f_flags = FIELD(struct file, address, f_flags);
	f->digest_state = d->state;
	__builtin_memcpy(f->digest, d->sha256, sizeof(f->digest));
	describe_inode(buf, address_of(buf, FIELD(struct file, address, f_inode)));
	dentry = address_of(buf, FIELD(struct file, address, f_path.dentry));
	mnt = address_of(buf, FIELD(struct file, address, f_path.mnt));
	describe_place(buf, dentry, mnt, &d->created);
	return 0;
}

static __always_inline void cell_file(struct event *e, struct file *file, const struct digest *d)
{
	describe_file(e->buf, address_of(e->buf, file), d);
}

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

SHARED int describe_mounted_dentry(struct buffer *buf, __u64 dentry, __u64 mnt)
{
	struct created created = {};

	if (!buf)
		return 0;
	entry_inode(buf, dentry, false, &created);
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

	describe_mounted_dentry(e->buf, dentry, address_of(e->buf, path->mnt));
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

/*
 * Counts a creation and remembers it until inode_init_security of the new
 * inode, which happens in the same thread. The counter belongs to the
 * directory, the namespace and the program that creates.
 */
SHARED int creation_count(struct tsem_task *t, struct tsem_namespace *ns,
			  const struct tsem_creation *whose)
{
	struct tsem_creation key;
	__u64 *count, none = 0;
	__u32 slot;
	void *map;

	if (!t || !ns || !whose)
		return 0;
	/* 6.1 takes no key for a map from the memory of an argument. */
	key = *whose;
	slot = t->ns_slot;
	map = bpf_map_lookup_elem(&creations, &slot);
	if (!map)
		return 0;
	count = bpf_map_lookup_elem(map, &key);
	if (!count) {
		bpf_map_update_elem(map, &key, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(map, &key);
	}
	if (!count) {
		__sync_fetch_and_add(&ns->creations_lost, 1);
		return 0;
	}
	t->create_instance = __sync_fetch_and_add(count, 1) + 1;
	return 1;
}

static __always_inline void creation_begin(struct event *e, struct inode *dir,
					   struct dentry *dentry)
{
	struct tsem_creation key = {
		.identity = e->task->identity,
		.ino = dir->i_ino,
		.dev = dir->i_sb->s_dev,
		.generation = dir->i_generation,
	};
	struct tsem_task *t = e->task;

	t->create_dir = 0;
	t->create_instance = 0;
	if (!creation_count(t, e->ns, &key))
		return;
	t->create_name = BPF_CORE_READ(dentry, d_name.hash_len);
	t->create_dir = (__u64)dir;
}

#endif
