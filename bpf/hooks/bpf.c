/* SPDX-License-Identifier: GPL-2.0-only */
/* BPF objects. */

SEC("lsm.s/bpf_map")
int BPF_PROG(bpf_map, struct bpf_map *map, fmode_t fmode)
{
	struct event e;

	if (!modeled(&e) || !event_begin(&e, EVENT(bpf_map)))
		return 0;
	cell_scalar(&e, map->map_type);
	cell_scalar(&e, fmode);
	event_end(&e);
	return 0;
}
