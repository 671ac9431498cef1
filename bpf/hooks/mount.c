/* SPDX-License-Identifier: GPL-2.0-only */
/* Mounts. */

SEC("lsm.s/sb_mount")
int BPF_PROG(sb_mount, const char *dev_name, const struct path *path, const char *type,
	     unsigned long flags)
{
	struct created none = {};
	struct event e;

	if (!modeled(&e) || !event_begin(&e, EVENT(sb_mount)))
		return 0;
	cell_string(&e, dev_name);
	cell_path(&e, path, &none);
	cell_string(&e, type);
	cell_scalar(&e, flags);
	event_end(&e);
	return 0;
}
