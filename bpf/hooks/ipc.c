/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * System V IPC objects; IPC is an object with its owner.
 *
 * shm_associate, sem_associate, msg_queue_associate: an object is found by its key: IPC, flags.
 * shm_shmctl, sem_semctl, msg_queue_msgctl: a request to it: IPC, command.
 * shm_shmat: shared memory is attached: IPC, flags.
 * sem_semop: semaphores are changed or looked at: IPC, number of operations, is one a change?
 * msg_queue_msgsnd: a message is sent: IPC, flags.
 * msg_queue_msgrcv: it is received: IPC, TASK_ID of the receiver, type, mode.
 * ipc_permission: the mode of an object is looked at: IPC, what is wanted.
 *
 * Bookkeeping: the hooks of objects that are made and freed, who created them.
 */
#include "../cells.h"

static __always_inline void ipc_created(struct kern_ipc_perm *perm)
{
	struct tsem_task *t = booked_task();
	__u64 key = (__u64)perm, owner;

	if (!t)
		return;
	owner = t->identity;
	bpf_map_update_elem(&ipc_objects, &key, &owner, BPF_ANY);
}

static __always_inline void ipc_freed(struct kern_ipc_perm *perm)
{
	__u64 key = (__u64)perm;

	bpf_map_delete_elem(&ipc_objects, &key);
}

#define IPC_BOOKS(kind)							\
	SEC("lsm/" #kind "_alloc_security")				\
	int BPF_PROG(kind##_alloc_security, struct kern_ipc_perm *perm, int ret)	\
	{								\
		ipc_created(perm);					\
		return ret;						\
	}								\
									\
	SEC("lsm/" #kind "_free_security")				\
	int BPF_PROG(kind##_free_security, struct kern_ipc_perm *perm)	\
	{								\
		ipc_freed(perm);					\
		return 0;						\
	}

IPC_BOOKS(shm)

IPC_BOOKS(sem)

IPC_BOOKS(msg_queue)

SHARED int describe_ipc(struct buffer *buf, __u64 address)
{
	const struct kern_ipc_perm *perm;
	struct tsem_ipc *i;
	__u64 *owner;

	if (!buf)
		return 0;
	i = cell_in(buf, TSEM_CELL_IPC, sizeof(*i));
	if (!i)
		return 0;
	perm = LOOK(buf, struct kern_ipc_perm, address);
	i->uid = map_uid(buf, perm->uid.val);
	i->gid = map_gid(buf, perm->gid.val);
	i->cuid = map_uid(buf, perm->cuid.val);
	i->cgid = map_gid(buf, perm->cgid.val);
	i->mode = perm->mode;
	i->pad = 0;
	owner = bpf_map_lookup_elem(&ipc_objects, &address);
	i->owner = owner ? *owner : 0;
	return 0;
}

static __always_inline void cell_ipc(struct event *e, struct kern_ipc_perm *perm)
{
	describe_ipc(e->buf, address_of(e->buf, perm));
}

/* include/uapi/linux/ipc.h, shm.h, sem.h, msg.h: about all objects, and none is given. */
#define IPC_INFO 3
#define MSG_INFO 12
#define SHM_INFO 14
#define SEM_INFO 19

static __always_inline bool control_event(struct event *e, int cmd, int info)
{
	return modeled(e) && cmd != IPC_INFO && cmd != info && event_begin(e);
}

PLAIN_HOOK(shm_associate, ATOMIC, ARGS(struct kern_ipc_perm *perm, int shmflg),
	   cell_ipc(&e, perm), cell_scalar(&e, shmflg))

EVENT_HOOK(shm_shmctl, ATOMIC, ARGS(struct kern_ipc_perm *perm, int cmd),
	   control_event(&e, cmd, SHM_INFO), cell_ipc(&e, perm), cell_scalar(&e, cmd))

PLAIN_HOOK(shm_shmat, ATOMIC, ARGS(struct kern_ipc_perm *perm, char *address, int shmflg),
	   cell_ipc(&e, perm), cell_scalar(&e, shmflg))

PLAIN_HOOK(sem_associate, ATOMIC, ARGS(struct kern_ipc_perm *perm, int semflg),
	   cell_ipc(&e, perm), cell_scalar(&e, semflg))

EVENT_HOOK(sem_semctl, ATOMIC, ARGS(struct kern_ipc_perm *perm, int cmd),
	   control_event(&e, cmd, SEM_INFO), cell_ipc(&e, perm), cell_scalar(&e, cmd))

PLAIN_HOOK(sem_semop, ATOMIC,
	   ARGS(struct kern_ipc_perm *perm, struct sembuf *sops, unsigned int nsops, int alter),
	   cell_ipc(&e, perm), cell_scalar(&e, nsops), cell_scalar(&e, alter))

PLAIN_HOOK(msg_queue_associate, ATOMIC, ARGS(struct kern_ipc_perm *perm, int msqflg),
	   cell_ipc(&e, perm), cell_scalar(&e, msqflg))

EVENT_HOOK(msg_queue_msgctl, ATOMIC, ARGS(struct kern_ipc_perm *perm, int cmd),
	   control_event(&e, cmd, MSG_INFO), cell_ipc(&e, perm), cell_scalar(&e, cmd))

PLAIN_HOOK(msg_queue_msgsnd, ATOMIC,
	   ARGS(struct kern_ipc_perm *perm, struct msg_msg *msg, int msqflg),
	   cell_ipc(&e, perm), cell_scalar(&e, msqflg))

PLAIN_HOOK(msg_queue_msgrcv, ATOMIC,
	   ARGS(struct kern_ipc_perm *perm, struct msg_msg *msg, struct task_struct *target,
		long type, int mode),
	   cell_ipc(&e, perm), cell_task_at(&e, target), cell_scalar(&e, type),
	   cell_scalar(&e, mode))

PLAIN_HOOK(ipc_permission, ATOMIC, ARGS(struct kern_ipc_perm *ipcp, short flag),
	   cell_ipc(&e, ipcp), cell_scalar(&e, flag))
