/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control plane: the files of a daemon, by which tasks come into namespaces and are
 * released. The daemon learns from a FUSE request which thread makes it, and nothing else;
 * the thread then sleeps until the answer. What more there is to know of it is said here.
 */
#ifndef TSEM_PLANE_H
#define TSEM_PLANE_H

#include "task.h"

/* include/uapi/linux/capability.h */
#define CAP_MAC_ADMIN 33

/* include/linux/sched.h */
#define PF_IO_WORKER 0x10

/* The device of the control plane's file system, 0: there is none; and the keeper that serves it. */
volatile __u32 plane_device;
volatile __u32 plane_keeper;

/*
 * Run by a keeper on its own behalf: the file system with that device is the control plane,
 * until the keeper ends; 0 ends that. Returns 0, or EBUSY if another keeper has one.
 */
SEC("syscall")
int plane_choose(__u32 *context)
{
	__u32 keeper = bpf_get_current_task_btf()->tgid;
	__u32 before = __sync_val_compare_and_swap(&plane_keeper, 0, keeper);

	if (before && before != keeper)
		return EBUSY;
	plane_device = *context;
	if (!plane_device)
		plane_keeper = 0;
	return 0;
}

/* A keeper has ended, and its device can be another file system's. */
static __always_inline void plane_end(__u32 keeper)
{
	if (plane_keeper != keeper)
		return;
	plane_device = 0;
	plane_keeper = 0;
}

static __always_inline bool is_plane(const struct file *file)
{
	return plane_device && file->f_inode->i_sb->s_dev == plane_device;
}

/* CAP_MAC_ADMIN as TSEM wants it: in the initial user namespace. */
static __always_inline bool is_mac_admin(const struct task_struct *task)
{
	__u64 effective = 0;

	if (task->cred->user_ns->parent)
		return false;
	bpf_core_read(&effective, sizeof(effective), &task->cred->cap_effective);
	return effective >> CAP_MAC_ADMIN & 1;
}

/*
 * Who a thread is that sleeps in a request of the control plane. Not a program that is run with the
 * number of the thread: before 6.2 there is no way from that to the task.
 */
SEC("iter/task")
int task_caller(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct tsem_caller c = {};
	struct tsem_task *t;

	if (!task)
		return 0;
	c.address = number_of(task);
	t = task_at(c.address);
	if (t && namespace_of(t) && t->ns_index != root_index)
		c.namespace = t->namespace;
	c.tgid = task->tgid;
	c.parent = task->real_parent->tgid;
	c.mac_admin = is_mac_admin(task);
	c.io_worker = (task->flags & PF_IO_WORKER) != 0;
	bpf_seq_write(context->meta->seq, &c, sizeof(c));
	return 0;
}

#endif
