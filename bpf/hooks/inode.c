/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inodes and directory entries; DENTRY is the inode and the path of an entry.
 *
 * inode_create, inode_mkdir: a file or directory is about to be: the directory's inode, DENTRY,
 *	mode.
 * inode_symlink, inode_mknod: so is what is never marked as created: the directory's inode,
 *	DENTRY, and the target, or mode and device.
 * inode_link: a file gets another name: DENTRY, inode of the directory, DENTRY of the new name.
 * inode_unlink, inode_rmdir: a name goes: the directory's inode, DENTRY.
 * inode_rename: a name moves: inode and DENTRY of where from and of where to.
 * inode_setattr: mode, owner, group or size is set: DENTRY, which of them, all of them.
 * inode_getattr: stat: DENTRY, its path seen through mounts.
 * inode_setxattr: an attribute is set: DENTRY, name, value, flags. An ACL by inode_set_acl.
 * inode_getxattr, inode_removexattr: DENTRY, name. An ACL by inode_get_acl, inode_remove_acl.
 * inode_listxattr, inode_killpriv: DENTRY.
 *
 * Bookkeeping: inode_init_security and inode_free_security, who created an inode.
 */
#include "../acl.h"
#include "../dentry.h"

/* Creations are counted also for a namespace that does not want their events. */
static __always_inline bool creation_event(struct event *e, struct inode *dir,
					   struct dentry *dentry)
{
	if (!booked(e))
		return false;
	creation_begin(e, dir, dentry);
	return wanted(e) && event_begin(e);
}

EVENT_HOOK(inode_create, SLEEPABLE, ARGS(struct inode *dir, struct dentry *dentry, umode_t mode),
	   creation_event(&e, dir, dentry),
	   cell_inode(&e, dir), cell_new_dentry(&e, dentry), cell_scalar(&e, mode))

/* Without the type, which is in the mode of 7.3 only. */
EVENT_HOOK(inode_mkdir, ATOMIC, ARGS(struct inode *dir, struct dentry *dentry, umode_t mode),
	   creation_event(&e, dir, dentry),
	   cell_inode(&e, dir), cell_new_dentry(&e, dentry), cell_scalar(&e, mode & ~S_IFMT))

/*
 * The inode whose creation inode_create or inode_mkdir announced. Its arguments are six before
 * 6.4, then five, so what an earlier program answered has no fixed place behind them.
 */
SEC("lsm/inode_init_security")
int BPF_PROG(inode_init_security, struct inode *inode, struct inode *dir, const struct qstr *name)
{
	struct tsem_task *t = booked_task();
	__u64 key = (__u64)inode;
	struct tsem_namespace *ns;
	struct creator creator;

	if (!t || !t->create_dir || !(S_ISREG(inode->i_mode) || S_ISDIR(inode->i_mode)))
		return 0;
	if (t->create_dir != (__u64)dir || t->create_name != BPF_CORE_READ(name, hash_len))
		return 0;
	t->create_dir = 0;
	ns = namespace_of(t);
	if (!ns)
		return 0;
	creator.namespace = t->namespace;
	creator.owner = t->identity;
	creator.instance = t->create_instance;
	if (bpf_map_update_elem(&creators, &key, &creator, BPF_ANY))
		__sync_fetch_and_add(&ns->creations_lost, 1);
	return 0;
}

SEC("lsm/inode_free_security")
int BPF_PROG(inode_free_security, struct inode *inode)
{
	__u64 key = (__u64)inode;

	bpf_map_delete_elem(&creators, &key);
	return 0;
}

PLAIN_HOOK(inode_symlink, SLEEPABLE,
	   ARGS(struct inode *dir, struct dentry *dentry, const char *old_name),
	   cell_inode(&e, dir), cell_dentry(&e, dentry, false), cell_string(&e, old_name))

PLAIN_HOOK(inode_mknod, SLEEPABLE,
	   ARGS(struct inode *dir, struct dentry *dentry, umode_t mode, dev_t dev),
	   cell_inode(&e, dir), cell_dentry(&e, dentry, false), cell_scalar(&e, mode),
	   cell_scalar(&e, dev))

PLAIN_HOOK(inode_link, ATOMIC,
	   ARGS(struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry),
	   cell_dentry(&e, old_dentry, false), cell_inode(&e, dir),
	   cell_dentry(&e, new_dentry, false))

PLAIN_HOOK(inode_unlink, SLEEPABLE, ARGS(struct inode *dir, struct dentry *dentry),
	   cell_inode(&e, dir), cell_dentry(&e, dentry, true))

PLAIN_HOOK(inode_rmdir, SLEEPABLE, ARGS(struct inode *dir, struct dentry *dentry),
	   cell_inode(&e, dir), cell_dentry(&e, dentry, true))

PLAIN_HOOK(inode_rename, SLEEPABLE,
	   ARGS(struct inode *old_dir, struct dentry *old_dentry,
		struct inode *new_dir, struct dentry *new_dentry),
	   cell_inode(&e, old_dir), cell_dentry(&e, old_dentry, false),
	   cell_inode(&e, new_dir), cell_dentry(&e, new_dentry, false))

/* include/linux/fs.h */
#define ATTR_MODE 1
#define ATTR_UID 2
#define ATTR_GID 4
#define ATTR_SIZE 8

