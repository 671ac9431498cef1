/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Open files.
 *
 * file_open: a regular file is opened: FILE.
 * mmap_file: memory is mapped: FILE or nothing, protection, flags.
 * file_ioctl, file_ioctl_compat, file_lock, file_fcntl: a request to a file, the second one of a
 *	32 bit program: FILE, command.
 * file_receive: a file comes from another process: FILE.
 * file_truncate: the size of a file is set, or it is opened with O_TRUNC: FILE.
 * bprm_check_security: a file is about to be executed: FILE.
 */
#include "../file.h"
#include "../plane.h"

#define PROT_EXEC 4

SEC("lsm.s/file_open")
int BPF_PROG(file_open, struct file *file, int ret)
{
	EVENT(e, file_open, ret);
	struct digest digest;

	/* Of nobody an event: an agent would have to judge its own opening of the records. */
	if (is_plane(file))
		return is_mac_admin(bpf_get_current_task_btf()) ? RESULT(0) : RESULT(-EPERM);
	if (!modeled(&e) || !S_ISREG(file->f_inode->i_mode) || is_inner_file(&e, file))
		return unraised(&e);
	/* Not read here: IMA would wait for an open that is not finished. */
	take_digest(&e, file, 0, &digest);
	if (!event_begin(&e))
		return unraised(&e);
	cell_file(&e, file, &digest);
	return event_end(&e);
}

/*
 * Without a file its argument is NULL, which kernels before 6.14 do not tell the
 * verifier: it takes a test of the pointer for superfluous and removes it. The
 * helper gives the same argument as a number, whose test stays.
 */
SEC("lsm.s/mmap_file")
int BPF_PROG(mmap_file, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags, int ret)
{
	EVENT(e, mmap_file, ret);
	struct digest digest = {};
	__u64 address = 0;

	if (!modeled(&e))
		return unraised(&e);
	bpf_get_func_arg(ctx, 0, &address);
	if (address && file) {
		struct inode *inode = file->f_inode;

		if (!S_ISREG(inode->i_mode) || is_pseudo_filesystem(inode->i_sb->s_magic))
			return unraised(&e);
		take_digest(&e, file, DIGEST_READ, &digest);
	} else if (!(reqprot & PROT_EXEC)) {
		return unraised(&e);
	}
	if (!event_begin(&e))
		return unraised(&e);
	if (address && file)
		cell_file(&e, file, &digest);
	else
		cell_absent(&e);
	cell_scalar(&e, prot);
	cell_scalar(&e, flags);
	return event_end(&e);
}

/* Something is done with an open file of any type, which is described. Rules are those of its digest. */
static __always_inline bool file_event_by(struct event *e, struct file *file, __u32 rules)
{
	struct digest digest;

	if (!modeled(e) || is_inner_file(e, file))
		return false;
	take_digest(e, file, rules, &digest);
	if (!event_begin(e))
		return false;
	cell_file(e, file, &digest);
	return true;
}

static __always_inline bool file_event(struct event *e, struct file *file)
{
	return file_event_by(e, file, DIGEST_READ);
}

EVENT_HOOK(file_ioctl, SLEEPABLE, ARGS(struct file *file, unsigned int cmd, unsigned long arg),
	   file_event(&e, file), cell_scalar(&e, cmd))

/* Of a 32 bit program, whatever of its arguments has another size there. */
EVENT_HOOK(file_ioctl_compat, ATOMIC,
	   ARGS(struct file *file, unsigned int cmd, unsigned long arg),
	   file_event(&e, file), cell_scalar(&e, cmd))

EVENT_HOOK(file_lock, SLEEPABLE, ARGS(struct file *file, unsigned int cmd),
	   file_event(&e, file), cell_scalar(&e, cmd))

/* include/uapi/asm-generic/fcntl.h and include/uapi/linux/fcntl.h */
#define F_DUPFD 0
#define F_GETFD 1
#define F_SETFD 2
#define F_DUPFD_QUERY 1027
#define F_DUPFD_CLOEXEC 1030

/*
 * The command is about a descriptor, and not about the file. Shells have one or more such calls for
 * each redirection: one that reads the records of its own namespace would never come to an end.
 */
static __always_inline bool is_of_descriptor(unsigned int cmd)
{
	return cmd == F_DUPFD || cmd == F_GETFD || cmd == F_SETFD || cmd == F_DUPFD_QUERY ||
	       cmd == F_DUPFD_CLOEXEC;
}

EVENT_HOOK(file_fcntl, ATOMIC, ARGS(struct file *file, unsigned int cmd, unsigned long arg),
	   !is_of_descriptor(cmd) && file_event(&e, file), cell_scalar(&e, cmd))

EVENT_HOOK(file_receive, SLEEPABLE, ARGS(struct file *file), file_event(&e, file))

EVENT_HOOK(file_truncate, ATOMIC, ARGS(struct file *file), file_event(&e, file))

/*
 * For the file that is to be executed, and again for each that interprets it. The digest follows the
 * rules of the TASK_ID that the program would get.
 */
EVENT_HOOK(bprm_check_security, SLEEPABLE, ARGS(struct linux_binprm *bprm),
	   file_event_by(&e, bprm->file, DIGEST_PSEUDO | DIGEST_READ))
