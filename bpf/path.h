/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Path names. A program may not take the locks that d_path takes, and the
 * helper bpf_d_path names a file as its task sees it from a chroot, with
 * " (deleted)" behind it. So the names are put together here, from the last
 * component to the first, and again if a rename or a mount came in between.
 */
#ifndef TSEM_PATH_H
#define TSEM_PATH_H

#include "cells.h"

/* Depth: PATH_MAX holds 2048 components, each mount on the way is one step more. */
#define PATH_STEPS 4096

/* A path that changes under the walk this often is taken as it is. */
#define PATH_TRIES 4

enum walk_end {
	WALK_GOING = 0,
	WALK_ROOT = 1,		/* arrived */
	WALK_NOWHERE = 2,	/* no way to a root, or too long */
};

struct walk {
	struct buffer *buf;
	struct dentry *dentry;
	struct mount *mnt;	/* NULL: dentry style, mounts are invisible */
	struct dentry *mnt_root;
	__u32 pos;		/* where in buf->text the name begins */
	__u32 end;		/* enum walk_end */
};

/*
 * Addresses of rename_lock (fs/dcache.c) and mount_lock (fs/namespace.c), the
 * sequence locks that d_path obeys too. A seqlock begins with its count.
 */
volatile __u64 rename_lock_address, mount_lock_address;

/* Run once by the loader. Without the addresses a path is walked once. */
SEC("syscall")
int find_locks(void *context)
{
	__u64 address;

	if (!bpf_kallsyms_lookup_name("rename_lock", sizeof("rename_lock"), 0, &address))
		rename_lock_address = address;
	if (!bpf_kallsyms_lookup_name("mount_lock", sizeof("mount_lock"), 0, &address))
		mount_lock_address = address;
	return rename_lock_address && mount_lock_address;
}

static __always_inline __u64 tree_sequence(void)
{
	__u32 renames = 0, mounts = 0;

	bpf_probe_read_kernel(&renames, sizeof(renames), (void *)rename_lock_address);
	bpf_probe_read_kernel(&mounts, sizeof(mounts), (void *)mount_lock_address);
	return (__u64)renames << 32 | mounts;
}

/* Puts "/name" before what is there. */
static __always_inline bool walk_prepend(struct walk *w, const struct qstr *name)
{
	__u32 length = name->hash_len >> 32, pos = w->pos;

	/* NAME_MAX of the kernel; a longer one is a torn read. */
	if (length > 255 || length + 1 > pos)
		return false;
	pos -= length;
	bpf_probe_read_kernel(&w->buf->text[pos & (TSEM_TEXT_MAX - 1)], length & 255, name->name);
	pos--;
	w->buf->text[pos & (TSEM_TEXT_MAX - 1)] = '/';
	w->pos = pos;
	return true;
}

/* One step up; fs/d_path.c, __prepend_path and __dentry_path. */
static long walk_step(__u32 i, struct walk *w)
{
	/* Not through w: the relocation would take struct walk for the kernel's. */
	struct dentry *dentry = w->dentry, *parent;
	struct mount *mnt = w->mnt, *up;
	struct qstr name;

	if (mnt && dentry == w->mnt_root) {
		up = BPF_CORE_READ(mnt, mnt_parent);
		if (up == mnt) {
			w->end = WALK_ROOT;
			return 1;
		}
		w->dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
		w->mnt = up;
		w->mnt_root = BPF_CORE_READ(up, mnt.mnt_root);
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry) {
		w->end = mnt ? WALK_NOWHERE : WALK_ROOT;
		return 1;
	}
	bpf_core_read(&name, sizeof(name), &dentry->d_name);
	if (!walk_prepend(w, &name)) {
		w->end = WALK_NOWHERE;
		return 1;
	}
	w->dentry = parent;
	return 0;
}

/* fs/mount.h: is_mounted, and not in the anonymous namespace of an open_tree. */
static __always_inline bool mount_is_attached(struct mount *top)
{
	struct mnt_namespace *ns = BPF_CORE_READ(top, mnt_ns);

	if (!ns || (unsigned long)ns >= (unsigned long)-4095)
		return false;
	if (bpf_core_field_exists(ns->seq))
		return BPF_CORE_READ(ns, seq);
	return BPF_CORE_READ((struct mnt_namespace___7 *)ns, ns.ns_id);
}

static __always_inline struct mount *mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/*
 * Puts the name into buf->text, from w->pos to its end at TSEM_TEXT_MAX.
 * mnt is NULL for the dentry style.
 */
static __noinline int walk_path(struct walk *w, struct dentry *dentry, struct vfsmount *mnt)
{
	__u64 sequence;

	for (int i = 0; i < PATH_TRIES; i++) {
		sequence = tree_sequence();
		w->dentry = dentry;
		w->mnt = mnt ? mount_of(mnt) : NULL;
		w->mnt_root = mnt ? BPF_CORE_READ(mnt, mnt_root) : NULL;
		w->pos = TSEM_TEXT_MAX;
		w->end = WALK_NOWHERE;
		bpf_loop(PATH_STEPS, walk_step, w, 0);
		if (tree_sequence() == sequence)
			break;
	}
	if (w->end == WALK_ROOT && w->mnt && !mount_is_attached(w->mnt))
		w->end = WALK_NOWHERE;
	if (w->end == WALK_ROOT && w->pos == TSEM_TEXT_MAX) {
		w->pos--;
		w->buf->text[TSEM_TEXT_MAX - 1] = '/';
	}
	return 0;
}

