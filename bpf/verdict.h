/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a hook waits until user space has decided about its event. The slot of the task is
 * the authority. The gate only makes the task sleep and wakes it: asking for an extended
 * attribute of a file whose filesystem (FUSE) is served by the keeper is the one way in
 * which a program can wait for a process, and be killed meanwhile.
 *
 *   ticket_draw   the slot of the task, with a new ticket; both stand in the record
 *   look          is the verdict there? A keeper that is awake is quicker than any sleep
 *   gate_ask      sleep, if the hook can
 *   settle        what the verdict means for the event, and for the task
 */
#ifndef TSEM_VERDICT_H
#define TSEM_VERDICT_H

#include "wait.h"

/* Since 6.12 all of them are there. */
extern struct task_struct *bpf_task_acquire(struct task_struct *p) __ksym __weak;
extern void bpf_task_release(struct task_struct *p) __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;
extern struct file *bpf_get_task_exe_file(struct task_struct *task) __ksym __weak;
extern int bpf_get_file_xattr(struct file *file, const char *name__str,
			      struct bpf_dynptr *value) __ksym __weak;
extern void bpf_put_file(struct file *file) __ksym __weak;

/*
 * The gate process of a namespace, by the index of that. Its executable is the gate. Not
 * by its process id, which another process can have later.
 */
struct gate {
	struct task_struct __kptr *process;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TSEM_NAMESPACES_MAX);
	__type(key, __u32);
	__type(value, struct gate);
} gates SEC(".maps");

/* Where the bytes of the attribute would go. None ever come: its length is the question. */
static __u8 answer[TSEM_SLOTS_MAX];

/* Run by a process that is about to become the gate process; it stays the same task. */
SEC("syscall")
int gate_register(__u32 *context)
{
	struct task_struct *process = bpf_task_acquire(bpf_get_current_task_btf());
	__u32 index = *context;
	struct gate *gate;

	if (!process)
		return -ESRCH;
	gate = bpf_map_lookup_elem(&gates, &index);
	if (!gate) {
		bpf_task_release(process);
		return -ENOENT;
	}
	process = bpf_kptr_xchg(&gate->process, process);
	if (process)
		bpf_task_release(process);
	return 0;
}

/* How many slots a task tries. If half of all are taken, one in 2^64 finds none. */
#define SLOT_TRIES 64

struct slot_search {
	__u64 address;
	__u32 slot;
	__u32 pad;
};

static long slot_step(__u32 i, struct slot_search *search)
{
	__u32 index = ((search->address >> 6) + i) % TSEM_SLOTS_MAX;
	struct tsem_slot *s = bpf_map_lookup_elem(&slots, &index);

	if (!index || !s || s->owner || __sync_val_compare_and_swap(&s->owner, 0, search->address))
		return 0;
	search->slot = index;
	return 1;
}

/* Takes a slot for a task that joins a namespace with an agent. */
static __always_inline void slot_take(__u64 address)
{
	struct slot_search search = { .address = address };
	struct tsem_task *t = task_at(address);
	struct tsem_namespace *ns;
	struct tsem_slot *s;

	if (!t || t->slot)
		return;
	ns = namespace_of(t);
	if (!ns || !(ns->flags & TSEM_NS_EXTERNAL))
		return;
	bpf_loop(SLOT_TRIES, slot_step, &search, 0);
	s = bpf_map_lookup_elem(&slots, &search.slot);
	if (!search.slot || !s)
		return;
	__sync_lock_test_and_set(&s->trust, t->tnum << 8 | TSEM_TRUST_TRUSTED);
	t->slot = search.slot;
}

/* Gives the slot of a task back that will not wait any more. */
static __always_inline void slot_release(struct tsem_task *t)
{
	__u32 index = t->slot;
	struct tsem_slot *s = bpf_map_lookup_elem(&slots, &index);

	t->slot = 0;
	if (index && s)
		__sync_lock_test_and_set(&s->owner, 0);
}

/* The namespace has a task less. */
static __always_inline void task_leave(__u64 address)
{
	struct tsem_task *t = task_at(address);
	struct tsem_namespace *ns;
	__u32 index;

	if (!t || t->left)
		return;
	t->left = 1;
	slot_release(t);
	index = t->ns_index;
	ns = bpf_map_lookup_elem(&namespaces, &index);
	if (ns && ns->id == t->namespace)
		__sync_fetch_and_sub(&ns->tasks, 1);
}

/*
 * A task joins the namespace at an index, and leaves any other one. Returns 0, or a negative
 * errno; it is where it was if that namespace takes no tasks. A process runs it on its own behalf
 * before it becomes the first program of the namespace. (A child that is born in a namespace
 * where hooks wait could wait for its parent, the keeper, before its exec, while the keeper
 * waits for that exec.) Or the keeper runs it for a task that sleeps meanwhile, in a request
 * that the keeper has to answer.
 */
SEC("syscall")
int task_enter(struct tsem_entry *context)
{
	__u64 address = context->address ?: bpf_get_current_task();
	__u32 index = context->index;

	if (!is_open(bpf_map_lookup_elem(&namespaces, &index)))
		return -EBUSY;
	/* It may be in a namespace already, as a child of a keeper that is. */
	task_leave(address);
	task_forget(address);
	if (!task_join(address, index, NULL))
		return -EBUSY;
	slot_take(address);
	return 0;
}

/*
 * Draws the next ticket of a slot and writes both into a record. From here on the event
 * can be decided.
 */
