/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks.
 *
 * task_kill: a signal of a task to another: its TASK_ID, signal, across namespaces?
 * task_setpgid: the group of a process: its TASK_ID, that of the task with the group's number.
 * task_getpgid, task_getsid: a task is asked of: its TASK_ID.
 * task_setnice, task_setioprio: a priority of a task: its TASK_ID, the priority.
 * task_getioprio, task_setscheduler, task_getscheduler: TASK_ID, and no more.
 * task_prlimit: limits of another task are read or set: credentials of both, which of the two.
 * task_setrlimit: a limit is set: TASK_ID, which, the new one.
 * task_prctl: option and arguments.
 * ptrace_access_check: a task is traced or looked into: its TASK_ID, mode.
 * ptrace_traceme: the task wants to be traced: TASK_ID of its parent.
 * capable: a capability is used: which, options.
 * capget: the capabilities of a task are read: its TASK_ID, the three sets.
 * capset: the task sets its own: the three sets.
 * cred_prepare: credentials are copied, for a new task or to be changed: the old ones.
 * userns_create: a user namespace is created: the credentials of the task that does so.
 * task_alloc: a task is created: what it shares.
 *
 * Bookkeeping: task_alloc too, task_free and the tracepoint sched_process_exit, the state of
 * a task from fork to exit; bprm_committed_creds, a task becomes another program.
 */
#include "../file.h"
#include "../identity.h"
#include "../keeper.h"
#include "../pid.h"
#include "../verdict.h"

#define SIGURG 23

/*
 * Books are kept of each task, whether its creation is an event or not, and whether it is allowed. The
 * event cannot wait, though the kernel would let it: every task of the host comes by here.
 */
SEC("lsm/task_alloc")
int BPF_PROG(task_alloc, struct task_struct *task, unsigned long clone_flags, int ret)
{
	__u64 thread = bpf_get_current_task();
	__u32 *index = bpf_map_lookup_elem(&births, &thread);
	__u64 address = number_of(task);
	struct event e = { .hook = TSEM_HOOK_task_alloc };
	bool inherits = booked(&e);

	task_forget(address);
	if (index || inherits) {
		task_join(address, index ? *index : e.task->ns_index, index ? NULL : e.task);
		slot_take(address);
	}
	if (ret)
		return ret;
	if (!inherits || !wanted(&e) || !event_begin(&e))
		return unraised(&e);
	cell_scalar(&e, clone_flags);
	return event_end(&e);
}

/*
 * There is no LSM hook for the end of a task; task_free comes much later. What the
 * task still does, and what others do to it, is described until then.
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(task_exit, struct task_struct *task)
{
	task_leave(number_of(task));
	keeper_exit(task);
	return 0;
}

SEC("lsm/task_free")
int BPF_PROG(task_free, struct task_struct *task)
{
	__u64 address = number_of(task);

	/* A fork that failed after task_alloc has no exit, nor has a task whose exit was skipped. */
	task_leave(address);
	task_forget(address);
	keeper_exit(task);
	return 0;
}

/*
 * A task becomes another program: a new execution number and, with its file and
 * credentials, a new TASK_ID. The record that tells the daemon is not an event.
 */
SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(bprm_committed_creds, struct linux_binprm *bprm)
{
	__u64 ttd = __sync_fetch_and_add(&last_ttd, 1) + 1;
	struct event e = { .hook = TSEM_HOOK_bprm_committed_creds };
	struct digest digest;
	__u64 identity;

	if (!booked(&e))
		return 0;
	e.task->ttd = ttd;
	/* Until it is known: nobody else's, and not that of a task without exec. */
	e.task->identity = identity_key[0] ^ (ttd << 1);
	take_digest(&e, bprm->file, DIGEST_PSEUDO | DIGEST_READ, &digest);
	if (!event_begin(&e))
		return 0;
	cell_file(&e, bprm->file, &digest);
	identity = identity_compute(e.buf, e.ns->digest);
	e.buf->head.identity = identity;
	if (event_put(&e))
		e.task->identity = identity;
	return 0;
}

/* include/linux/sched/signal.h: SEND_SIG_NOINFO is 0, SEND_SIG_PRIV is 1. */
static __always_inline bool sent_by_kernel(struct kernel_siginfo *info)
{
	if (!info)
		return false;
	return (unsigned long)info == 1 || BPF_CORE_READ(info, si_code) > 0;
}

SEC("lsm/task_kill")
int BPF_PROG(task_kill, struct task_struct *p, struct kernel_siginfo *info, int sig,
	     const struct cred *cred, int ret)
{
	EVENT(e, task_kill, ret);
	struct tsem_task *target;

	if (!modeled(&e) || sig == SIGURG || sent_by_kernel(info))
		return unraised(&e);
	if (!event_begin(&e))
		return unraised(&e);
	target = task_at(number_of(p));
	cell_task(&e, target);
	cell_scalar(&e, sig);
	cell_scalar(&e, (target ? target->namespace : 0) != e.task->namespace);
	return event_end(&e);
}

