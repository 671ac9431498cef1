/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * BPF.
 *
 * bpf: a system call of that name: the command, the size of its attributes.
 * bpf_map: a task gets a descriptor of a BPF map: the type of the map, the mode.
 * bpf_prog: a task gets a descriptor of a BPF program: its type, what it is to be attached to.
 */
#include "../cells.h"

/*
 * In 7.3 a fourth argument says whether the kernel itself calls. So the answer of an earlier
 * program has no fixed place behind them.
 */
SEC("lsm.s/bpf")
int BPF_PROG(bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	EVENT(e, bpf, 0);

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	cell_scalar(&e, cmd);
	cell_scalar(&e, size);
	return event_end(&e);
}

PLAIN_HOOK(bpf_map, SLEEPABLE, ARGS(struct bpf_map *map, fmode_t fmode),
	   cell_scalar(&e, map->map_type), cell_scalar(&e, fmode))

PLAIN_HOOK(bpf_prog, SLEEPABLE, ARGS(struct bpf_prog *prog),
	   cell_scalar(&e, prog->type), cell_scalar(&e, prog->expected_attach_type))
