/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel objects and the verifier: functions that it walks once, and how such a
 * function reads what it got the address of.
 */
#ifndef TSEM_OBJECT_H
#define TSEM_OBJECT_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/*
 * A function that the verifier looks at once in each program, however often it is
 * called and whatever is known at the call; one that is static it walks again at every
 * call, once for each state that it comes with. The price: arguments are numbers or
 * memory of a known size (which is tested for NULL), the result is a number, and
 * kernel objects come as addresses (address_of), read with FIELD and LOOK.
 */
#define SHARED __attribute__((noinline))

/*
 * Looking at a kernel object through its address. Since 6.2 the verifier takes our
 * word for the type, and a field costs a load; before, it is a call of a helper.
 */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

#define CAST(type, address)								\
	((const type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(type)))

/*
 * The object behind a pointer that a program has, for those of its fields that are pointers. For
 * each that is read through a pointer which the verifier trusts, 6.12 searches all types of
 * the kernel, by name and up to four times, for whether it is to be trusted as well
 * (kernel/bpf/btf.c, btf_nested_type_is_trusted). That was half of the time in which all
 * programs were loaded. Where it takes our word for the type, it trusts nothing and searches
 * nothing. Not for what becomes an argument of a helper that wants an object.
 */
#define VIEW(type, object) (bpf_rdonly_cast ? CAST(type, object) : (const type *)(object))

/* The current task. */
static __always_inline const struct task_struct *this_task(void)
{
	return VIEW(struct task_struct, bpf_get_current_task_btf());
}

/*
 * One field; of an object of which many are wanted, LOOK is better. A field that is a
 * pointer needs address_of before it can be an argument of a SHARED function. The
 * address is evaluated first: an expression in it is not for the relocation to see.
 */
#define FIELD(type, address, field) ({							\
	typeof(((type *)0)->field) field_;						\
	__u64 at_ = (__u64)(address);							\
	if (bpf_rdonly_cast)								\
		field_ = CAST(type, at_)->field;					\
	else										\
		bpf_core_read(&field_, sizeof(field_), &((type *)at_)->field);		\
	field_; })

/* The object; before 6.2 a copy in the buffer, until the next LOOK. */
#define LOOK(buf, type, address) ({							\
	const type *object_;								\
	if (bpf_rdonly_cast) {								\
		object_ = CAST(type, address);						\
	} else {									\
		bpf_probe_read_kernel((buf)->object, bpf_core_type_size(type),		\
				      (void *)(address));				\
		object_ = (void *)(buf)->object;					\
	}										\
	object_; })

/* The address of an object that a program has, as a number. */
static __always_inline __u64 number_of(const void *object)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &object);
	return number;
}

#endif
