/* SPDX-License-Identifier: GPL-2.0-only */
/* key_alloc: a key is made: the credentials it is made with, flags. */
#include "../cells.h"

SEC("lsm/key_alloc")
int BPF_PROG(key_alloc, struct key *key, const struct cred *cred, unsigned long flags, int ret)
{
	EVENT(e, key_alloc, ret);

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	cell_creds(&e, cred);
	cell_scalar(&e, flags);
	return event_end(&e);
}
