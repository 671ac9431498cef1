/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What concerns the kernel as a whole.
 *
 * kernel_module_request: the kernel wants a module: its name.
 * kernel_load_data: the kernel takes data that is in no file: the use, whether it is looked at after.
 * kernel_read_file: the kernel reads a file for its own use (a module, firmware): FILE,
 *	the use, whether all of it is read.
 * syslog: a request to the kernel log: which.
 * settime: the clock is set, or the timezone, or both.
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

PLAIN_HOOK(kernel_module_request, SLEEPABLE, ARGS(char *kmod_name), cell_string(&e, kmod_name))

PLAIN_HOOK(kernel_load_data, ATOMIC, ARGS(int id, bool contents),
	   cell_scalar(&e, id), cell_scalar(&e, contents))

PLAIN_HOOK(syslog, SLEEPABLE, ARGS(int type), cell_scalar(&e, type))

/* Each is absent where it is not to be set. */
SHARED int describe_time(struct buffer *buf, __u64 ts, __u64 tz)
{
	if (!buf)
		return 0;
	if (ts) {
		cell_number(buf, TSEM_CELL_SCALAR, FIELD(struct timespec64, ts, tv_sec));
		cell_number(buf, TSEM_CELL_SCALAR, FIELD(struct timespec64, ts, tv_nsec));
	} else {
		cell_add(buf, TSEM_CELL_ABSENT, 0);
	}
	if (tz) {
		cell_number(buf, TSEM_CELL_SCALAR, FIELD(struct timezone, tz, tz_minuteswest));
		cell_number(buf, TSEM_CELL_SCALAR, FIELD(struct timezone, tz, tz_dsttime));
	} else {
		cell_add(buf, TSEM_CELL_ABSENT, 0);
	}
	return 0;
}

static __always_inline void cell_time(struct event *e, const struct timespec64 *ts,
				      const struct timezone *tz)
{
	__u64 time = address_of(e->buf, ts);

	describe_time(e->buf, time, address_of(e->buf, tz));
}

PLAIN_HOOK(settime, SLEEPABLE, ARGS(const struct timespec64 *ts, const struct timezone *tz),
	   cell_time(&e, ts, tz))
