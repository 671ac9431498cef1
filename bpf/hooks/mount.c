/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mounts and superblocks; SB is a superblock: DENTRY of its root, type of filesystem, flags.
 *
 * sb_mount: something is mounted: device, PATH of the mount point, filesystem, flags.
 * sb_umount: a mount goes: DENTRY of its root, flags.
 * sb_remount: a superblock gets other options: SB, before that.
 * sb_pivotroot: the root is exchanged: PATH of where the old one goes, PATH of the new one.
 * sb_statfs: statistics of a filesystem: DENTRY that was asked about.
 * move_mount: a mount moves, or gets its first place: PATH of where from and of where to.
 * quotactl: a request about quotas: command, type, id, SB.
 * quota_on: quotas begin: DENTRY of their file.
 */
#include "../dentry.h"

/* A PATH of a mount says nothing of who created the directory, as in TSEM. */
static __always_inline void cell_place(struct event *e, const struct path *path)
{
	cell_path(e, path, &(struct created){});
}

SHARED int describe_superblock(struct buffer *buf, __u64 sb)
{
	__u64 type;

	if (!buf)
		return 0;
	describe_dentry(buf, address_of(buf, FIELD(struct super_block, sb, s_root)), false);
	type = (__u64)FIELD(struct super_block, sb, s_type);
	describe_string(buf, address_of(buf, FIELD(struct file_system_type, type, name)));
	cell_number(buf, TSEM_CELL_SCALAR, FIELD(struct super_block, sb, s_flags));
	return 0;
}

static __always_inline void cell_superblock(struct event *e, const struct super_block *sb)
{
	describe_superblock(e->buf, address_of(e->buf, sb));
}

PLAIN_HOOK(sb_mount, SLEEPABLE,
	   ARGS(const char *dev_name, const struct path *path, const char *type,
		unsigned long flags, void *data),
	   cell_string(&e, dev_name), cell_place(&e, path), cell_string(&e, type),
	   cell_scalar(&e, flags))

PLAIN_HOOK(sb_umount, SLEEPABLE, ARGS(struct vfsmount *mnt, int flags),
	   cell_dentry(&e, mnt->mnt_root, false), cell_scalar(&e, flags))

/* The superblock is locked. Nobody needs that lock to find a file there, or to read it. */
PLAIN_HOOK(sb_remount, SLEEPABLE, ARGS(struct super_block *sb, void *mnt_opts),
	   cell_superblock(&e, sb))

PLAIN_HOOK(sb_pivotroot, ATOMIC,
	   ARGS(const struct path *old_path, const struct path *new_path),
	   cell_place(&e, old_path), cell_place(&e, new_path))

PLAIN_HOOK(sb_statfs, SLEEPABLE, ARGS(struct dentry *dentry), cell_dentry(&e, dentry, false))

PLAIN_HOOK(move_mount, ATOMIC, ARGS(const struct path *from_path, const struct path *to_path),
	   cell_place(&e, from_path), cell_place(&e, to_path))

/* A request about all filesystems (Q_SYNC without a device) has no superblock, and is no event. */
EVENT_HOOK(quotactl, ATOMIC, ARGS(int cmds, int type, int id, const struct super_block *sb),
	   modeled(&e) && number_of(sb) && event_begin(&e),
	   cell_scalar(&e, cmds), cell_scalar(&e, type), cell_scalar(&e, id),
	   cell_superblock(&e, sb))

PLAIN_HOOK(quota_on, ATOMIC, ARGS(struct dentry *dentry), cell_dentry(&e, dentry, false))
