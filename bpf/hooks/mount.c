/* SPDX-License-Identifier: GPL-2.0-only */
/* sb_mount: something is mounted: device, PATH of the mount point, filesystem, flags. */
#include "../path.h"

SEC("lsm.s/sb_mount")
int BPF_PROG(sb_mount, const char *dev_name, const struct path *path, const char *type,
	     unsigned long flags, void *data, int ret)
{
	EVENT(e, sb_mount, ret);
	struct created none = {};

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	cell_string(&e, dev_name);
	cell_path(&e, path, &none);
	cell_string(&e, type);
	cell_scalar(&e, flags);
	return event_end(&e);
}
