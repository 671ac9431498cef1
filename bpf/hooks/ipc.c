/* SPDX-License-Identifier: GPL-2.0-only */
/* System V IPC objects and their owners. */

SEC("lsm/shm_alloc_security")
int BPF_PROG(shm_alloc_security, struct kern_ipc_perm *perm)
{
	struct tsem_task *t = current_task();
	__u64 key = (__u64)perm, owner;

	if (!t)
		return 0;
	owner = t->identity;
	bpf_map_update_elem(&ipc_objects, &key, &owner, BPF_ANY);
	return 0;
}

SEC("lsm/shm_free_security")
int BPF_PROG(shm_free_security, struct kern_ipc_perm *perm)
{
	__u64 key = (__u64)perm;

	bpf_map_delete_elem(&ipc_objects, &key);
	return 0;
}

static __always_inline void cell_ipc(struct event *e, struct kern_ipc_perm *perm)
{
	struct user_namespace *ns = event_user_ns(e);
	struct tsem_ipc *i = cell(e, TSEM_CELL_IPC, sizeof(*i));
	__u64 key = (__u64)perm, *owner;

	if (!i)
		return;
	i->uid = map_uid(ns, perm->uid.val);
	i->gid = map_gid(ns, perm->gid.val);
	i->cuid = map_uid(ns, perm->cuid.val);
	i->cgid = map_gid(ns, perm->cgid.val);
	i->mode = perm->mode;
	i->pad = 0;
	owner = bpf_map_lookup_elem(&ipc_objects, &key);
	i->owner = owner ? *owner : 0;
}

SEC("lsm/shm_shmat")
int BPF_PROG(shm_shmat, struct kern_ipc_perm *perm, char *address, int shmflg)
{
	struct event e;

	if (!modeled(&e) || !event_begin(&e, EVENT(shm_shmat)))
		return 0;
	cell_ipc(&e, perm);
	cell_scalar(&e, shmflg);
	event_end(&e);
	return 0;
}
