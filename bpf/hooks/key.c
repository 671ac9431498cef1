/* SPDX-License-Identifier: GPL-2.0-only */
/* key_alloc: a key is made: the credentials it is made with, flags. */
#include "../cells.h"

PLAIN_HOOK(key_alloc, ATOMIC, ARGS(struct key *key, const struct cred *cred, unsigned long flags),
	   cell_creds(&e, cred), cell_scalar(&e, flags))
