/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * System V IPC objects.
 *
 * shm_shmat: shared memory is attached: the segment with its owner, flags.
 *
 * Bookkeeping: shm_alloc_security and shm_free_security, who created a segment.
 */
#include "../cells.h"

SEC("lsm/shm_alloc_security")
int BPF_PROG(shm_alloc_security, struct kern_ipc_perm *perm, int ret)
{
	struct tsem_task *t = booked_task();
	__u64 key = (__u64)perm, owner;

	if (!t)
		return ret;
	owner = t->identity;
	bpf_map_update_elem(&ipc_objects, &key, &owner, BPF_ANY);
	return ret;
}

SEC("lsm/shm_free_security")
int BPF_PROG(shm_free_security, struct kern_ipc_perm *perm)
{
	__u64 key = (__u64)perm;

	bpf_map_delete_elem(&ipc_objects, &key);
	return 0;
}

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

PLAIN_HOOK(shm_shmat, ATOMIC, ARGS(struct kern_ipc_perm *perm, char *address, int shmflg),
	   cell_ipc(&e, perm), cell_scalar(&e, shmflg))