/* The filesystems whose files have a name generator, by superblock magic. */
#define PIPEFS_MAGIC 0x50495045
#define SOCKFS_MAGIC 0x534f434b
#define ANON_INODE_FS_MAGIC 0x09041934
#define PID_FS_MAGIC 0x50494446
#define NSFS_MAGIC 0x6e736673

/* The text of a path without device, NUL terminated; returns its length. */
static __noinline int synthetic_path(struct buffer *buf, struct dentry *dentry)
{
	unsigned long magic = dentry->d_sb->s_magic;
	const char *name = "nodev";
	struct ns_common *ns;
	long length;

	if (magic == PIPEFS_MAGIC)
		name = "pipe";
	else if (magic == SOCKFS_MAGIC)
		name = "socket";
	else if (magic == ANON_INODE_FS_MAGIC || magic == PID_FS_MAGIC)
		name = "anon_inode";
	if (magic == NSFS_MAGIC) {
		ns = (struct ns_common *)BPF_CORE_READ(dentry, d_inode, i_private);
		name = BPF_CORE_READ(ns, ops, name);
	}
	length = bpf_probe_read_kernel_str(buf->text, 64, name);
	if (length < 1 || length > 64)
		return 0;
	buf->text[length - 1] = ':';
	buf->text[length] = '/';
	return length + 1;
}

/* semantics 3.2 of TSEM: a real device, or a filesystem one can rename in. */
static __always_inline bool has_device(struct super_block *sb)
{
	return sb->s_dev >> 20 || sb->s_root->d_inode->i_op->rename;
}

/* Is the root directory of the task another one than that of its mount namespace? */
static __always_inline bool in_chroot(struct task_struct *task)
{
	struct dentry *dentry = task->fs->root.dentry;
	struct mount *mnt = mount_of(task->fs->root.mnt), *up;

	/* The root is mounted over the rootfs, seldom over more than that. */
	for (int i = 0; i < 4; i++) {
		if (dentry != BPF_CORE_READ(mnt, mnt.mnt_root))
			return true;
		up = BPF_CORE_READ(mnt, mnt_parent);
		if (up == mnt)
			return false;
		dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
		mnt = up;
	}
	return true;
}

static __always_inline __u32 path_type(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	/* A task that is being reaped has neither any more. */
	if (!task->fs || !task->nsproxy)
		return TSEM_PATH_TYPE_NAMESPACE;
	if (in_chroot(task))
		return TSEM_PATH_TYPE_CHROOT;
	return task->nsproxy->mnt_ns->ns.inum == mnt_ns_initial ? TSEM_PATH_TYPE_ROOT :
								  TSEM_PATH_TYPE_NAMESPACE;
}

/* A PATH cell; mnt is NULL for the dentry style. */
static __noinline int cell_path(struct event *e, struct dentry *dentry, struct vfsmount *mnt,
				const struct created *created)
{
	struct buffer *buf = e->buf;
	struct walk w = { .buf = buf };
	__u32 start = buf->used, length;
	struct super_block *sb = dentry->d_sb;
	struct tsem_path *p = cell(e, TSEM_CELL_PATH, sizeof(*p));
	struct qstr name;

	if (!p)
		return 0;
	p->dev_major = p->dev_minor = 0;
	p->owner = p->instance = 0;
	p->flags = 0;
	p->type = mnt ? path_type() : TSEM_PATH_TYPE_NONE;
	if (has_device(sb)) {
		p->flags |= TSEM_PATH_DEV;
		p->dev_major = sb->s_dev >> 20;
		p->dev_minor = sb->s_dev & 0xfffff;
	}
	if (created->set) {
		p->flags |= TSEM_PATH_CREATED;
		p->owner = created->owner;
		p->instance = created->instance;
	}
	if (mnt && !(p->flags & TSEM_PATH_DEV)) {
		length = synthetic_path(buf, dentry);
		cell_append(e, start, sizeof(*p), buf->text, length);
		return 0;
	}
	walk_path(&w, dentry, mnt);
	if (w.end == WALK_ROOT) {
		length = TSEM_TEXT_MAX - w.pos;
		cell_append(e, start, sizeof(*p), &buf->text[w.pos & (TSEM_TEXT_MAX - 1)], length);
		return 0;
	}
	p->flags |= TSEM_PATH_NAME_ONLY;
	bpf_core_read(&name, sizeof(name), &dentry->d_name);
	cell_append(e, start, sizeof(*p), name.name, (name.hash_len >> 32) & 255);
	return 0;
}

#endif
