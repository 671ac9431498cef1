//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel half: one object for all kernels from 6.1 on. Every event travels
 * the same way: a program in hooks/ asks modeled(), describes the event in cells
 * (cells.h, inode.h, path.h, digest.h) and puts it into the magazine of its
 * namespace (magazine.h).
 */
#include "path.h"

#include "hooks/task.c"
#include "hooks/file.c"
#include "hooks/inode.c"
#include "hooks/path.c"
#include "hooks/mount.c"
#include "hooks/socket.c"
#include "hooks/tun.c"
#include "hooks/ipc.c"
#include "hooks/key.c"
#include "hooks/kernel.c"
#include "hooks/bpf.c"

/*
 * The support test: it is loaded with thread_id alone, and the loader looks whether
 * a system call of its own thread makes it run. Without bpf in the lsm= boot line
 * it loads and attaches all the same, and is never called.
 */
volatile __u32 probe_thread;
volatile __u64 probe_runs;

SEC("lsm/task_getpgid")
int BPF_PROG(probe, struct task_struct *p)
{
	if ((__u32)bpf_get_current_task_btf()->pid == probe_thread)
		__sync_fetch_and_add(&probe_runs, 1);
	return 0;
}

/* Run once by the loader: finds what path.h reads. */
SEC("syscall")
int find_locks(void *context)
{
	__u64 address;

	if (!bpf_kallsyms_lookup_name("rename_lock", sizeof("rename_lock"), 0, &address))
		rename_lock_address = address;
	if (!bpf_kallsyms_lookup_name("mount_lock", sizeof("mount_lock"), 0, &address))
		mount_lock_address = address;
	return rename_lock_address && mount_lock_address;
}

char LICENSE[] SEC("license") = "GPL";

/*
 * Nothing but this puts a type into BTF that stands only in local variables;
 * the Go types are generated from there.
 */
const struct {
	struct tsem_cell cell;
	struct tsem_inode inode;
	struct tsem_path path;
	struct tsem_file file;
	struct tsem_addr addr;
	struct tsem_sock sock;
	struct tsem_ipc ipc;
	struct tsem_creation creation;
	struct tsem_slot slot;
	struct tsem_task_id task_id;
	struct tsem_keeper keeper;
	struct tsem_caller caller;
	struct tsem_entry entry;
	enum tsem_verdict verdict;
	enum tsem_trust trust;
	enum tsem_hook hook;
	enum tsem_kind kind;
	enum tsem_kind_of_hook kind_of_hook;
	enum tsem_refusal refusal;
	enum tsem_cell_type cell_type;
	enum tsem_namespace_flags namespace_flags;
	enum tsem_digest_state digest_state;
	enum tsem_path_flags path_flags;
	enum tsem_path_type path_type;
} *contract __attribute__((unused));
