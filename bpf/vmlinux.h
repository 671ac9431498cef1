/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel types that the programs read, with only the fields they read.
 * Offsets are relocated at load time (CO-RE), so order and gaps mean nothing.
 * A type with ___ in its name is the form of other kernels; the comment says
 * which.
 */
#ifndef TSEM_VMLINUX_H
#define TSEM_VMLINUX_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u64 __le64;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef _Bool bool;
typedef unsigned long size_t;
typedef __u16 umode_t;
typedef __u32 dev_t;
typedef __u32 fmode_t;
typedef int pid_t;

#define NULL ((void *)0)
#define true 1
#define false 0

/* include/uapi/asm-generic/errno-base.h */
enum {
	EPERM = 1,
	ENOENT = 2,
	ESRCH = 3,
	ENOMEM = 12,
	EBUSY = 16,
};

/* include/uapi/linux/bpf.h: only what the maps, helpers and structures below need. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_INODE_STORAGE = 28,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum bpf_prog_type {
	BPF_PROG_TYPE_UNSPEC = 0,
};

enum bpf_attach_type {
	BPF_CGROUP_INET_INGRESS = 0,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1024,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_CONS_POS = 2,
	BPF_RB_FORCE_WAKEUP = 2,
};

struct bpf_dynptr {
	__u64 opaque[2];
} __attribute__((aligned(8)));

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

typedef struct {
	u32 val;
} kuid_t;

typedef struct {
	u32 val;
} kgid_t;

typedef struct {
	/* u32 cap[2] before 6.3, u64 after: the same 8 bytes on little endian. */
	u64 val;
} kernel_cap_t;

struct uid_gid_extent {
	u32 first;
	u32 lower_first;
	u32 count;
};

struct uid_gid_map {
	u32 nr_extents;
	struct uid_gid_extent extent[5];
	struct uid_gid_extent *reverse;
};

struct user_namespace {
	struct uid_gid_map uid_map;
	struct uid_gid_map gid_map;
	struct user_namespace *parent;
};

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t suid;
	kgid_t sgid;
	kuid_t euid;
	kgid_t egid;
	kuid_t fsuid;
	kgid_t fsgid;
	unsigned int securebits;
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
};

struct qstr {
	u64 hash_len;
	const unsigned char *name;
};

struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

struct inode_operations {
	void *rename;
};

struct address_space {
	struct {
		int counter;
	} i_mmap_writable;
};

struct file_system_type {
	const char *name;
};

struct super_block {
	struct file_system_type *s_type;
	unsigned long s_flags;
	dev_t s_dev;
	unsigned long s_magic;
	struct dentry *s_root;
	char s_id[32];
	struct {
		__u8 b[16];
	} s_uuid;
};

struct inode {
	umode_t i_mode;
	kuid_t i_uid;
	kgid_t i_gid;
	const struct inode_operations *i_op;
	struct super_block *i_sb;
	unsigned long i_ino;
	s64 i_size;
	u32 i_generation;
	struct address_space *i_mapping;
	struct {
		int counter;
	} i_writecount;
	struct {
		s64 counter;
	} i_version;
	/* since 6.11 (kernel commit 3aa63a569c64, two plain fields) */
	s64 i_ctime_sec;
	u32 i_ctime_nsec;
	void *i_private;
};

struct inode___6_6 {	/* 6.6 to 6.10 */
	struct timespec64 __i_ctime;
};

struct inode___6_1 {	/* before 6.6 */
	struct timespec64 i_ctime;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

struct iattr {
	unsigned int ia_valid;
	umode_t ia_mode;
	kuid_t ia_uid;	/* or the one of an idmapped mount, in a union */
	kgid_t ia_gid;
	s64 ia_size;
};

struct posix_acl_entry {
	short e_tag;
	unsigned short e_perm;
	kuid_t e_uid;	/* or the id of a group, in a union */
};

struct posix_acl {
	unsigned int a_count;
	struct posix_acl_entry a_entries[1];
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct mnt_namespace {
	struct {
		unsigned int inum;
	} ns;
	u64 seq;
};

struct mnt_namespace___7 {	/* where seq is gone */
	struct {
		u64 ns_id;
	} ns;
};

struct proc_ns_operations {
	const char *name;
};

struct ns_common {
	const struct proc_ns_operations *ops;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};

struct file {
	fmode_t f_mode;
	unsigned int f_flags;
	struct inode *f_inode;
	struct path f_path;
};

struct linux_binprm {
	struct file *file;
};

struct fs_struct {
	struct path root;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct mm_struct {
	unsigned long arg_start;
};

typedef struct {
	unsigned long sig[1];
} sigset_t;

struct sigpending {
	sigset_t signal;
};

struct signal_struct {
	struct {
		int counter;
	} live;
	struct sigpending shared_pending;
};

struct sigaction {
	void *sa_handler;
};

struct k_sigaction {
	struct sigaction sa;
};

struct sighand_struct {
	struct k_sigaction action[64];
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct xa_node {
	unsigned char shift;
	void *slots[64];
};

struct xarray {
	void *xa_head;
};

struct idr {
	struct xarray idr_rt;
};

struct pid_namespace {
	struct idr idr;
};

struct upid {
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct hlist_head tasks[1];	/* by enum pid_type */
	struct upid numbers[1];
};

struct rlimit {
	unsigned long rlim_cur;
	unsigned long rlim_max;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	const struct cred *cred;
	const struct cred *real_cred;
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct sighand_struct *sighand;
	sigset_t blocked;
	struct sigpending pending;
	unsigned int ptrace;
	struct pid *thread_pid;
	struct hlist_node pid_links[1];	/* by enum pid_type */
};

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct kernel_siginfo {
	int si_code;
};

struct in6_addr {
	__be32 s6_addr32[4];
};

struct sock_common {
	unsigned short skc_family;
	__u16 skc_num;
	__be32 skc_rcv_saddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
};

struct socket {
	struct sock *sk;
};

struct unix_address {
	int len;
	struct sockaddr_un {
		char sun_path[108];
	} name[1];
};

struct unix_sock {
	struct unix_address *addr;
};

struct sockaddr {
	unsigned short sa_family;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
};

struct sk_buff {
	char cb[48];
};

struct scm_creds {
	u32 pid;
	kuid_t uid;
	kgid_t gid;
};

struct netlink_skb_parms {
	struct scm_creds creds;
	__u32 portid;
	__u32 dst_group;
	__u32 flags;
	bool nsid_is_set;
	int nsid;
};

struct kern_ipc_perm {
	kuid_t uid;
	kgid_t gid;
	kuid_t cuid;
	kgid_t cgid;
	umode_t mode;
};

struct key {
	unsigned long flags;
	kuid_t uid;
	kgid_t gid;
	u32 perm;
};

union bpf_attr;
struct msg_msg;
struct sembuf;

struct timezone {
	int tz_minuteswest;
	int tz_dsttime;
};

struct bpf_map {
	enum bpf_map_type map_type;
};

struct bpf_prog {
	enum bpf_prog_type type;
	enum bpf_attach_type expected_attach_type;
};

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif
