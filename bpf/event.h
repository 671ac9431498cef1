/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a raised event to a numbered record in the magazine:
 *
 *   EVENT         the event of a hook, unless an earlier BPF program refused it
 *   modeled       does the task live in a modeling namespace that wants such events?
 *   event_begin   count the event, wait for room, claim a buffer, header
 *   (cells.h ...) describe
 *   event_end     reserve, number, write, submit; or refuse and count why; where the
 *                 namespace has an agent, wait for its verdict (verdict.h). An event of an
 *                 untrusted task waits for none: its record says what becomes of it
 */
#ifndef TSEM_EVENT_H
#define TSEM_EVENT_H

#include "magazine.h"
#include "task.h"
#include "verdict.h"

struct event {
	struct tsem_namespace *ns;
	struct tsem_task *task;
	struct buffer *buf;	/* from event_begin to event_end */
	__u8 unraised;		/* enum ending, where there is no record */
	__u16 hook;		/* enum tsem_hook */
	bool atomic;		/* the program cannot sleep, whatever the hook may */
};

/*
 * A result. The verifier wants to see its range; what the compiler keeps in a register
 * meanwhile it may forget, as soon as there is a loop.
 */
#define RESULT(value)								\
	({									\
		long __result;							\
		asm volatile("%0 = %1" : "=r"(__result) : "i"(value));		\
		(int)__result;							\
	})

/*
 * Begins the program of a hook, with its event. ret, the argument that follows the hook's
 * own, is what the BPF programs before this one answered: what they refused does not happen
 * and is no event. It is returned here, as it came, for the verifier knows its range.
 */
#define EVENT_AS(e, name, in_atomic, ret)					\
	struct event e = { .hook = TSEM_HOOK_##name, .atomic = in_atomic };	\
	if (ret)								\
		return ret

#define EVENT(e, name, ret) EVENT_AS(e, name, false, ret)
/* An event that is raised in another hook than its own, which cannot sleep. */
#define EVENT_ATOMIC(e, name, ret) EVENT_AS(e, name, true, ret)

/* What the list says of a hook (hooks.h); a constant where the hook is one. */
static __always_inline enum tsem_kind listed_kind(__u16 hook)
{
	switch (hook) {
#define HOOK(name, ordinal, context)		\
	case ordinal:				\
		return TSEM_KIND_OF_##context;
	TSEM_HOOKS(HOOK)
#undef HOOK
	}
	return TSEM_KIND_EXEC;
}

static __always_inline bool may_sleep(const struct event *e)
{
	return !e->atomic && listed_kind(e->hook) != TSEM_KIND_ASYNC && sleepable[e->hook];
}

/* What the record is: a hook that cannot sleep on this kernel is atomic, whatever the list says. */
static __always_inline enum tsem_kind kind_of(const struct event *e)
{
	enum tsem_kind listed = listed_kind(e->hook);

	return listed == TSEM_KIND_EVENT && !may_sleep(e) ? TSEM_KIND_ASYNC : listed;
}

/* Whose part of the reserve the record may use. */
static __always_inline enum tsem_share_of share_of(const struct event *e)
{
	if (kind_of(e) == TSEM_KIND_EVENT)
		return TSEM_SHARE_NONE;
	if (e->atomic)
		return TSEM_SHARE_elsewhere;
	switch (e->hook) {
#define HOOK(name, ordinal, context)		\
	case ordinal:				\
		return TSEM_SHARE_##name;
	TSEM_HOOKS(HOOK)
#undef HOOK
	}
	return TSEM_SHARE_bprm_committed_creds;
}

/*
 * Is the task in a namespace? The first question of a hook that keeps books, whether it
 * raises events or not.
 */
static __always_inline bool booked(struct event *e)
{
	e->task = current_task();
	if (!e->task)
		return false;
	e->ns = namespace_of(e->task);
	return e->ns;
}

/* Does its namespace want the events of the hook? */
static __always_inline bool wanted(const struct event *e)
{
	return e->ns->events[e->hook / 64] >> e->hook % 64 & 1;
}

/* The first question of every other hook; cheap where the answer is no. */
static __always_inline bool modeled(struct event *e)
{
	return booked(e) && wanted(e);
}

/* How an event ends. */
enum ending {
	HAPPENS,
	DENIED,
	NO_ROOM,
	JUDGED,		/* by a verdict that is still to come */
};

/* The result of a hook whose event ends in a way. */
static __always_inline int result_of(enum ending ending)
{
	if (ending == DENIED)
		return RESULT(-EPERM);
	if (ending == NO_ROOM)
		return RESULT(-ENOMEM);
	return RESULT(0);
}

/* An event that nobody can judge any more is none that anybody is told of. */
static __always_inline bool orphaned(struct event *e, enum tsem_kind kind)
{
	if (!(e->ns->flags & TSEM_NS_ORPHANED))
		return false;
	lost(e->ns, e->hook, kind, TSEM_REFUSED_ORPHANED);
	e->unraised = denies(e->ns, e->hook) * DENIED;
	return true;
}

/*
 * Starts the event of a modeled task. What it returns true for ends in event_end. What
 * cannot be described does not happen in a namespace with an agent: nobody could judge it.
 */
static __always_inline bool event_begin(struct event *e)
{
	enum tsem_kind kind = kind_of(e);
	__u32 index = NO_BUFFER;

	if (kind != TSEM_KIND_EXEC)
		__sync_fetch_and_add(&e->ns->raised, 1);
	if (orphaned(e, kind))
		return false;
	if (may_sleep(e))
		index = wait_for_room(e->task);
	index = record_begin(e->task, e->ns, index, e->hook, kind);
	e->buf = bpf_map_lookup_elem(&buffers, &index);
	if (e->buf) {
		e->buf->head.share = share_of(e);
		return true;
	}
	e->unraised = e->ns->flags & TSEM_NS_EXTERNAL ? NO_ROOM : HAPPENS;
	return false;
}

/* What a hook returns for which the beginning of an event was false. */
static __always_inline int unraised(const struct event *e)
{
	return result_of(e->unraised);
}

/* Ends a record that is no event: says whether it is in the magazine. The buffer is gone. */
static __always_inline bool event_put(struct event *e)
{
	struct buffer *buf = e->buf;

	e->buf = NULL;
	return record_end(buf, e->ns);
}

/* Puts the record of an event into the magazine, and says how the event ends. */
static __always_inline enum ending conclude(struct buffer *buf, struct tsem_namespace *ns, __u32 slot,
					    bool with_value)
{
	__u8 kind = buf->head.kind;
	bool there;

	if (!(ns->flags & TSEM_NS_EXTERNAL)) {
		with_value ? record_end_with_value(buf, ns) : record_end(buf, ns);
		return HAPPENS;
	}
	if (slot && kind != TSEM_KIND_LOG && kind != TSEM_KIND_DENY)
		ticket_draw(buf, slot);
	there = with_value ? record_end_with_value(buf, ns) : record_end(buf, ns);
	if (!there)
		return NO_ROOM;
	if (kind == TSEM_KIND_LOG)
		return HAPPENS;
	return kind == TSEM_KIND_DENY ? DENIED : JUDGED;
}

SHARED int event_conclude(struct buffer *buf, struct tsem_namespace *ns, __u32 slot)
{
	return buf && ns ? conclude(buf, ns, slot, false) : NO_ROOM;
}

SHARED int event_conclude_with_value(struct buffer *buf, struct tsem_namespace *ns, __u32 slot)
{
	return buf && ns ? conclude(buf, ns, slot, true) : NO_ROOM;
}

/* Does the event happen that is to be judged? */
static __always_inline bool trusted(const struct event *e)
{
	if (!may_sleep(e))
		return allowed_now(e->ns, e->task->slot, e->hook);
	if (polls)
		return allowed_by_polling(e->ns, e->task, e->hook);
	return allowed(e->ns, e->task->ns_index, e->task->slot, e->hook);
}

/* Ends an event, and with it its hook: what it returns is the hook's result. */
static __always_inline int event_end_as(struct event *e, bool with_value)
{
	struct buffer *buf = e->buf;
	enum ending ending;

	e->buf = NULL;
	ending = with_value ? event_conclude_with_value(buf, e->ns, e->task->slot)
			    : event_conclude(buf, e->ns, e->task->slot);
	if (ending == JUDGED)
		ending = trusted(e) ? HAPPENS : DENIED;
	return result_of(ending);
}

static __always_inline int event_end(struct event *e)
{
	return event_end_as(e, false);
}

/* The same of an event that has a cell_value. */
static __always_inline int event_end_with_value(struct event *e)
{
	return event_end_as(e, true);
}

#endif
