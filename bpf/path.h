/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Path names. A program may not take the locks that d_path takes, and the
 * helper bpf_d_path names a file as its task sees it from a chroot, with
 * " (deleted)" behind it. So the names are put together here, from the last
 * component to the first, and again if a rename or a mount came in between.
 */
#ifndef TSEM_PATH_H
#define TSEM_PATH_H

#include "inode.h"

/* Depth: PATH_MAX holds 2048 components, each mount on the way is one step more. */
#define PATH_STEPS 4096

/* A path that changes under the walk this often is taken as it is. */
#define PATH_TRIES 4

enum walk_end {
	WALK_START = 0,
	WALK_GOING = 1,
	WALK_ROOT = 2,		/* arrived */
	WALK_NOWHERE = 3,	/* no way to a root, or too long */
};

struct walk_context {
	struct buffer *buf;
};

/*
 * Addresses of rename_lock (fs/dcache.c) and mount_lock (fs/namespace.c), the
 * sequence locks that d_path obeys too. A seqlock begins with its count. Without the
 * addresses a path is walked once.
 */
volatile __u64 rename_lock_address, mount_lock_address;

SHARED __u64 tree_sequence(void)
{
	__u32 renames = 0, mounts = 0;

	bpf_probe_read_kernel(&renames, sizeof(renames), (void *)rename_lock_address);
	bpf_probe_read_kernel(&mounts, sizeof(mounts), (void *)mount_lock_address);
	return (__u64)renames << 32 | mounts;
}

