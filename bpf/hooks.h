/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The one list of event hooks. Ordinals and kinds come from it, in C and in the
 * loader; tests hold the programs and the event table to it.
 *
 * HOOK(name, ordinal, context): ordinal is the index of the event type in
 * TSEM v3's name table and is never reused. What v3 does not have, events of later
 * versions, counts on behind capset: their indices differ from version to version. They
 * are attached only where a namespace wants their events, but for what keeps books too.
 * context is SLEEPABLE where the kernel lets a BPF LSM program sleep in the hook and
 * TSEM does (record kind `event`), ATOMIC elsewhere (`async_event`).
 */
#ifndef TSEM_HOOKS_H
#define TSEM_HOOKS_H

#define TSEM_HOOKS(HOOK)				\
	HOOK(task_kill, 2, ATOMIC)			\
	HOOK(task_setpgid, 3, ATOMIC)			\
	HOOK(task_getpgid, 4, ATOMIC)			\
	HOOK(task_getsid, 5, ATOMIC)			\
	HOOK(task_setnice, 6, ATOMIC)			\
	HOOK(task_setioprio, 7, ATOMIC)			\
	HOOK(task_getioprio, 8, ATOMIC)			\
	HOOK(task_prlimit, 9, ATOMIC)			\
	HOOK(task_setrlimit, 10, ATOMIC)		\
	HOOK(task_setscheduler, 11, ATOMIC)		\
	HOOK(task_getscheduler, 12, ATOMIC)		\
	HOOK(task_prctl, 13, ATOMIC)			\
	HOOK(file_open, 14, SLEEPABLE)			\
	HOOK(mmap_file, 15, SLEEPABLE)			\
	HOOK(file_ioctl, 16, SLEEPABLE)			\
	HOOK(file_lock, 17, SLEEPABLE)			\
	HOOK(file_fcntl, 18, ATOMIC)			\
	HOOK(file_receive, 19, SLEEPABLE)		\
	HOOK(unix_stream_connect, 20, ATOMIC)		\
	HOOK(unix_may_send, 21, ATOMIC)			\
	HOOK(socket_create, 22, SLEEPABLE)		\
	HOOK(socket_connect, 23, SLEEPABLE)		\
	HOOK(socket_bind, 24, SLEEPABLE)		\
	HOOK(socket_accept, 25, SLEEPABLE)		\
	HOOK(socket_listen, 26, SLEEPABLE)		\
	HOOK(socket_socketpair, 27, SLEEPABLE)		\
	HOOK(socket_sendmsg, 28, SLEEPABLE)		\
	HOOK(socket_recvmsg, 29, SLEEPABLE)		\
	HOOK(socket_getsockname, 30, SLEEPABLE)		\
	HOOK(socket_getpeername, 31, SLEEPABLE)		\
	HOOK(socket_setsockopt, 32, ATOMIC)		\
	HOOK(socket_shutdown, 33, SLEEPABLE)		\
	HOOK(ptrace_traceme, 34, ATOMIC)		\
	HOOK(kernel_module_request, 35, SLEEPABLE)	\
	HOOK(kernel_load_data, 36, ATOMIC)		\
	HOOK(kernel_read_file, 37, SLEEPABLE)		\
	HOOK(sb_mount, 38, SLEEPABLE)			\
	HOOK(sb_umount, 39, SLEEPABLE)			\
	HOOK(sb_remount, 40, SLEEPABLE)			\
	HOOK(sb_pivotroot, 41, ATOMIC)			\
	HOOK(sb_statfs, 42, SLEEPABLE)			\
	HOOK(move_mount, 43, ATOMIC)			\
	HOOK(shm_associate, 44, ATOMIC)			\
	HOOK(shm_shmctl, 45, ATOMIC)			\
	HOOK(shm_shmat, 46, ATOMIC)			\
	HOOK(sem_associate, 47, ATOMIC)			\
	HOOK(sem_semctl, 48, ATOMIC)			\
	HOOK(sem_semop, 49, ATOMIC)			\
	HOOK(syslog, 50, SLEEPABLE)			\
	HOOK(settime, 51, SLEEPABLE)			\
	HOOK(quotactl, 52, ATOMIC)			\
	HOOK(quota_on, 53, ATOMIC)			\
	HOOK(msg_queue_associate, 54, ATOMIC)		\
	HOOK(msg_queue_msgctl, 55, ATOMIC)		\
	HOOK(msg_queue_msgsnd, 56, ATOMIC)		\
	HOOK(msg_queue_msgrcv, 57, ATOMIC)		\
	HOOK(ipc_permission, 58, ATOMIC)		\
	HOOK(key_alloc, 59, ATOMIC)			\
	HOOK(key_permission, 60, ATOMIC)		\
	HOOK(netlink_send, 61, SLEEPABLE)		\
	HOOK(inode_create, 62, SLEEPABLE)		\
	HOOK(inode_link, 63, ATOMIC)			\
	HOOK(inode_unlink, 64, SLEEPABLE)		\
	HOOK(inode_symlink, 65, SLEEPABLE)		\
	HOOK(inode_mkdir, 66, ATOMIC)			\
	HOOK(inode_rmdir, 67, SLEEPABLE)		\
	HOOK(inode_mknod, 68, SLEEPABLE)		\
	HOOK(inode_rename, 69, SLEEPABLE)		\
	HOOK(inode_setattr, 70, SLEEPABLE)		\
	HOOK(inode_getattr, 71, SLEEPABLE)		\
	HOOK(inode_setxattr, 72, SLEEPABLE)		\
	HOOK(inode_getxattr, 73, SLEEPABLE)		\
	HOOK(inode_listxattr, 74, ATOMIC)		\
	HOOK(inode_removexattr, 75, SLEEPABLE)		\
	HOOK(inode_killpriv, 76, ATOMIC)		\
	HOOK(tun_dev_create, 77, ATOMIC)		\
	HOOK(tun_dev_attach_queue, 78, ATOMIC)		\
	HOOK(tun_dev_attach, 79, ATOMIC)		\
	HOOK(tun_dev_open, 80, ATOMIC)			\
	HOOK(bpf, 81, SLEEPABLE)			\
	HOOK(bpf_map, 82, SLEEPABLE)			\
	HOOK(bpf_prog, 83, SLEEPABLE)			\
	HOOK(ptrace_access_check, 84, ATOMIC)		\
	HOOK(capable, 85, ATOMIC)			\
	HOOK(capget, 86, ATOMIC)			\
	HOOK(capset, 87, ATOMIC)			\
	HOOK(file_ioctl_compat, 88, ATOMIC)		\
	HOOK(file_truncate, 89, ATOMIC)			\
	HOOK(bprm_check_security, 90, SLEEPABLE)	\
	HOOK(userns_create, 91, SLEEPABLE)		\
	HOOK(path_truncate, 92, SLEEPABLE)		\
	HOOK(path_unlink, 93, SLEEPABLE)		\
	HOOK(path_mkdir, 94, SLEEPABLE)			\
	HOOK(path_rmdir, 95, SLEEPABLE)			\
	HOOK(path_symlink, 96, SLEEPABLE)		\
	HOOK(path_mknod, 97, ATOMIC)			\
	HOOK(path_link, 98, SLEEPABLE)			\
	HOOK(path_rename, 99, SLEEPABLE)		\
	HOOK(cred_prepare, 100, SLEEPABLE)		\
	HOOK(task_alloc, 101, ATOMIC)

/* The exec bookkeeping record; TSEM has the name but never exports it. */
#define TSEM_ORDINAL_bprm_committed_creds 1

#endif
