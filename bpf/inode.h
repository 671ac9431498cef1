/* SPDX-License-Identifier: GPL-2.0-only */
/* The cells of inodes, directory entries and files; who created an inode. */
#ifndef TSEM_INODE_H
#define TSEM_INODE_H

#include "digest.h"
#include "path.h"

static __noinline int cell_inode(struct event *e, struct inode *inode)
{
	struct tsem_inode *i = cell(e, TSEM_CELL_INODE, sizeof(*i));
	struct user_namespace *ns = event_user_ns(e);
	struct super_block *sb = inode->i_sb;

	if (!i)
		return 0;
	i->uid = map_uid(ns, inode->i_uid.val);
	i->gid = map_gid(ns, inode->i_gid.val);
	i->mode = inode->i_mode;
	i->s_magic = sb->s_magic;
	i->dev_major = sb->s_dev >> 20;
	i->dev_minor = sb->s_dev & 0xfffff;
	i->ino = inode->i_ino;
	i->size = inode->i_size;
	inode_ctime(inode, &i->ctime_sec, &i->ctime_nsec);
	bpf_probe_read_kernel(i->s_id, sizeof(i->s_id), &sb->s_id);
	bpf_probe_read_kernel(i->s_uuid, sizeof(i->s_uuid), &sb->s_uuid);
	return 0;
}

/* A FILE: its path names the creator only within the creator's namespace. */
static __noinline int cell_file(struct event *e, struct file *file, const struct digest *d)
{
	struct tsem_file *f = cell(e, TSEM_CELL_FILE, sizeof(*f));

	if (!f)
		return 0;
	f->f_flags = file->f_flags;
	f->digest_state = d->state;
	__builtin_memcpy(f->digest, d->sha256, sizeof(f->digest));
	cell_inode(e, file->f_inode);
	cell_path(e, file->f_path.dentry, file->f_path.mnt, &d->created);
	return 0;
}

/*
 * A DENTRY: its path names the creator whatever the namespace, and as owner
 * the task that acts, or with creator_owns (unlink) the creator.
 * mnt is NULL but for inode_getattr.
 */
static __noinline int cell_dentry(struct event *e, struct dentry *dentry, struct vfsmount *mnt,
				  bool creator_owns)
{
	struct inode *inode = dentry->d_inode;
	struct created created = {};
	struct creator *c;

	/*
	 * A name that does not exist yet has no inode. Kernels before 6.18 take
	 * d_inode for never NULL and remove a test of it; reading it as a number
	 * makes one that stays.
	 */
	if (!inode || !BPF_CORE_READ(dentry, d_inode)) {
		cell_absent(e);
	} else {
		cell_inode(e, inode);
		c = creator_of(inode);
		if (c) {
			created.set = true;
			created.owner = creator_owns ? c->owner : e->task->identity;
			created.instance = c->instance;
		}
	}
	cell_path(e, dentry, mnt, &created);
	return 0;
}

/* The directory entry of an inode that is about to be created. */
static __noinline int cell_new_dentry(struct event *e, struct dentry *dentry)
{
	struct created created = {
		.set = true,
		.owner = e->task->identity,
		.instance = e->task->create_instance,
	};

	cell_absent(e);
	cell_path(e, dentry, NULL, &created);
	return 0;
}

/*
 * Counts a creation and remembers it until inode_init_security of the new
 * inode, which happens in the same thread. The counter belongs to the
 * directory, the namespace and the program that creates.
 */
static __noinline int creation_begin(struct event *e, struct inode *dir, struct dentry *dentry)
{
	struct tsem_creation key = {
		.identity = e->task->identity,
		.ino = dir->i_ino,
		.dev = dir->i_sb->s_dev,
		.generation = dir->i_generation,
	};
	struct tsem_task *t = e->task;
	__u32 slot = t->ns_slot;
	__u64 *count, none = 0;
	void *map;

	t->create_dir = 0;
	t->create_instance = 0;
	map = bpf_map_lookup_elem(&creations, &slot);
	if (!map)
		return 0;
	count = bpf_map_lookup_elem(map, &key);
	if (!count) {
		bpf_map_update_elem(map, &key, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(map, &key);
	}
	if (!count) {
		__sync_fetch_and_add(&e->ns->creations_lost, 1);
		return 0;
	}
	t->create_instance = __sync_fetch_and_add(count, 1) + 1;
	t->create_name = BPF_CORE_READ(dentry, d_name.hash_len);
	t->create_dir = (__u64)dir;
	return 0;
}

#endif
