/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * kernel_read_file: the kernel reads a file for its own use (a module, firmware): FILE,
 * the use, whether all of it is read.
 */
#include "../file.h"

SEC("lsm.s/kernel_read_file")
int BPF_PROG(kernel_read_file, struct file *file, int id, bool contents, int ret)
{
	EVENT(e, kernel_read_file, ret);
	struct digest digest;

	if (!modeled(&e))
		return unraised(&e);
	take_digest(&e, file, DIGEST_PSEUDO | DIGEST_ZERO, &digest);
	if (!event_begin(&e))
		return unraised(&e);
	cell_file(&e, file, &digest);
	cell_scalar(&e, id);
	cell_scalar(&e, contents);
	return event_end(&e);
}
