/* SPDX-License-Identifier: GPL-2.0-only */
/* FILE: the cells of an open file, with its digest, inode and path. */
#ifndef TSEM_FILE_H
#define TSEM_FILE_H

#include "digest.h"
#include "inode.h"
#include "path.h"

/*
 * include/linux/fs.h: not counted as an open file of anybody. So are the files that a
 * filesystem opens below its own, until 6.5 with the path of the file above.
 */
#define FMODE_NOACCOUNT 0x20000000

/* The hook is called for what a filesystem does for itself: counted, and no event. */
static __always_inline bool is_inner(struct event *e, bool private)
{
	if (private)
		__sync_fetch_and_add(&e->ns->inner, 1);
	return private;
}

static __always_inline bool is_inner_file(struct event *e, const struct file *file)
{
	return is_inner(e, (file->f_mode & FMODE_NOACCOUNT) || mount_is_private(VIEW(struct file, file)->f_path.mnt));
}

/* It asks for attributes of what is below with the credentials of who mounted it. */
static __always_inline bool is_inner_entry(struct event *e)
{
	const struct task_struct *task = this_task();

	return is_inner(e, task->cred != task->real_cred);
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

#endif
