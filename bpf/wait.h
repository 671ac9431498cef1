/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a hook that can sleep waits by looking again and again: for room in the magazine, and,
 * where there is no gate to sleep in (verdict.h), for its verdict.
 */
#ifndef TSEM_WAIT_H
#define TSEM_WAIT_H

#include "buffer.h"
#include "task.h"

#define RECORD_MAX (sizeof(struct tsem_record) + CELLS_ROOM + TSEM_VALUE_MAX)

/* A wait for room. */
struct wait {
	__u64 id;		/* of the namespace */
	__u64 until;		/* 0: nothing was waited for yet */
	__u64 address;		/* somewhere in the memory of the task */
	__u32 ns_index;		/* of the namespace */
	__u32 buffer;		/* index, once it is ours */
	__u32 over;		/* there is nothing to wait for any more */
	__u32 pad;
};

#define SIGNAL(number) (1ULL << ((number) - 1))
#define SIGKILL 9

/*
 * A look for a buffer and for room in the magazine beside the reserve, for what the
 * record may become. Says whether the wait is over: with a buffer, or in vain, if the
 * task cannot wait, nobody empties the ring any more, the task shall die, or there is no
 * time left.
 */
SHARED int wait_look(struct wait *w)
{
	const struct task_struct *task = this_task();
	struct tsem_namespace *ns;
	__u32 ns_index;
	__u64 now;
	void *ring;

	if (!w)
		return true;
	ns_index = w->ns_index;
	ns = bpf_map_lookup_elem(&namespaces, &ns_index);
	ring = bpf_map_lookup_elem(&magazines, &ns_index);
	w->over = true;
	if (!ns || !ring)
		return true;
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) <= ns->magazine - ns->reserve - RECORD_MAX)
		w->buffer = buffer_claim();
	/* A task without memory of its own would not give up the CPU. */
	if (w->buffer != NO_BUFFER || !task->mm)
		return true;
	now = bpf_ktime_get_ns();
	if (!w->until) {
		__sync_fetch_and_add(&ns->waited, 1);
		w->until = now + ns->wait;
		w->address = task->mm->arg_start;
	}
	w->over = ns->id != w->id || (ns->flags & (TSEM_NS_CLOSED | TSEM_NS_ORPHANED)) ||
		  (task->pending.signal.sig[0] & SIGNAL(SIGKILL)) || now > w->until;
	return w->over;
}

/*
 * Reading a byte of the task's own memory is a place where the kernel gives the CPU to
 * somebody who needs it, for instance to the keeper that empties the ring; nothing else
 * in reach of a program does that.
 */
static __always_inline void yield_at(__u64 address)
{
	__u8 byte;

	bpf_copy_from_user_task(&byte, sizeof(byte), (void *)address, bpf_get_current_task_btf(), 0);
}

static long wait_step(__u32 round, struct wait *w)
{
	if (wait_look(w))
		return 1;
	yield_at(w->address);
	return 0;
}

/* BPF_MAX_LOOPS of the kernel: some seconds of looks. */
#define LOOPS_MAX (1 << 23)

static long wait_steps(__u32 round, struct wait *w)
{
	bpf_loop(LOOPS_MAX, wait_step, w, 0);
	return w->over ? 1 : 0;
}

/*
 * A sleepable hook waits, bounded, until it can be described and put into the
 * magazine without touching the reserve of the atomic hooks. After the time it
 * goes on as one that cannot wait; the reservation in event_end decides.
 *
 * What sleeps is not SHARED: kernels before 6.8 verify every global function that a
 * program has, called or not, and would refuse it in a program that may not sleep.
 */
static __always_inline __u32 wait_for_room(const struct tsem_task *t)
{
	struct wait w = { .id = t->namespace, .ns_index = t->ns_index, .buffer = NO_BUFFER };

	/* More looks than there is time for. */
	if (!wait_look(&w))
		bpf_loop(LOOPS_MAX, wait_steps, &w, 0);
	return w.buffer;
}

/*
 * A wait for a verdict. It has loops of its own: one pair for both questions costs the verifier more
 * than that, also on kernels where only one of them is ever asked.
 */
