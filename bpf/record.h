/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the kernel half and the daemon: what a record in a
 * magazine looks like. Fixed-width types, explicit padding, no unions, no bit
 * fields. Everything is in the byte order of the host. Package event decodes
 * it; a test there compares sizes and offsets with the types generated from
 * this file.
 *
 * A record is a header (struct tsem_record) and then the cells of its hook, in
 * the order of the hook's JSON. Every cell starts with struct tsem_cell and is
 * padded with zeros to a multiple of 8 bytes. A cell that does not apply to
 * this occurrence stands there as TSEM_CELL_ABSENT, so that the position of a
 * cell alone tells its meaning.
 *
 *   FILE   = TSEM_CELL_FILE, TSEM_CELL_INODE, TSEM_CELL_PATH
 *   DENTRY = TSEM_CELL_INODE or TSEM_CELL_ABSENT, TSEM_CELL_PATH
 */
#ifndef TSEM_RECORD_H
#define TSEM_RECORD_H

#include "hooks.h"

/* Changes with every change of this file that an older reader would misread. */
#define TSEM_RECORD_VERSION 3

/*
 * PATH_MAX (4096, its NUL included) bounds every path name that the kernel
 * hands out; the other texts get the same bound so that a record of any hook fits
 * the describe buffer.
 */
#define TSEM_TEXT_MAX 4096

/* XATTR_SIZE_MAX: the value of an extended attribute goes into the magazine whole. */
#define TSEM_VALUE_MAX 65536

enum tsem_hook {
	TSEM_HOOK_NONE = 0,
	TSEM_HOOK_bprm_committed_creds = TSEM_ORDINAL_bprm_committed_creds,
#define HOOK(name, ordinal, context) TSEM_HOOK_##name = ordinal,
	TSEM_HOOKS(HOOK)
#undef HOOK
	/* From here on: of later versions than TSEM v3. Attached only where a namespace wants their events. */
	TSEM_HOOK_LATER = 88,
	/* All ordinals are less: a mask of hooks has a bit for each (events, deny in state.h). */
	TSEM_HOOK_MAX = 128,
};

enum tsem_kind {
	TSEM_KIND_EVENT = 1,	/* the hook may sleep */
	TSEM_KIND_ASYNC = 2,	/* the hook cannot sleep */
	TSEM_KIND_EXEC = 3,	/* bookkeeping: a task got a new TASK_ID; never printed */
	TSEM_KIND_LOG = 4,	/* of an untrusted task, action LOG: it happens all the same */
	TSEM_KIND_DENY = 5,	/* of an untrusted task, action DENY: it is refused */
};

/* What each hook of the list makes. */
enum tsem_kind_of_hook {
	TSEM_KIND_bprm_committed_creds = TSEM_KIND_EXEC,
#define TSEM_KIND_OF_SLEEPABLE TSEM_KIND_EVENT
#define TSEM_KIND_OF_ATOMIC TSEM_KIND_ASYNC
#define HOOK(name, ordinal, context) TSEM_KIND_##name = TSEM_KIND_OF_##context,
	TSEM_HOOKS(HOOK)
#undef HOOK
};

/*
 * Why an event could not be put into its magazine. Closed list: index of
 * tsem_namespace.refused.
 */
enum tsem_refusal {
	TSEM_REFUSED_MAGAZINE_FULL = 0,	/* no room in the magazine, also after waiting */
	TSEM_REFUSED_NO_BUFFER = 1,	/* no free describe buffer on this CPU */
	TSEM_REFUSED_DESCRIBE = 2,	/* the kernel half could not describe the event */
	TSEM_REFUSED_ORPHANED = 3,	/* nobody keeps its namespace any more */
	TSEM_REFUSED_MAX = 4,
};

enum tsem_cell_type {
	TSEM_CELL_ABSENT = 0,	/* no payload */
	TSEM_CELL_SCALAR = 1,	/* __u64; signed values sign-extended */
	TSEM_CELL_INODE = 2,	/* struct tsem_inode */
	TSEM_CELL_PATH = 3,	/* struct tsem_path, then the text without NUL */
	TSEM_CELL_FILE = 4,	/* struct tsem_file */
	TSEM_CELL_CREDS = 5,	/* struct tsem_creds */
	TSEM_CELL_SOCK = 6,	/* struct tsem_sock */
	TSEM_CELL_IPC = 7,	/* struct tsem_ipc */
	TSEM_CELL_ADDR = 8,	/* struct tsem_addr, then the bytes of the sockaddr */
	TSEM_CELL_TASK = 9,	/* __u64 identity of a task, printed as its TASK_ID */
	TSEM_CELL_TEXT = 10,	/* text without NUL */
	TSEM_CELL_BYTES = 11,	/* bytes, printed in base64 */
};

