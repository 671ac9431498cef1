/* SPDX-License-Identifier: GPL-2.0-only */
/* The task that has a number. */
#ifndef TSEM_PID_H
#define TSEM_PID_H

#include "buffer.h"

/* Levels of the tree of a pid namespace: each takes 6 bits of the 22 of PID_MAX_LIMIT. */
#define PID_LEVELS 4

struct pid_context {
	struct buffer *buf;
};

/* lib/radix-tree.c, __radix_tree_lookup: a node, which has two bits for a mark, or a pid. */
static long pid_step(__u32 i, struct pid_context *context)
{
	struct pid_search *s = &context->buf->pid_search;
	__u64 node = s->entry - 2;
	__u32 shift, slot;

	if (s->entry % 4 != 2)
		return 1;
	s->entry = 0;
	shift = FIELD(struct xa_node, node, shift);
	slot = s->number >> shift;
	s->number -= slot << shift;
	/* More than the tree has numbers. */
	if (slot >= 64)
		return 1;
	bpf_core_read(&s->entry, sizeof(s->entry), &((struct xa_node *)node)->slots[slot]);
	return 0;
}

/*
 * kernel/pid.c, find_task_by_vpid: the address of the task with a thread id in the pid
 * namespace of the current task; of no task if there is none.
 */
SHARED __u64 task_by_vpid(struct buffer *buf, __u32 number)
{
	const struct task_struct *task = this_task();
	struct pid_context context = { .buf = buf };
	__u64 pid, ns = 0;

	if (!buf)
		return 0;
	pid = number_of(task->thread_pid);
	/* task_active_pid_ns: the innermost one. */
	pid += FIELD(struct pid, pid, level) * bpf_core_type_size(struct upid);
	bpf_core_read(&ns, sizeof(ns), &((struct pid *)pid)->numbers[0].ns);
	buf->pid_search.entry = (__u64)BPF_CORE_READ((struct pid_namespace *)ns, idr.idr_rt.xa_head);
	buf->pid_search.number = number;
	bpf_loop(PID_LEVELS, pid_step, &context, 0);
	pid = buf->pid_search.entry;
	/* PIDTYPE_PID is 0. */
	return (__u64)BPF_CORE_READ((struct pid *)pid, tasks[0].first) -
	       bpf_core_field_offset(struct task_struct, pid_links);
}

#endif
