/* SPDX-License-Identifier: GPL-2.0-only */
/* Task state: who is modeled, and in which namespace. */
#ifndef TSEM_TASK_H
#define TSEM_TASK_H

#include "maps.h"

#define PF_KTHREAD 0x00200000

/* The namespace in a slot, if it still is the one that the task was put into. */
static __always_inline struct tsem_namespace *namespace_of(const struct tsem_task *t)
{
	__u32 slot = t->ns_slot;
	struct tsem_namespace *ns = bpf_map_lookup_elem(&namespaces, &slot);

	if (!ns || !ns->id || ns->id != t->namespace || (ns->flags & TSEM_NS_CLOSED))
		return NULL;
	return ns;
}

/* Puts a task without state into the namespace of a slot. */
static __always_inline struct tsem_task *task_join(struct task_struct *task, __u32 slot)
{
	struct tsem_namespace *ns = bpf_map_lookup_elem(&namespaces, &slot);
	struct tsem_task *t;

	if (!ns || !ns->id || (ns->flags & TSEM_NS_CLOSED))
		return NULL;
	t = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t) {
		__sync_fetch_and_add(&ns->tasks_lost, 1);
		return NULL;
	}
	t->ns_slot = slot;
	t->trust = TSEM_TRUST_TRUSTED;
	t->tnum = __sync_fetch_and_add(&last_tnum, 1) + 1;
	t->namespace = ns->id;
	__sync_fetch_and_add(&ns->tasks, 1);
	return t;
}

/*
 * The first event of a task that was there before the root namespace. Kernel
 * threads stay out, as in TSEM's root export mode, and so do keepers.
 */
SHARED int task_adopt(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tgid = task->tgid;

	if ((task->flags & PF_KTHREAD) || bpf_map_lookup_elem(&keepers, &tgid))
		return 0;
	return task_join(task, root_slot) != NULL;
}

/* The state of the current task if it is modeled. The cheap way out of every hook. */
static __always_inline struct tsem_task *current_task(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tsem_task *t = bpf_task_storage_get(&tasks, task, 0, 0);

	if (!t && root_slot && task_adopt())
		t = bpf_task_storage_get(&tasks, task, 0, 0);
	return t;
}

/* The identity of any task; 0 where it has none. */
static __always_inline __u64 identity_of(struct task_struct *task)
{
	struct tsem_task *t = bpf_task_storage_get(&tasks, task, 0, 0);

	return t ? t->identity : 0;
}

#endif