/* What is not set is 0, whatever stands there. */
SHARED int describe_attributes(struct buffer *buf, __u64 address)
{
	const struct iattr *attr;
	__u64 valid;

	if (!buf)
		return 0;
	attr = LOOK(buf, struct iattr, address);
	valid = attr->ia_valid;
	cell_number(buf, TSEM_CELL_SCALAR, valid);
	cell_number(buf, TSEM_CELL_SCALAR, (valid & ATTR_MODE) / ATTR_MODE * attr->ia_mode);
	cell_number(buf, TSEM_CELL_SCALAR,
		    (valid & ATTR_UID) / ATTR_UID * map_uid(buf, attr->ia_uid.val));
	cell_number(buf, TSEM_CELL_SCALAR,
		    (valid & ATTR_GID) / ATTR_GID * map_gid(buf, attr->ia_gid.val));
	cell_number(buf, TSEM_CELL_SCALAR, (valid & ATTR_SIZE) / ATTR_SIZE * attr->ia_size);
	return 0;
}

/*
 * The entry and its attributes are the last two arguments: an id map came before them in 6.9.
 * So the answer of an earlier program has no fixed place behind them.
 */
SEC("lsm.s/inode_setattr")
int inode_setattr(unsigned long long *ctx)
{
	EVENT(e, inode_setattr, 0);
	__u64 dentry = 0, attr = 0;
	__u32 last;

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	last = bpf_get_func_arg_cnt(ctx) - 1;
	bpf_get_func_arg(ctx, last - 1, &dentry);
	bpf_get_func_arg(ctx, last, &attr);
	describe_dentry(e.buf, dentry, false);
	describe_attributes(e.buf, attr);
	return event_end(&e);
}

EVENT_HOOK(inode_getattr, SLEEPABLE, ARGS(const struct path *path),
	   modeled(&e) && !is_inner(&e, mount_is_private(path->mnt)) && event_begin(&e),
	   cell_mounted_dentry(&e, path))

/*
 * The first argument is a user namespace before 6.3, then an id map; neither
 * matters. The value is a pointer to void, which the verifier gives out only
 * through the helper.
 */
SEC("lsm.s/inode_setxattr")
int BPF_PROG(inode_setxattr, void *idmap, struct dentry *dentry, const char *name,
	     const void *unreadable, size_t size, int flags, int ret)
{
	EVENT(e, inode_setxattr, ret);
	__u64 value = 0;

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	bpf_get_func_arg(ctx, 3, &value);
	cell_dentry(&e, dentry, false);
	cell_string(&e, name);
	cell_value(&e, value, size);
	cell_scalar(&e, flags);
	return event_end_with_value(&e);
}

/*
 * Since 6.2 POSIX ACLs are set by this hook and no longer by inode_setxattr. It cannot
 * sleep. The kernel does not tell the flags any more; it ignores them. The list is NULL
 * where the value of the attribute is empty, which the verifier does not know before 6.14.
 */
SEC("lsm/inode_set_acl")
int BPF_PROG(inode_set_acl, void *idmap, struct dentry *dentry, const char *name,
	     const void *unreadable, int ret)
{
	EVENT_ATOMIC(e, inode_setxattr, ret);
	__u64 acl = 0;

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	bpf_get_func_arg(ctx, 3, &acl);
	cell_dentry(&e, dentry, false);
	cell_string(&e, name);
	cell_acl(&e, acl);
	cell_scalar(&e, 0);
	return event_end(&e);
}

EVENT_HOOK(inode_getxattr, SLEEPABLE, ARGS(struct dentry *dentry, const char *name),
	   modeled(&e) && !is_inner_entry(&e) && event_begin(&e),
	   cell_dentry(&e, dentry, false), cell_string(&e, name))

EVENT_HOOK(inode_listxattr, ATOMIC, ARGS(struct dentry *dentry),
	   modeled(&e) && !is_inner_entry(&e) && event_begin(&e),
	   cell_dentry(&e, dentry, false))

/* In 6.12 no program can sleep there, in 7.3 it can. */
PLAIN_HOOK(inode_removexattr, SLEEPABLE,
	   ARGS(void *idmap, struct dentry *dentry, const char *name),
	   cell_dentry(&e, dentry, false), cell_string(&e, name))

PLAIN_HOOK(inode_killpriv, ATOMIC, ARGS(void *idmap, struct dentry *dentry),
	   cell_dentry(&e, dentry, false))

/* ACLs have hooks of their own also for these two since 6.2, in which no program can sleep. */
SEC("lsm/inode_get_acl")
int BPF_PROG(inode_get_acl, void *idmap, struct dentry *dentry, const char *name, int ret)
{
	EVENT_ATOMIC(e, inode_getxattr, ret);

	if (!modeled(&e) || is_inner_entry(&e) || !event_begin(&e))
		return unraised(&e);
	cell_dentry(&e, dentry, false);
	cell_string(&e, name);
	return event_end(&e);
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(inode_remove_acl, void *idmap, struct dentry *dentry, const char *name, int ret)
{
	EVENT_ATOMIC(e, inode_removexattr, ret);

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	cell_dentry(&e, dentry, false);
	cell_string(&e, name);
	return event_end(&e);
}
