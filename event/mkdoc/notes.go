// SPDX-License-Identifier: Apache-2.0

package main

// A note is what neither the specification nor a table says of an event.
type note struct {
	NoEvent string // what seems to be one and is none: left out on purpose, or the kernel does not call the hook
	Remark  string // whole sentences
}

// What several events have in common.
const (
	ownFiles = "what [overlayfs](#overlayfs) does for itself"
	ofItself = "the caller itself, asked for as 0"
	ofAll    = "requests about all objects, as IPC_INFO"
	noOwner  = "`owner` and `instance` are those of the inode_mkdir or inode_create that follows, and not there yet."
	noInner  = "what [overlayfs](#overlayfs) does for itself, and what comes without a path, as files of mqueues"
	ofLength = "The digest is of the content before, which may be gone before tsem-bpf has read it; then the digest is [not exact](records.md)."
	ofACLs   = "For access control lists there are [rules of their own](#posix-acls)."
)

var notes = map[string]note{
	"task_kill":    {NoEvent: "SIGURG; signals that the kernel sends"},
	"task_setpgid": {Remark: "`source` is that of the task with the number of the group."},
	"task_getpgid": {NoEvent: ofItself},
	"task_getsid":  {NoEvent: ofItself},
	"task_prlimit": {NoEvent: "a task's own limits"},
	"task_prctl":   {Remark: "`arg2` is 0 where it is the address of a name (PR_SET_NAME, PR_GET_NAME)."},
	"file_open":    {NoEvent: "what is not a regular file; " + ownFiles + "; the files of the [control plane](orchestrators.md)"},
	"mmap_file": {
		Remark:  "`file` is there unless the memory is anonymous.",
		NoEvent: "files that are not regular or on a pseudo filesystem; anonymous memory that was not asked for with PROT_EXEC",
	},
	"file_ioctl":        {NoEvent: ownFiles},
	"file_lock":         {NoEvent: ownFiles},
	"file_fcntl":        {NoEvent: ownFiles + "; what is about a descriptor and not about the file: F_DUPFD, F_DUPFD_CLOEXEC, F_DUPFD_QUERY, F_GETFD and F_SETFD, which shells call for each redirection"},
	"file_receive":      {NoEvent: ownFiles},
	"file_ioctl_compat": {NoEvent: ownFiles, Remark: "Such a call is no file_ioctl, except on kernels without this hook."},
	"file_truncate":     {NoEvent: ownFiles, Remark: ofLength},
	"socket_sendmsg":    {Remark: "`addr` is there if the call has an address and the socket is of IPv4 or IPv6."},
	"sb_umount":         {Remark: "`mnt` is the root of the mount, and its `pathname` that inside the filesystem: mostly `/`."},
	"sb_remount":        {Remark: "`s_flags` are those from before the change."},
	"sb_pivotroot":      {Remark: "`old_path` is where the old root goes, `new_path` the new root."},
	"sb_statfs":         {Remark: "`dentry` is what was asked about, the root of the filesystem or anything below."},
	"move_mount":        {Remark: "MS_MOVE of mount(2) is an sb_mount. A mount that has no place yet, as fsmount(2) makes it, has only a name."},
	"settime":           {Remark: "`seconds` and `nsecs` have 64 bits.", NoEvent: "adjtimex(2), about which the kernel asks no LSM"},
	"key_permission":    {Remark: "`perm` is what the key gives, not what was wanted."},
	"tun_dev_attach":    {Remark: "The driver makes the socket itself, so that its `owner` is zeros."},
	"quotactl":          {NoEvent: "a request about all filesystems: Q_SYNC without a device"},
	"inode_getattr":     {NoEvent: ownFiles, Remark: "The `pathname` is that of a file: as it is seen through mounts."},
	"socket_accept":     {Remark: "`addr` is the socket's own, with the `port` in the order of the host."},
	"socket_recvmsg":    {Remark: "The hook comes before the message: there is no `addr` if a program receives, only perhaps if the kernel does for it."},
	"inode_setxattr":    {Remark: ofACLs},
	"inode_getxattr":    {NoEvent: ownFiles, Remark: ofACLs},
	"inode_listxattr":   {NoEvent: ownFiles},
	"inode_removexattr": {Remark: ofACLs},
	"inode_mkdir":       {Remark: "`mode` is without the type of the file, on every kernel."},
	"shm_shmctl":        {NoEvent: ofAll},
	"sem_semctl":        {NoEvent: ofAll},
	"msg_queue_msgctl":  {NoEvent: ofAll},
	"bprm_check_security": {Remark: "It is raised for the file that is to be executed, and again for each that interprets it. The digest is that " +
		"which the TASK_ID will have."},
	"userns_create": {Remark: "By clone(2) or unshare(2). `cred` is without the capabilities that the task gets in the new namespace."},
	"path_truncate": {NoEvent: noInner + "; ftruncate(2) and O_TRUNC, except on kernels without the hook file_truncate"},
	"path_unlink":   {NoEvent: noInner},
	"path_mkdir":    {NoEvent: noInner, Remark: noOwner},
	"path_rmdir":    {NoEvent: noInner},
	"path_symlink":  {NoEvent: noInner},
	"path_mknod":    {NoEvent: noInner, Remark: "Also of a regular file that open(2) is about to create, and of the name of an AF_UNIX socket. " + noOwner},
	"path_link":     {NoEvent: noInner},
	"path_rename":   {NoEvent: noInner},
	"cred_prepare":  {Remark: "At each fork, exec and change of credentials, and where a change is tried. `cred` is what is copied, before any change."},
	"task_alloc": {Remark: "Its event does not wait, though the kernel would let a program sleep: the hook keeps the books of all tasks. In a " +
		"namespace that refuses it, no task is made."},
	"capable": {NoEvent: "what the task may not: the capability module of the kernel is asked first, and refuses"},
}
