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

static __always_inline void keeper_end(__u32 tgid)
{
	plane_end(tgid);
	bpf_loop(TSEM_NAMESPACES_MAX, close_step, &tgid, 0);
	bpf_map_delete_elem(&keepers, &tgid);
}

/*
 * Run by a keeper on its own behalf: the host's namespace leaves it out from here on. It counts
 * how often it was run. Returns its thread group id as programs see it (in a pid namespace
 * getpid() says another number), to be written into its namespaces; 0: there are too many keepers.
 */
SEC("syscall")
int keeper_register(void *context)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct tsem_keeper self = { .process = number_of(task->signal), .times = 1 };
	__u32 tgid = task->tgid;
	struct tsem_keeper *keeper = bpf_map_lookup_elem(&keepers, &tgid);

	if (keeper && keeper->process == self.process) {
		__sync_fetch_and_add(&keeper->times, 1);
		return tgid;
	}
	/* One that had this id before, and whose end is still to be seen. */
	if (keeper)
		keeper_end(tgid);
	return bpf_map_update_elem(&keepers, &tgid, &self, BPF_ANY) ? 0 : tgid;
}

/*
 * Run by a thread of a keeper that is about to start the first task of the namespace at an
 * index; with 0 when it has done so. Returns 0 or a negative errno.
 */
SEC("syscall")
int birth_announce(__u32 *context)
{
	__u64 thread = bpf_get_current_task();
	__u32 index = *context;

	if (index)
		return bpf_map_update_elem(&births, &thread, &index, BPF_ANY);
	return bpf_map_delete_elem(&births, &thread);
}

/*
 * A thread has ended. With the last one of a keeper its namespaces are closed, or, where they
 * enforce, made orphans of, and nothing points at its id any more, which can be used again.
 *
 * It is asked at the exit, and once more when the task is freed. Since 7.0 a tracepoint leaves
 * preemption on, and the kernel skips the program of one for a task that exits on a CPU where another
 * task was preempted in it; LSM programs it does not skip. A task is freed so late that its ids may
 * be those of another one: what it was is known by addresses.
 */
static __always_inline void keeper_exit(struct task_struct *task)
{
	__u64 thread = number_of(task);
	__u32 tgid = task->tgid;
	struct tsem_keeper *keeper;

	if (bpf_map_lookup_elem(&births, &thread))
		bpf_map_delete_elem(&births, &thread);
	keeper = bpf_map_lookup_elem(&keepers, &tgid);
	if (!keeper || keeper->process != number_of(task->signal))
		return;
	/* kernel/exit.c, do_exit, counts down before the tracepoint. */
	if (!task->signal->live.counter)
		keeper_end(tgid);
}

#endif
