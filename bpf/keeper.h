/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Keepers: the processes that own namespaces. What a keeper cannot do when it is
 * killed is done here, or its tasks would wait for a reader that is gone.
 */
#ifndef TSEM_KEEPER_H
#define TSEM_KEEPER_H

#include "plane.h"
#include "task.h"

/*
 * Run by a keeper on its own behalf: from here on it is not modeled. It counts how often it
 * was run. Returns its thread group id as programs see it (in a pid namespace getpid() says another
 * number), to be written into its namespaces; 0: there are too many keepers.
 */
SEC("syscall")
int keeper_register(void *context)
{
	__u32 tgid = bpf_get_current_task_btf()->tgid, one = 1;
	__u32 *times = bpf_map_lookup_elem(&keepers, &tgid);

	if (times) {
		__sync_fetch_and_add(times, 1);
		return tgid;
	}
	return bpf_map_update_elem(&keepers, &tgid, &one, BPF_ANY) ? 0 : tgid;
}

/*
 * The id of the calling thread as programs see it, which in a pid namespace is not
 * what gettid() says.
 */
SEC("syscall")
int thread_id(void *context)
{
	return bpf_get_current_task_btf()->pid;
}

/*
 * Makes the namespace at an index that of the host: of every task that is in no other one
 * and no keeper's; 0 ends that.
 */
SEC("syscall")
int root_choose(__u32 *context)
{
	root_index = *context;
	return 0;
}

static long close_step(__u32 index, __u32 *keeper)
{
	struct tsem_namespace *ns = bpf_map_lookup_elem(&namespaces, &index);

	if (!ns || !ns->id || ns->keeper != *keeper)
		return 0;
	if (index == root_index)
		root_index = 0;
	__sync_fetch_and_or(&ns->flags, ns->flags & TSEM_NS_ENFORCING ? TSEM_NS_ORPHANED : TSEM_NS_CLOSED);
	/* Last: a namespace without keeper is one whose flags say what became of it. */
	__sync_lock_test_and_set(&ns->keeper, 0);
	return 0;
}

/*
 * Takes back what a thread of a keeper has left. With the last one the namespaces of the
 * keeper are closed, or, where they enforce, made orphans of. Its id can be used again from
 * here on, and nothing points at it any more.
 */
static __always_inline void keeper_exit(struct task_struct *task)
{
	__u32 tgid = task->tgid, tid = task->pid;

	if (!bpf_map_lookup_elem(&keepers, &tgid))
		return;
	bpf_map_delete_elem(&births, &tid);
	/* kernel/exit.c, do_exit, counts down before the tracepoint. */
	if (task->signal->live.counter)
		return;
	plane_end(tgid);
	bpf_loop(TSEM_NAMESPACES_MAX, close_step, &tgid, 0);
	bpf_map_delete_elem(&keepers, &tgid);
}

#endif
