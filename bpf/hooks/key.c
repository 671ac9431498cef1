/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Keys.
 *
 * key_alloc: a key is made: the credentials it is made with, flags.
 * key_permission: access to a key is wanted: KEY (does the task possess it, owner, group,
 *	flags), the credentials that want it, the permissions that the key gives.
 */
#include "../cells.h"

PLAIN_HOOK(key_alloc, ATOMIC, ARGS(struct key *key, const struct cred *cred, unsigned long flags),
	   cell_creds(&e, cred), cell_scalar(&e, flags))

/* include/linux/key.h, struct key_reference_with_attributes: this bit of the address tells. */
#define KEY_POSSESSED 1ULL

SHARED int describe_key(struct buffer *buf, __u64 ref)
{
	const struct key *key;

	if (!buf)
		return 0;
	key = LOOK(buf, struct key, ref & ~KEY_POSSESSED);
	cell_number(buf, TSEM_CELL_SCALAR, ref & KEY_POSSESSED);
	cell_number(buf, TSEM_CELL_SCALAR, map_uid(buf, key->uid.val));
	cell_number(buf, TSEM_CELL_SCALAR, map_gid(buf, key->gid.val));
	cell_number(buf, TSEM_CELL_SCALAR, key->flags);
	return 0;
}

/* The reference is no pointer to anything, so that the verifier gives it out only through the helper. */
SEC("lsm/key_permission")
int BPF_PROG(key_permission, void *unreadable, const struct cred *cred, int need_perm, int ret)
{
	EVENT(e, key_permission, ret);
	__u64 ref = 0;

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	bpf_get_func_arg(ctx, 0, &ref);
	describe_key(e.buf, ref);
	cell_creds(&e, cred);
	cell_scalar(&e, FIELD(struct key, ref & ~KEY_POSSESSED, perm));
	return event_end(&e);
}
