/* SPDX-License-Identifier: GPL-2.0-only */
/* bpf_map: a task gets a descriptor of a BPF map: the type of the map, the mode. */
#include "../cells.h"

PLAIN_HOOK(bpf_map, SLEEPABLE, ARGS(struct bpf_map *map, fmode_t fmode),
	   cell_scalar(&e, map->map_type), cell_scalar(&e, fmode))