static __always_inline void ticket_draw(struct buffer *buf, __u32 slot)
{
	struct tsem_slot *s = bpf_map_lookup_elem(&slots, &slot);
	__u64 ticket;

	if (!s)
		return;
	ticket = (s->word >> 8) + 1;
	buf->head.slot = slot;
	buf->head.ticket = ticket;
	s->time = buf->head.time;
	s->tid = buf->head.tid;
	s->hook = buf->head.hook;
	s->ns_index = buf->ns_index;
	s->namespace = buf->head.namespace;
	/* An exchange is a full barrier: who sees the record sees the ticket. */
	__sync_lock_test_and_set(&s->word, ticket << 8);
}

/*
 * How often a task looks into its slot while its keeper is awake: longer than an answer
 * takes that is on its way, and short enough for a hook that holds a spinlock. About 70 us
 * where an emulated CPU does it.
 */
#define LOOKS 4000

static long look_step(__u32 i, __u32 *slot)
{
	return decided(*slot);
}

/*
 * Looks for the verdict, and goes on looking while the keeper is awake: then it is there
 * sooner than a task could fall asleep. Who has looked in vain takes the mark away, for the
 * keeper may have lost its CPU; nobody else looks in vain until it is back. Says whether the
 * verdict is there; not if only the last look has found it.
 */
SHARED int look(struct tsem_namespace *ns, __u32 slot)
{
	__u32 awake, looks;

	if (!ns)
		return true;
	awake = *(volatile __u32 *)&ns->awake & 1;
	looks = 2 + LOOKS * awake;
	if (bpf_loop(looks, look_step, &slot, 0) < looks)
		return true;
	__sync_fetch_and_and(&ns->awake, ~awake);
	return false;
}

/* Sleeps until the keeper answers, or nobody can; which of these, only the slot tells. */
static __always_inline void gate_ask(__u32 ns_index, __u32 slot)
{
	struct gate *gate = bpf_map_lookup_elem(&gates, &ns_index);
	struct task_struct *process;
	struct bpf_dynptr value;
	struct file *file;

	if (!gate)
		return;
	bpf_rcu_read_lock();
	process = gate->process;
	if (process)
		process = bpf_task_acquire(process);
	bpf_rcu_read_unlock();
	if (!process)
		return;
	file = bpf_get_task_exe_file(process);
	bpf_task_release(process);
	if (!file)
		return;
	bpf_dynptr_from_mem(answer, slot % TSEM_SLOTS_MAX, 0, &value);
	bpf_get_file_xattr(file, "user.tsem", &value);
	bpf_put_file(file);
}

/*
 * The end of a wait: where nobody has decided, the task does, and from here on the verdict
 * cannot change. Counts it, distrusts the task if that is what it means, and says whether the
 * event may happen. An event that was not judged in time is as good as untrusted where that
 * refuses it; and so is one whose task was distrusted while it waited, because of something
 * that it had done before. Without branches, each of which the verifier would walk twice.
 * (Nobody decides in slot 0, so that nothing is distrusted there.)
 */
SHARED int settle(struct tsem_namespace *ns, __u32 slot, __u16 hook, __u32 otherwise)
{
	struct tsem_slot *s = bpf_map_lookup_elem(&slots, &slot);
	__u64 word, verdict, refused, distrusting, distrusted;

	if (!ns || !s)
		return false;
	word = *(volatile __u64 *)&s->word;
	/* Undecided, the word is the ticket alone. */
	__sync_val_compare_and_swap(&s->word, word & ~0xffULL, word | otherwise);
	verdict = *(volatile __u64 *)&s->word % TSEM_VERDICT_MAX;
	__sync_fetch_and_add(&ns->verdicts[verdict], 1);
	distrusted = *(volatile __u64 *)&s->trust / TSEM_TRUST_UNTRUSTED % 2;
	refused = denies(ns, hook) & (distrusted | ~(ns->passing >> verdict));
	distrusting = 1 << TSEM_VERDICT_UNTRUSTED | refused << TSEM_VERDICT_LATE;
	__sync_fetch_and_or(&s->trust, (distrusting >> verdict & 1) * TSEM_TRUST_UNTRUSTED);
	__sync_fetch_and_add(&ns->denied, refused);
	return !refused;
}

/* Waits for the verdict about an event of a hook that can sleep: may it happen? */
SHARED int allowed(struct tsem_namespace *ns, __u32 ns_index, __u32 slot, __u16 hook)
{
	if (!look(ns, slot) && bpf_get_file_xattr)
		gate_ask(ns_index, slot);
	return settle(ns, slot, hook, TSEM_VERDICT_UNASKED);
}

/* The same where there is no gate. */
static __always_inline bool allowed_by_polling(struct tsem_namespace *ns, const struct tsem_task *t, __u16 hook)
{
	enum tsem_verdict otherwise = TSEM_VERDICT_UNASKED;

	if (!look(ns, t->slot))
		otherwise = wait_for_verdict(ns, t);
	return settle(ns, t->slot, hook, otherwise);
}

/*
 * The same in a hook that cannot sleep. A verdict that comes after it has looked distrusts
 * the task, if that is what it means, and hits its next event.
 */
SHARED int allowed_now(struct tsem_namespace *ns, __u32 slot, __u16 hook)
{
	look(ns, slot);
	return settle(ns, slot, hook, TSEM_VERDICT_UNWAITED);
}

#endif
