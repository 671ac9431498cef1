/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names as system calls give them, before the filesystem is asked (hooks/inode.c). Events have what that
 * of inodes has which may follow, but the path of an entry is seen through mounts. What a
 * filesystem does for itself does not come here.
 *
 * path_truncate: the size of a file is set: DENTRY.
 * path_mkdir, path_symlink, path_mknod: a name is about to be, also that of a regular file: the
 *	directory's inode, DENTRY, and mode, target, or mode and device.
 * path_unlink, path_rmdir: a name goes: the directory's inode, DENTRY.
 * path_link: a file gets another name: DENTRY, inode of the directory, DENTRY of the new name.
 * path_rename: a name moves: inode and DENTRY of where from and of where to, flags.
 */
#include "../dentry.h"

PLAIN_HOOK(path_truncate, SLEEPABLE, ARGS(const struct path *path), cell_mounted_dentry(&e, path))

PLAIN_HOOK(path_unlink, SLEEPABLE, ARGS(const struct path *dir, struct dentry *dentry),
	   cell_directory(&e, dir), cell_entry(&e, dir, dentry, true))

/* The creation is counted when the filesystem is asked, so that there is no owner yet. */
PLAIN_HOOK(path_mkdir, SLEEPABLE,
	   ARGS(const struct path *dir, struct dentry *dentry, umode_t mode),
	   cell_directory(&e, dir), cell_entry(&e, dir, dentry, false),
	   cell_scalar(&e, mode & ~S_IFMT))

PLAIN_HOOK(path_rmdir, SLEEPABLE, ARGS(const struct path *dir, struct dentry *dentry),
	   cell_directory(&e, dir), cell_entry(&e, dir, dentry, true))

PLAIN_HOOK(path_symlink, SLEEPABLE,
	   ARGS(const struct path *dir, struct dentry *dentry, const char *old_name),
	   cell_directory(&e, dir), cell_entry(&e, dir, dentry, false), cell_string(&e, old_name))

/* include/linux/kdev_t.h, new_decode_dev: the number is still the one of the system call. */
static __always_inline __u32 decoded_device(__u32 dev)
{
	__u32 major = dev >> 8 & 0xfff, minor = (dev & 0xff) | (dev >> 12 & 0xfff00);

	return major << 20 | minor;
}

PLAIN_HOOK(path_mknod, ATOMIC,
	   ARGS(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev),
	   cell_directory(&e, dir), cell_entry(&e, dir, dentry, false), cell_scalar(&e, mode),
	   cell_scalar(&e, decoded_device(dev)))

/* Both names are on one mount: else the kernel has refused already. */
PLAIN_HOOK(path_link, SLEEPABLE,
	   ARGS(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry),
	   cell_entry(&e, new_dir, old_dentry, false), cell_directory(&e, new_dir),
	   cell_entry(&e, new_dir, new_dentry, false))

PLAIN_HOOK(path_rename, SLEEPABLE,
	   ARGS(const struct path *old_dir, struct dentry *old_dentry,
		const struct path *new_dir, struct dentry *new_dentry, unsigned int flags),
	   cell_directory(&e, old_dir), cell_entry(&e, old_dir, old_dentry, false),
	   cell_directory(&e, new_dir), cell_entry(&e, new_dir, new_dentry, false),
	   cell_scalar(&e, flags))
