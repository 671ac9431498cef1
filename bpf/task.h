/* SPDX-License-Identifier: GPL-2.0-only */
/* Task state: who is modeled, and in which namespace. */
#ifndef TSEM_TASK_H
#define TSEM_TASK_H

#include "maps.h"

#define PF_KTHREAD 0x00200000

/* The namespace at an index, if it still is the one that the task was put into. */
static __always_inline struct tsem_namespace *namespace_of(const struct tsem_task *t)
{
	__u32 index = t->ns_index;
	struct tsem_namespace *ns = bpf_map_lookup_elem(&namespaces, &index);

	if (!ns || !ns->id || ns->id != t->namespace || (ns->flags & TSEM_NS_CLOSED))
		return NULL;
	return ns;
}

/* Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4). */
static __always_inline volatile __u32 *task_filter_at(__u64 address)
{
	return &task_filter[(address * 0x9e3779b97f4a7c15ULL) >> (64 - TASK_FILTER_BITS)];
}

/* The state of the task at an address if it is modeled. */
static __always_inline struct tsem_task *task_at(__u64 address)
{
	if (!*task_filter_at(address))
		return NULL;
	return bpf_map_lookup_elem(&tasks, &address);
}

/*
 * Forgets a task that is being freed. From a soft interrupt that came when its CPU
 * was at the same place of the map this fails; then the state stays until a new task
 * gets the address, and task_alloc forgets it.
 */
static __always_inline void task_forget(__u64 address)
{
	if (*task_filter_at(address) && !bpf_map_delete_elem(&tasks, &address))
		__sync_fetch_and_sub(task_filter_at(address), 1);
}

/*
 * Whether a task is untrusted: its parent was when it was born, or it became so. Then it
 * is so until it exits.
 */
static __always_inline bool untrusted(const struct tsem_task *t)
{
	__u32 slot = t->slot;
	struct tsem_slot *s = bpf_map_lookup_elem(&slots, &slot);
	__u64 trust = s ? *(volatile __u64 *)&s->trust : 0;

	return (t->untrusted | (trust & TSEM_TRUST_UNTRUSTED)) != 0;
}

/* Is there a verdict in a slot? */
static __always_inline bool decided(__u32 slot)
{
	struct tsem_slot *s = bpf_map_lookup_elem(&slots, &slot);

	return !s || *(volatile __u64 *)&s->word % 256 != TSEM_VERDICT_NONE;
}

/* 1 if the event of a hook does not happen when it, or its task, is not trusted; else 0. */
static __always_inline __u64 denies(const struct tsem_namespace *ns, __u16 hook)
{
	return ns->deny[hook / 64 % (TSEM_HOOK_MAX / 64)] >> hook % 64 & 1;
}

/* Can tasks join it? */
static __always_inline bool is_open(const struct tsem_namespace *ns)
{
	return ns && ns->id && !(ns->flags & TSEM_NS_CLOSED);
}

/* Puts a task without state into the namespace at an index; a child gets its parent's. */
static __always_inline bool task_join(__u64 address, __u32 index, const struct tsem_task *parent)
{
	struct tsem_namespace *ns = bpf_map_lookup_elem(&namespaces, &index);
	struct tsem_task t = { .ns_index = index };
	volatile __u32 *filter;

	if (!is_open(ns))
		return false;
	t.namespace = ns->id;
	t.tnum = __sync_fetch_and_add(&last_tnum, 1) + 1;
	if (parent) {
		t.untrusted = untrusted(parent);
		t.ttd = t.p_ttd = parent->ttd;
		t.identity = t.p_identity = parent->identity;
	}
	filter = task_filter_at(address);
	__sync_fetch_and_add(filter, 1);
	if (bpf_map_update_elem(&tasks, &address, &t, BPF_NOEXIST)) {
		__sync_fetch_and_sub(filter, 1);
		__sync_fetch_and_add(&ns->tasks_lost, 1);
		return false;
	}
	__sync_fetch_and_add(&ns->tasks, 1);
	return true;
}

/*
 * The state of the current task if it is modeled, for bookkeeping: a task that would only
 * now be adopted has no identity yet, and has announced nothing.
 */
static __always_inline struct tsem_task *booked_task(void)
{
	return task_at(bpf_get_current_task());
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
	return task_join(bpf_get_current_task(), root_index, NULL);
}

/* The state of the current task if it is modeled. The cheap way out of every hook. */
static __always_inline struct tsem_task *current_task(void)
{
	struct tsem_task *t = task_at(bpf_get_current_task());

	if (!t && root_index && task_adopt())
		t = task_at(bpf_get_current_task());
	return t;
}

#endif
