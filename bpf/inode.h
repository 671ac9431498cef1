/* SPDX-License-Identifier: GPL-2.0-only */
/* The INODE cell, and who created an inode. */
#ifndef TSEM_INODE_H
#define TSEM_INODE_H

#include "cells.h"

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define S_ISREG(mode) (((mode) & S_IFMT) == S_IFREG)
#define S_ISDIR(mode) (((mode) & S_IFMT) == S_IFDIR)

/* i_ctime_nsec carries a flag since 6.13: somebody asked for it (I_CTIME_QUERIED). */
#define CTIME_NSEC_MASK 0x3fffffff

static __always_inline void inode_ctime(const struct inode *inode, __u64 *sec, __u64 *nsec)
{
	const struct inode___6_6 *i66 = (const void *)inode;
	const struct inode___6_1 *i61 = (const void *)inode;

	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		*sec = inode->i_ctime_sec;
		*nsec = inode->i_ctime_nsec & CTIME_NSEC_MASK;
	} else if (bpf_core_field_exists(i66->__i_ctime)) {
		*sec = i66->__i_ctime.tv_sec;
		*nsec = i66->__i_ctime.tv_nsec & CTIME_NSEC_MASK;
	} else {
		*sec = i61->i_ctime.tv_sec;
		*nsec = i61->i_ctime.tv_nsec & CTIME_NSEC_MASK;
	}
}

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

/* Who created the inode, as a path says it. */
struct created {
	__u64 set;
	__u64 owner;
	__u64 instance;
};

/* Who created the inode, if a modeled task did. */
static __always_inline struct creator *creator_of(struct inode *inode)
{
	__u64 key = (__u64)inode;

	return bpf_map_lookup_elem(&creators, &key);
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
	__u32 index;
	void *map;

	if (!t || !ns || !whose)
		return 0;
	/* 6.1 takes no key for a map from the memory of an argument. */
	key = *whose;
	index = t->ns_index;
	map = bpf_map_lookup_elem(&creations, &index);
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
		.dev = VIEW(struct inode, dir)->i_sb->s_dev,
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
