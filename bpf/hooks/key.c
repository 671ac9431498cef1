/* SPDX-License-Identifier: GPL-2.0-only */
/* Keys. */

SEC("lsm/key_alloc")
int BPF_PROG(key_alloc, struct key *key, const struct cred *cred, unsigned long flags)
{
	struct event e;

	if (!modeled(&e) || !event_begin(&e, EVENT(key_alloc)))
		return 0;
	cell_creds(&e, cred);
	cell_scalar(&e, flags);
	event_end(&e);
	return 0;
}