PLAIN_HOOK(task_setpgid, ATOMIC, ARGS(struct task_struct *p, pid_t pgid),
	   cell_task_at(&e, p), cell_task(&e, task_at(task_by_vpid(e.buf, pgid))))

PLAIN_HOOK(task_getpgid, ATOMIC, ARGS(struct task_struct *p), cell_task_at(&e, p))

PLAIN_HOOK(task_getsid, ATOMIC, ARGS(struct task_struct *p), cell_task_at(&e, p))

PLAIN_HOOK(task_setnice, ATOMIC, ARGS(struct task_struct *p, int nice),
	   cell_task_at(&e, p), cell_scalar(&e, nice))

PLAIN_HOOK(task_setioprio, ATOMIC, ARGS(struct task_struct *p, int ioprio),
	   cell_task_at(&e, p), cell_scalar(&e, ioprio))

PLAIN_HOOK(task_getioprio, ATOMIC, ARGS(struct task_struct *p), cell_task_at(&e, p))

PLAIN_HOOK(task_prlimit, ATOMIC,
	   ARGS(const struct cred *cred, const struct cred *tcred, unsigned int flags),
	   cell_creds(&e, cred), cell_creds(&e, tcred), cell_scalar(&e, flags))

PLAIN_HOOK(task_setrlimit, ATOMIC,
	   ARGS(struct task_struct *p, unsigned int resource, struct rlimit *new_rlim),
	   cell_task_at(&e, p), cell_scalar(&e, resource), cell_scalar(&e, new_rlim->rlim_cur),
	   cell_scalar(&e, new_rlim->rlim_max))

/* Called in many contexts: cgroups hold locks meanwhile. */
PLAIN_HOOK(task_setscheduler, ATOMIC, ARGS(struct task_struct *p), cell_task_at(&e, p))

PLAIN_HOOK(task_getscheduler, ATOMIC, ARGS(struct task_struct *p), cell_task_at(&e, p))

#define PR_SET_NAME 15
#define PR_GET_NAME 16

/*
 * With 0 the kernel goes on to the function that programs of the hook are attached to, and that
 * answers -ENOSYS: nobody has handled the option. The address of a name means nothing.
 */
PLAIN_HOOK(task_prctl, ATOMIC,
	   ARGS(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4,
		unsigned long arg5),
	   cell_scalar(&e, option),
	   cell_scalar(&e, option == PR_SET_NAME || option == PR_GET_NAME ? 0 : arg2),
	   cell_scalar(&e, arg3), cell_scalar(&e, arg4), cell_scalar(&e, arg5))

PLAIN_HOOK(ptrace_access_check, ATOMIC, ARGS(struct task_struct *child, unsigned int mode),
	   cell_task_at(&e, child), cell_scalar(&e, mode))

PLAIN_HOOK(ptrace_traceme, ATOMIC, ARGS(struct task_struct *parent), cell_task_at(&e, parent))

PLAIN_HOOK(capable, ATOMIC,
	   ARGS(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts),
	   cell_scalar(&e, cap), cell_scalar(&e, opts))

static __always_inline void cell_capabilities(struct event *e, const kernel_cap_t *set)
{
	__u64 bits = 0;

	bpf_probe_read_kernel(&bits, sizeof(bits), set);
	cell_scalar(e, bits);
}

/* About another task it is called in a section of RCU, where nobody may sleep. */
PLAIN_HOOK(capget, ATOMIC,
	   ARGS(const struct task_struct *target, kernel_cap_t *effective,
		kernel_cap_t *inheritable, kernel_cap_t *permitted),
	   cell_task_at(&e, target), cell_capabilities(&e, effective),
	   cell_capabilities(&e, inheritable), cell_capabilities(&e, permitted))

/*
 * Also where nothing is changed in the end. The new credentials are still a copy of the old ones, which
 * are those of the task, or of the kernel where a service of it asks.
 */
PLAIN_HOOK(cred_prepare, SLEEPABLE, ARGS(struct cred *new, const struct cred *old, unsigned int gfp),
	   cell_creds(&e, old))

/* The credentials do not have the capabilities yet that they get in the new namespace. */
PLAIN_HOOK(userns_create, SLEEPABLE, ARGS(const struct cred *cred), cell_creds(&e, cred))

PLAIN_HOOK(capset, ATOMIC,
	   ARGS(struct cred *new, const struct cred *old, const kernel_cap_t *effective,
		const kernel_cap_t *inheritable, const kernel_cap_t *permitted),
	   cell_capabilities(&e, effective), cell_capabilities(&e, inheritable),
	   cell_capabilities(&e, permitted))
