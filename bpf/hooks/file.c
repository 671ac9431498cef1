/* SPDX-License-Identifier: GPL-2.0-only */
/* Open files. */

#define PROT_EXEC 4

SEC("lsm.s/file_open")
int BPF_PROG(file_open, struct file *file)
{
	struct digest digest;
	struct event e;

	if (!modeled(&e) || !S_ISREG(file->f_inode->i_mode))
		return 0;
	/* Not read here: IMA would wait for an open that is not finished. */
	take_digest(&e, file, 0, &digest);
	if (!event_begin(&e, EVENT(file_open)))
		return 0;
	cell_file(&e, file, &digest);
	event_end(&e);
	return 0;
}

/*
 * Without a file its argument is NULL, which kernels before 6.14 do not tell the
 * verifier: it takes a test of the pointer for superfluous and removes it. The
 * helper gives the same argument as a number, whose test stays.
 */
SEC("lsm.s/mmap_file")
int BPF_PROG(mmap_file, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags)
{
	struct digest digest = {};
	__u64 address = 0;
	struct event e;

	if (!modeled(&e))
		return 0;
	bpf_get_func_arg(ctx, 0, &address);
	if (address && file) {
		struct inode *inode = file->f_inode;

		if (!S_ISREG(inode->i_mode) || is_pseudo_filesystem(inode->i_sb->s_magic))
			return 0;
		take_digest(&e, file, DIGEST_READ, &digest);
	} else if (!(reqprot & PROT_EXEC)) {
		return 0;
	}
	if (!event_begin(&e, EVENT(mmap_file)))
		return 0;
	if (address && file)
		cell_file(&e, file, &digest);
	else
		cell_absent(&e);
	cell_scalar(&e, prot);
	cell_scalar(&e, flags);
	event_end(&e);
	return 0;
}

SEC("lsm.s/file_ioctl")
int BPF_PROG(file_ioctl, struct file *file, unsigned int cmd)
{
	struct digest digest;
	struct event e;

	if (!modeled(&e))
		return 0;
	take_digest(&e, file, DIGEST_READ, &digest);
	if (!event_begin(&e, EVENT(file_ioctl)))
		return 0;
	cell_file(&e, file, &digest);
	cell_scalar(&e, cmd);
	event_end(&e);
	return 0;
}