struct poll {
	__u64 id;		/* of the namespace */
	__u64 until;
	__u64 address;		/* somewhere in the memory of the task */
	__u32 ns_index;
	__u32 slot;
	__u32 verdict;		/* of the task itself, if nobody else decides */
	__u32 over;
};

/*
 * What does not end a process that does nothing about it: SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP,
 * SIGTTIN, SIGTTOU, SIGURG, SIGWINCH.
 */
#define HARMLESS (SIGNAL(17) | SIGNAL(18) | SIGNAL(19) | SIGNAL(20) | SIGNAL(21) | SIGNAL(22) |	\
		  SIGNAL(23) | SIGNAL(28))

struct signals {
	__u64 pending;
	__u64 actions;		/* address of the first struct k_sigaction */
	__u64 deadly;
};

static long signal_step(__u32 i, struct signals *s)
{
	__u64 handler = 1;

	if (!(s->pending >> i % 64 & 1))
		return 0;
	bpf_probe_read_kernel(&handler, sizeof(handler),
			      (void *)(s->actions + i % 64 * bpf_core_type_size(struct k_sigaction)));
	s->deadly = !handler;
	return s->deadly;
}

/*
 * Shall the task die? The kernel makes SIGKILL of most deadly signals when they are sent, but
 * not of those that dump core, and of none if the thread has another one pending already
 * (kernel/signal.c, complete_signal). It would deliver them when the hook has returned. They are
 * deadly if they are neither blocked nor caught, and if no tracer may take them away.
 */
static __always_inline bool dies(const struct task_struct *task)
{
	struct signals s = {};

	if (task->pending.signal.sig[0] & SIGNAL(SIGKILL))
		return true;
	s.pending = (task->pending.signal.sig[0] | task->signal->shared_pending.signal.sig[0]) &
		    ~task->blocked.sig[0] & ~HARMLESS;
	if (!s.pending || task->ptrace)
		return false;
	s.actions = number_of(task->sighand) + bpf_core_field_offset(struct sighand_struct, action) +
		    bpf_core_field_offset(struct k_sigaction, sa.sa_handler);
	bpf_loop(64, signal_step, &s, 0);
	return s.deadly;
}

/* A look at the slot. Says whether the wait is over. */
static __always_inline bool poll_look(struct poll *p)
{
	struct tsem_namespace *ns = bpf_map_lookup_elem(&namespaces, &p->ns_index);

	if (decided(p->slot))
		return true;
	if (!ns || ns->id != p->id || (ns->flags & (TSEM_NS_CLOSED | TSEM_NS_ORPHANED)))
		p->verdict = TSEM_VERDICT_CLOSED;
	else if (dies(this_task()))
		p->verdict = TSEM_VERDICT_KILLED;
	else if (bpf_ktime_get_ns() > p->until)
		p->verdict = TSEM_VERDICT_LATE;
	return p->verdict;
}

static long poll_step(__u32 round, struct poll *p)
{
	p->over = poll_look(p);
	if (p->over)
		return 1;
	yield_at(p->address);
	return 0;
}

static long poll_steps(__u32 round, struct poll *p)
{
	bpf_loop(LOOPS_MAX, poll_step, p, 0);
	return p->over ? 1 : 0;
}

/*
 * Waits for the verdict in a slot. Returns what the task decides itself if nobody else does:
 * that it cannot wait, since it has no memory of its own and would not give up the CPU; that
 * the namespace has ended; that it shall die; or that there is no time left.
 */
static __always_inline enum tsem_verdict wait_for_verdict(const struct tsem_namespace *ns, const struct tsem_task *t)
{
	struct poll p = { .id = t->namespace, .ns_index = t->ns_index, .slot = t->slot };
	const struct task_struct *task = this_task();

	if (!task->mm)
		return TSEM_VERDICT_UNASKED;
	p.address = task->mm->arg_start;
	p.until = bpf_ktime_get_ns() + ns->deadline;
	bpf_loop(LOOPS_MAX, poll_steps, &p, 0);
	return p.verdict;
}

#endif
