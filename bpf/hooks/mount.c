/* SPDX-License-Identifier: GPL-2.0-only */
/* sb_mount: something is mounted: device, PATH of the mount point, filesystem, flags. */
#include "../path.h"

PLAIN_HOOK(sb_mount, SLEEPABLE,
	   ARGS(const char *dev_name, const struct path *path, const char *type,
		unsigned long flags, void *data),
	   cell_string(&e, dev_name), cell_path(&e, path, &(struct created){}),
	   cell_string(&e, type), cell_scalar(&e, flags))
