/* SPDX-License-Identifier: GPL-2.0-only */
/* What the kernel itself takes in. */

SEC("lsm.s/kernel_read_file")
int BPF_PROG(kernel_read_file, struct file *file, int id, bool contents)
{
	struct digest digest;
	struct event e;

	if (!modeled(&e))
		return 0;
	take_digest(&e, file, DIGEST_PSEUDO | DIGEST_ZERO, &digest);
	if (!event_begin(&e, EVENT(kernel_read_file)))
		return 0;
	cell_file(&e, file, &digest);
	cell_scalar(&e, id);
	cell_scalar(&e, contents);
	event_end(&e);
	return 0;
}