enum tsem_cell_flags {
	TSEM_CELL_CUT = 1,	/* the text or bytes are not complete */
};

struct tsem_cell {
	__u16 type;		/* enum tsem_cell_type */
	__u16 flags;		/* enum tsem_cell_flags */
	__u32 size;		/* bytes of payload, padding not counted */
};

struct tsem_creds {
	__u32 uid, euid, suid, gid, egid, sgid, fsuid, fsgid;
	__u64 capeff;
	__u32 securebits;
	__u32 pad;
};

struct tsem_record {
	__u32 length;		/* of the whole record, a multiple of 8 */
	__u16 version;		/* TSEM_RECORD_VERSION */
	__u16 hook;		/* enum tsem_hook */
	__u8 kind;		/* enum tsem_kind */
	__u8 cells;		/* how many cells follow */
	__u8 cut;		/* how many of them have TSEM_CELL_CUT */
	__u8 share;		/* of the reserve of the magazine (state.h) */
	__u32 slot;		/* where a verdict goes; 0: none is wanted */
	__u64 ticket;		/* names the wait in its slot; of no meaning if that is 0 */
	__u64 number;		/* 1, 2, 3 ... in the namespace; 0 in TSEM_KIND_EXEC */
	__u64 namespace;	/* id of the modeling namespace */
	__u64 time;		/* CLOCK_BOOTTIME, ns */
	__u32 tid;		/* in the initial pid namespace */
	__u32 tgid;
	__u64 tnum;		/* task number, never reused */
	__u64 ttd;		/* execution counter of the task */
	__u64 p_ttd;		/* that of its parent at the fork */
	/*
	 * Stands for the TASK_ID, which the daemon computes: equal identities
	 * have equal TASK_IDs. 0: no exec since tsem-bpf watches the task, a
	 * TASK_ID of zeros.
	 */
	__u64 identity;
	__u64 p_identity;
	struct tsem_creds creds;
	__u8 comm[16];
};

struct tsem_inode {
	__u32 uid;
	__u32 gid;
	__u32 mode;
	__u32 s_magic;
	__u32 dev_major;	/* of the superblock */
	__u32 dev_minor;
	__u64 ino;		/* ino, size and change time tell the daemon */
	__u64 size;		/* whether the file it digests is this file */
	__u64 ctime_sec;
	__u64 ctime_nsec;
	__u8 s_id[32];
	__u8 s_uuid[16];
};

enum tsem_path_flags {
	TSEM_PATH_DEV = 1,	/* has a device number */
	TSEM_PATH_CREATED = 2,	/* created in a modeling namespace: owner, instance */
	TSEM_PATH_NAME_ONLY = 4,	/* no full path could be built: last component */
};

/* Whose root a file style path is seen from. */
enum tsem_path_type {
	TSEM_PATH_TYPE_NONE = 0,	/* a path inside its filesystem */
	TSEM_PATH_TYPE_ROOT = 1,	/* the initial mount namespace */
	TSEM_PATH_TYPE_NAMESPACE = 2,	/* another mount namespace */
	TSEM_PATH_TYPE_CHROOT = 3,	/* the task is in a chroot */
};

struct tsem_path {
	__u32 dev_major;
	__u32 dev_minor;
	__u64 owner;		/* identity of the creator */
	__u64 instance;
	__u32 flags;		/* enum tsem_path_flags */
	__u32 type;		/* enum tsem_path_type */
};

enum tsem_digest_state {
	TSEM_DIGEST_EMPTY = 0,	/* not measured by rule: digest of no bytes */
	TSEM_DIGEST_WANTED = 1,	/* the daemon has to read the file */
	TSEM_DIGEST_IMA = 2,	/* sha256 in the cell, taken from IMA in the hook */
	TSEM_DIGEST_ZERO = 3,	/* kernel_read_file of something not regular */
	TSEM_DIGEST_VOLATILE = 4,	/* nobody can know: content changes without a trace */
};

struct tsem_file {
	__u32 f_flags;
	__u32 digest_state;	/* enum tsem_digest_state */
	__u8 digest[32];
};

struct tsem_sock {
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 pad;
	__u64 owner;		/* identity of the creator */
};

struct tsem_ipc {
	__u32 uid;
	__u32 gid;
	__u32 cuid;
	__u32 cgid;
	__u32 mode;
	__u32 pad;
	__u64 owner;		/* identity of the creator */
};

struct tsem_addr {
	__u32 family;		/* of the socket, not of the address */
	__u32 length;		/* as the caller gave it; at most 128 bytes follow */
};

#endif
