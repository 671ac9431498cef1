/* SPDX-License-Identifier: GPL-2.0-only */
/* bpf_map: a task gets a descriptor of a BPF map: the type of the map, the mode. */
#include "../cells.h"

SEC("lsm.s/bpf_map")
int BPF_PROG(bpf_map, struct bpf_map *map, fmode_t fmode, int ret)
{
	EVENT(e, bpf_map, ret);

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	cell_scalar(&e, map->map_type);
	cell_scalar(&e, fmode);
	return event_end(&e);
}
