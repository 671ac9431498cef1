/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inodes and directory entries; DENTRY is the inode and the path of an entry.
 *
 * inode_create: a file is about to be: the directory's inode, DENTRY, mode.
 * inode_unlink: a name goes: the directory's inode, DENTRY.
 * inode_rename: a name moves: inode and DENTRY of where from and of where to.
 * inode_getattr: stat: DENTRY, its path seen through mounts.
 * inode_setxattr: an attribute is set: DENTRY, name, value, flags. An ACL by inode_set_acl.
 *
 * Bookkeeping: inode_init_security and inode_free_security, who created an inode.
 */
#include "../acl.h"
#include "../dentry.h"

SEC("lsm.s/inode_create")
int BPF_PROG(inode_create, struct inode *dir, struct dentry *dentry, umode_t mode, int ret)
{
	EVENT(e, inode_create, ret);

	if (!booked(&e))
		return unraised(&e);
	creation_begin(&e, dir, dentry);
	if (!wanted(&e) || !event_begin(&e))
		return unraised(&e);
	cell_inode(&e, dir);
	cell_new_dentry(&e, dentry);
	cell_scalar(&e, mode);
	return event_end(&e);
}

/*
 * The inode whose creation inode_create announced. Its arguments are six before 6.4, then
 * five, so what an earlier program answered has no fixed place behind them.
 */
SEC("lsm/inode_init_security")
int BPF_PROG(inode_init_security, struct inode *inode, struct inode *dir, const struct qstr *name)
{
	struct tsem_task *t = booked_task();
	__u64 key = (__u64)inode;
	struct tsem_namespace *ns;
	struct creator creator;

	if (!t || !t->create_dir || !S_ISREG(inode->i_mode))
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

PLAIN_HOOK(inode_unlink, SLEEPABLE, ARGS(struct inode *dir, struct dentry *dentry),
	   cell_inode(&e, dir), cell_dentry(&e, dentry, true))

PLAIN_HOOK(inode_rename, SLEEPABLE,
	   ARGS(struct inode *old_dir, struct dentry *old_dentry,
		struct inode *new_dir, struct dentry *new_dentry),
	   cell_inode(&e, old_dir), cell_dentry(&e, old_dentry, false),
	   cell_inode(&e, new_dir), cell_dentry(&e, new_dentry, false))

SEC("lsm.s/inode_getattr")
int BPF_PROG(inode_getattr, const struct path *path, int ret)
{
	EVENT(e, inode_getattr, ret);

	if (!modeled(&e) || is_inner(&e, mount_is_private(path->mnt)) || !event_begin(&e))
		return unraised(&e);
	cell_mounted_dentry(&e, path);
	return event_end(&e);
}

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