static __always_inline struct mount *mount_of(__u64 mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* Puts "/name" before what is there. */
static __always_inline bool walk_prepend(struct buffer *buf, __u64 dentry)
{
	struct qstr name = FIELD(struct dentry, dentry, d_name);
	__u32 length = name.hash_len >> 32, pos = buf->walk.pos;

	/* NAME_MAX of the kernel; a longer one is a torn read. */
	if (length > 255 || length + 1 > pos)
		return false;
	pos -= length;
	bpf_probe_read_kernel(&buf->text[pos & (TSEM_TEXT_MAX - 1)], length & 255, name.name);
	pos--;
	buf->text[pos & (TSEM_TEXT_MAX - 1)] = '/';
	buf->walk.pos = pos;
	return true;
}

/*
 * One step up; fs/d_path.c, __prepend_path and __dentry_path. All state is in the
 * buffer, where the verifier does not follow it: each step looks the same to it.
 */
static long walk_step(__u32 i, struct walk_context *context)
{
	struct walk *w = &context->buf->walk;
	__u64 dentry, parent, mnt, up;

	if (w->end == WALK_START) {
		w->sequence = tree_sequence();
		w->dentry = w->first_dentry;
		mnt = w->first_mnt;
		w->mnt = mnt ? (__u64)mount_of(mnt) : 0;
		w->mnt_root = mnt ? (__u64)FIELD(struct vfsmount, mnt, mnt_root) : 0;
		w->pos = TSEM_TEXT_MAX;
		w->end = WALK_GOING;
	}
	dentry = w->dentry;
	mnt = w->mnt;
	if (mnt && dentry == w->mnt_root) {
		up = (__u64)FIELD(struct mount, mnt, mnt_parent);
		if (up != mnt) {
			w->dentry = (__u64)FIELD(struct mount, mnt, mnt_mountpoint);
			w->mnt = up;
			w->mnt_root = (__u64)FIELD(struct mount, up, mnt.mnt_root);
			return 0;
		}
		w->end = WALK_ROOT;
	} else {
		parent = (__u64)FIELD(struct dentry, dentry, d_parent);
		if (parent == dentry) {
			w->end = mnt ? WALK_NOWHERE : WALK_ROOT;
		} else if (walk_prepend(context->buf, dentry)) {
			w->dentry = parent;
			return 0;
		} else {
			w->end = WALK_NOWHERE;
		}
	}
	if (tree_sequence() == w->sequence || ++w->tries >= PATH_TRIES)
		return 1;
	w->end = WALK_START;
	return 0;
}

/* include/linux/fs.h: of filesystems that the kernel mounts for itself, and never at a path. */
#define SB_KERNMOUNT (1UL << 22)
#define SB_NOUSER (1UL << 31)

/*
 * A mount that a filesystem made for itself of one that has a place (clone_private_mount):
 * overlayfs has one of each layer. It is in no mount namespace, MNT_NS_INTERNAL, but its
 * filesystem is not the kernel's own, like that of pipes or memfds.
 */
static __always_inline bool mount_is_private(const struct vfsmount *mnt)
{
	__u64 ns = (__u64)BPF_CORE_READ(mount_of((__u64)mnt), mnt_ns);

	return ns >= (__u64)-4095 && !(BPF_CORE_READ(mnt, mnt_sb, s_flags) & (SB_KERNMOUNT | SB_NOUSER));
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

/*
 * Puts the name into buf->text, from walk.pos to its end at TSEM_TEXT_MAX. mnt is 0
 * for the dentry style. Returns the length of the name; 0: there is none.
 */
SHARED __u32 walk_path(struct buffer *buf, __u64 dentry, __u64 mnt)
{
	struct walk_context context = { .buf = buf };
	struct walk *w;

	if (!buf)
		return 0;
	w = &buf->walk;
	w->first_dentry = dentry;
	w->first_mnt = mnt;
	w->tries = 0;
	w->pos = TSEM_TEXT_MAX;
	w->end = WALK_START;
	bpf_loop(PATH_TRIES * PATH_STEPS, walk_step, &context, 0);
	mnt = w->mnt;
	if (w->end != WALK_ROOT || (mnt && !mount_is_attached((void *)mnt)))
		return 0;
	if (w->pos == TSEM_TEXT_MAX) {
		w->pos--;
		buf->text[TSEM_TEXT_MAX - 1] = '/';
	}
	return TSEM_TEXT_MAX - w->pos;
}

/* The filesystems whose files have a name generator, by superblock magic. */
#define PIPEFS_MAGIC 0x50495045
#define SOCKFS_MAGIC 0x534f434b
#define ANON_INODE_FS_MAGIC 0x09041934
#define PID_FS_MAGIC 0x50494446
#define NSFS_MAGIC 0x6e736673

/* The text of a path without device, NUL terminated; returns its length. */
SHARED __u32 synthetic_path(struct buffer *buf, __u64 address, __u64 magic)
{
	struct dentry *dentry = (void *)address;
	const char *name = "nodev";
	struct ns_common *ns;
	long length;

	if (!buf)
		return 0;
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

static long root_step(__u32 i, struct walk_context *context)
{
	struct walk *w = &context->buf->walk;
	__u64 mnt = w->mnt, up;

	if (w->dentry != (__u64)FIELD(struct mount, mnt, mnt.mnt_root))
		return 1;
	up = (__u64)FIELD(struct mount, mnt, mnt_parent);
	if (up == mnt) {
		w->end = WALK_ROOT;
		return 1;
	}
	w->dentry = (__u64)FIELD(struct mount, mnt, mnt_mountpoint);
	w->mnt = up;
	return 0;
}

/* Where the current task sees paths from: an enum tsem_path_type. */
SHARED __u32 path_type(struct buffer *buf)
{
	const struct task_struct *task = this_task();
	struct walk_context context = { .buf = buf };
	struct walk *w;

	/* A task that is being reaped has neither any more. */
	if (!buf || !task->fs || !task->nsproxy)
		return TSEM_PATH_TYPE_NAMESPACE;
	w = &buf->walk;
	w->dentry = (__u64)task->fs->root.dentry;
	w->mnt = (__u64)task->fs->root.mnt;
	w->mnt = (__u64)mount_of(w->mnt);
	w->end = WALK_GOING;
	/* The root is mounted over the rootfs, seldom over more than that. */
	bpf_loop(4, root_step, &context, 0);
	if (w->end != WALK_ROOT)
		return TSEM_PATH_TYPE_CHROOT;
	return task->nsproxy->mnt_ns->ns.inum == mnt_ns_initial ? TSEM_PATH_TYPE_ROOT :
								  TSEM_PATH_TYPE_NAMESPACE;
}

static __always_inline bool can_rename(__u64 sb)
{
	__u64 root = (__u64)FIELD(struct super_block, sb, s_root);
	__u64 inode = (__u64)FIELD(struct dentry, root, d_inode);
	__u64 operations = (__u64)FIELD(struct inode, inode, i_op);

	return FIELD(struct inode_operations, operations, rename);
}

/*
 * A PATH cell. In the dentry style mnt is 0, else `type` says where it is seen from.
 * Returns true if it needs a synthetic text.
 */
SHARED int describe_path(struct buffer *buf, __u64 dentry, __u64 mnt, __u32 type,
			 const struct created *created)
{
	__u32 start, length, dev;
	struct tsem_path *p;
	__u64 sb;

	if (!buf || !created)
		return false;
	start = buf->used;
	p = cell_in(buf, TSEM_CELL_PATH, sizeof(*p));
	if (!p)
		return false;
	sb = (__u64)FIELD(struct dentry, dentry, d_sb);
	dev = FIELD(struct super_block, sb, s_dev);
	p->dev_major = p->dev_minor = 0;
	p->owner = created->owner;
	p->instance = created->instance;
	p->flags = created->set ? TSEM_PATH_CREATED : 0;
	p->type = type;
	/* semantics 3.2 of TSEM: a real device, or a filesystem one can rename in. */
	if (dev >> 20 || can_rename(sb)) {
		p->flags |= TSEM_PATH_DEV;
		p->dev_major = dev >> 20;
		p->dev_minor = dev & 0xfffff;
	} else if (mnt) {
		return true;
	}
	length = walk_path(buf, dentry, mnt);
	if (length) {
		text_append(buf, start, sizeof(*p), TSEM_TEXT_MAX - length, length);
		return false;
	}
	p->flags |= TSEM_PATH_NAME_ONLY;
	length = FIELD(struct dentry, dentry, d_name.hash_len) >> 32;
	cell_append(buf, start, sizeof(*p),
		    address_of(buf, FIELD(struct dentry, dentry, d_name.name)), length & 255);
	return false;
}

/* A PATH cell with what only names below a mount need. */
SHARED int describe_place(struct buffer *buf, __u64 dentry, __u64 mnt,
			  const struct created *created)
{
	__u32 start, length;
	__u64 sb;

	if (!buf || !created)
		return 0;
	start = buf->used;
	if (!describe_path(buf, dentry, mnt, path_type(buf), created))
		return 0;
	sb = (__u64)FIELD(struct dentry, dentry, d_sb);
	length = synthetic_path(buf, dentry, FIELD(struct super_block, sb, s_magic));
	text_append(buf, start, sizeof(struct tsem_path), 0, length);
	return 0;
}

static __always_inline void cell_path(struct event *e, const struct path *path,
				      const struct created *created)
{
	__u64 dentry = address_of(e->buf, path->dentry);

	describe_place(e->buf, dentry, address_of(e->buf, path->mnt), created);
}

#endif
