// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/taskid"
)

const content = "what the file says\n"

var (
	contentDigest = digestOf(content)
	emptyDigest   = hex.EncodeToString(sha256.New().Sum(nil))
	zeroDigest    = strings.Repeat("0", 64)
)

// An expectation says which events an actor has to raise: type and object, in turn.
type expectation struct {
	actor string
	want  func(x *expected) []object
}

// expected is what the expectations are made of: the actor's folder as it was before
// the act, and what the actor said.
type expected struct {
	t     *testing.T
	dir   string
	facts facts
	task  string // TASK_ID of the actor
	all   []object

	plain, folder object // inodes before the act
}

func (x *expected) fact(name string) string {
	value, ok := x.facts.Values[name]
	if !ok {
		x.t.Fatalf("the actor did not tell its %s", name)
	}
	return value
}

// taskOf returns the last TASK_ID of a thread that has raised events.
func (x *expected) taskOf(pid string) (id string) {
	for _, r := range x.all {
		if at(r, "event.pid") == pid {
			id = at(r, "event.task_id").(string)
		}
	}
	if id == "" || id == x.task {
		x.t.Fatalf("thread %s has the TASK_ID %q", pid, id)
	}
	return id
}

// inode describes an inode by stat and by what makeWork decided.
func inode(t *testing.T, path string) object {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return object{
		"uid": strconv.Itoa(int(stat.Uid)), "gid": strconv.Itoa(int(stat.Gid)),
		"mode": fmt.Sprintf("0%o", stat.Mode), "s_magic": fmt.Sprintf("%#x", ext4Magic),
		"s_id": workDevice(t), "s_uuid": workUUID,
	}
}

// workDevice is the name of the loop device, which is the id of the superblock.
func workDevice(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[1] == work {
			return filepath.Base(fields[0])
		}
	}
	t.Fatal("the work filesystem is not mounted")
	return ""
}

func workDev(t *testing.T) object {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(work, &stat); err != nil {
		t.Fatal(err)
	}
	return object{"major": fmt.Sprint(unix.Major(stat.Dev)), "minor": fmt.Sprint(unix.Minor(stat.Dev))}
}

// Path of a file, from the root of the mount namespace.
func (x *expected) path(name string) object {
	return object{"dev": workDev(x.t), "type": "root", "pathname": x.dir + name}
}

// Path of a directory entry, from the root of its filesystem.
func (x *expected) entry(name string) object {
	return object{"dev": workDev(x.t), "pathname": strings.TrimPrefix(x.dir, work) + name}
}

func (x *expected) created(path object, instance int) object {
	path["owner"], path["instance"] = x.task, strconv.Itoa(instance)
	return path
}

// byPath is what a path_ hook and then its twin of inodes raise, of which members tells all but the path.
func (x *expected) byPath(twin string, members func(path func(string) object) object) []object {
	return []object{{"path_" + twin: members(x.path)}, {"inode_" + twin: members(x.entry)}}
}

func (x *expected) plainFile() object {
	return object{"flags": x.fact("flags"), "inode": x.plain, "path": x.path("/plain"), "digest": contentDigest}
}

// getsFlags is the event of knowFlags.
func getsFlags(file object) object {
	return object{"file_fcntl": object{"file": file, "cmd": fmt.Sprint(unix.F_GETFL)}}
}

func (x *expected) sock(family, kind, protocol int) object {
	return object{"family": strconv.Itoa(family), "type": strconv.Itoa(kind), "protocol": strconv.Itoa(protocol), "owner": x.task}
}

// other is a directory of the other filesystem that the actor mounted.
func (x *expected) other(mode string) object {
	return object{"uid": "0", "gid": "0", "mode": mode, "s_magic": fmt.Sprintf("%#x", ext4Magic), "s_id": x.fact("s_id"), "s_uuid": otherUUID}
}

func (x *expected) otherDev() object {
	return object{"major": x.fact("major"), "minor": x.fact("minor")}
}

// otherRoot is the DENTRY of its root.
func (x *expected) otherRoot() object {
	return object{"inode": x.other("040755"), "path": object{"dev": x.otherDev(), "pathname": "/"}}
}

// mounted is the PATH of something on it, in the mount namespace of the actor.
func (x *expected) mounted(pathname string) object {
	return object{"dev": x.otherDev(), "type": "namespace", "pathname": pathname}
}

// Of include/linux/fs.h.
const (
	sbReadOnly = 1
	sbPOSIXACL = 1 << 16
	sbIVersion = 1 << 23
	sbNoSec    = 1 << 28
	sbBorn     = 1 << 29
	sbActive   = 1 << 30
)

// superblockFlags are those in the first record of a hook. Whether ext4 has two of them is up to the kernel.
func (x *expected) superblockFlags(hook string) uint64 {
	for _, r := range x.all {
		if at(r, "event.type") != hook {
			continue
		}
		flags, err := strconv.ParseUint(at(r, hook+".sb.s_flags").(string), 10, 64)
		if err != nil || flags&^(sbIVersion|sbNoSec) != sbPOSIXACL|sbBorn|sbActive {
			x.t.Errorf("s_flags %#x, %v", flags, err)
		}
		return flags
	}
	x.t.Fatalf("no %s", hook)
	return 0
}

// superblock is that of the other filesystem.
func (x *expected) superblock(flags uint64) object {
	return object{"dentry": x.otherRoot(), "fstype": "ext4", "s_flags": fmt.Sprint(flags)}
}

// ipc is an object of the actor.
func (x *expected) ipc() object {
	return object{"uid": "0", "gid": "0", "cuid": "0", "cgid": "0", "mode": "0640", "owner": x.task}
}

// S_IRUGO and S_IWUGO, which the kernel wants of an object.
const ipcRead, ipcWrite = "292", "146"

// controls are the events of the actor's function of this name.
func (x *expected) controls(hook string) []object {
	return []object{
		{"ipc_permission": object{"ipcp": x.ipc(), "flag": ipcRead}},
		{hook: object{"perm": x.ipc(), "cmd": fmt.Sprint(unix.IPC_STAT)}},
		{hook: object{"perm": x.ipc(), "cmd": fmt.Sprint(unix.IPC_RMID)}},
	}
}

func inet(port uint16, address string) object {
	// As a little-endian host reads the bytes of the network.
	return object{"af_inet": object{"port": strconv.Itoa(int(port>>8 | port<<8)), "address": address}}
}

const localhost = "16777343" // 127.0.0.1, 0x0100007f

var expectations = []expectation{
	{"nothing", func(x *expected) []object { return nil }},
	{"file_open", func(x *expected) []object {
		return []object{{"file_open": object{"file": x.plainFile()}}, getsFlags(x.plainFile())}
	}},
	{"file_open_special", func(x *expected) []object { return nil }},
	{"mmap_file", func(x *expected) []object {
		return []object{
			{"mmap_file": object{"file": x.plainFile(), "prot": "1", "flags": "2"}},
			{"mmap_file": object{"prot": "5", "flags": "34"}},
		}
	}},
	{"file_ioctl", func(x *expected) []object {
		return []object{{"file_ioctl": object{"file": x.plainFile(), "cmd": fmt.Sprint(unix.FS_IOC_GETFLAGS)}}}
	}},
	{"file_ioctl_compat", func(x *expected) []object {
		hook := "file_ioctl_compat"
		if !hasHook(hook) {
			hook = "file_ioctl"
		}
		return []object{{hook: object{"file": x.plainFile(), "cmd": fmt.Sprint(fioClex)}}}
	}},
	{"file_lock", func(x *expected) []object {
		return []object{{"file_lock": object{"file": x.plainFile(), "cmd": fmt.Sprint(unix.F_WRLCK)}}}
	}},
	{"file_truncate", func(x *expected) []object {
		sets := object{"inode_setattr": object{"dentry": object{"inode": x.plain, "path": x.entry("/plain")},
			// ATTR_SIZE, FILE, MTIME, CTIME.
			"attr": object{"valid": "8296", "mode": "00", "uid": "0", "gid": "0", "size": fmt.Sprint(1 << 60)}}}
		if !hasHook("file_truncate") { // then it is path_truncate's
			return []object{sets}
		}
		return []object{{"file_truncate": object{"file": x.plainFile()}}, sets}
	}},
	{"file_fcntl", func(x *expected) []object {
		return []object{getsFlags(x.plainFile()), {"file_fcntl": object{"file": x.plainFile(), "cmd": fmt.Sprint(unix.F_GETPIPE_SZ)}}}
	}},
	{"file_receive", func(x *expected) []object {
		return []object{{"socket_recvmsg": object{"sock": x.sock(1, 1, 0)}}, {"file_receive": object{"file": x.plainFile()}}}
	}},
	{"file_ioctl_pipe", func(x *expected) []object {
		return []object{{"file_ioctl": object{"cmd": fmt.Sprint(unix.TIOCINQ), "file": object{
			"flags": "0", "digest": emptyDigest, "path": object{"type": "root", "pathname": "pipe:/"},
			"inode": object{"uid": "0", "gid": "0", "mode": x.fact("mode"), "s_magic": "0x50495045", "s_id": "pipefs", "s_uuid": strings.Repeat("0", 32)},
		}}}}
	}},
	{"inode_create", func(x *expected) []object {
		file := maps(x.plain, object{"mode": "0100644"})
		var events []object
		for i, name := range []string{"/one", "/two"} {
			events = append(events,
				// As asked for: with POSIX ACLs the filesystem applies the umask itself.
				object{"inode_create": object{"dir": x.folder, "mode": "0100646", "dentry": object{"path": x.created(x.entry(name), i+1)}}},
				object{"file_open": object{"file": object{
					"flags": fmt.Sprint(unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | 0x8000), "inode": file, "path": x.created(x.path(name), i+1), "digest": emptyDigest,
				}}})
		}
		created := object{"flags": x.fact("flags"), "inode": file, "path": x.created(x.path("/two"), 2), "digest": emptyDigest}
		return append(events, object{"file_open": object{"file": created}}, getsFlags(created),
			object{"inode_unlink": object{"dir": x.folder, "dentry": object{"inode": file, "path": x.created(x.entry("/two"), 2)}}})
	}},
	{"inode_link", func(x *expected) []object {
		return []object{{"inode_link": object{"old_dentry": object{"inode": x.plain, "path": x.entry("/plain")}, "dir": x.folder,
			"new_dentry": object{"path": x.entry("/linked")}}}}
	}},
	{"inode_symlink", func(x *expected) []object {
		return []object{{"inode_symlink": object{"dir": x.folder, "dentry": object{"path": x.entry("/symbolic")}, "old_name": "../what/there is not"}}}
	}},
	{"inode_mkdir", func(x *expected) []object {
		path := x.created(x.entry("/made"), 1)
		return []object{
			{"inode_mkdir": object{"dir": x.folder, "dentry": object{"path": path}, "mode": "0757"}},
			{"inode_rmdir": object{"dir": x.folder, "dentry": object{"inode": maps(x.folder, object{"mode": "040755"}), "path": path}}},
		}
	}},
	{"inode_rmdir", func(x *expected) []object {
		return []object{{"inode_rmdir": object{"dir": x.folder, "dentry": object{"inode": maps(x.folder, object{"mode": "040710"}), "path": x.entry("/old")}}}}
	}},
	{"inode_mknod", func(x *expected) []object {
		return []object{{"inode_mknod": object{"dir": x.folder, "dentry": object{"path": x.entry("/node")}, "mode": "020626",
			"dev": object{"major": "1", "minor": "3"}}}}
	}},
	{"inode_setattr", func(x *expected) []object {
		set := func(mode string, attr object) object {
			return object{"inode_setattr": object{
				"dentry": object{"inode": maps(x.plain, object{"mode": mode}), "path": x.entry("/plain")},
				"attr":   maps(object{"mode": "00", "uid": "0", "gid": "0", "size": "0"}, attr),
			}}
		}
		// ATTR_MODE and CTIME; SIZE; MODE, UID, GID, CTIME and KILL_SUID (include/linux/fs.h).
		return []object{
			set("0100604", object{"valid": "65", "mode": "0104640"}),
			set("0104640", object{"valid": "8", "size": fmt.Sprint(1 << 33)}),
			set("0104640", object{"valid": "2119", "mode": "0100640", "uid": "12", "gid": "34"}),
		}
	}},
	{"inode_getxattr", func(x *expected) []object {
		return []object{{"inode_getxattr": object{"dentry": object{"inode": x.plain, "path": x.entry("/plain")}, "name": "user.none"}}}
	}},
	{"inode_listxattr", func(x *expected) []object {
		return []object{{"inode_listxattr": object{"dentry": object{"inode": x.plain, "path": x.entry("/plain")}}}}
	}},
	{"inode_removexattr", func(x *expected) []object {
		return []object{{"inode_removexattr": object{"dentry": object{"inode": x.plain, "path": x.entry("/plain")}, "name": "user.test"}}}
	}},
	{"inode_killpriv", func(x *expected) []object {
		entry := object{"inode": x.plain, "path": x.entry("/plain")}
		return []object{
			// ATTR_UID, GID, CTIME, KILL_SUID and KILL_PRIV.
			{"inode_setattr": object{"dentry": entry, "attr": object{"valid": "18502", "mode": "00", "uid": "12", "gid": "34", "size": "0"}}},
			{"inode_killpriv": object{"dentry": entry}},
		}
	}},
	{"inode_unlink", func(x *expected) []object {
		return []object{{"inode_unlink": object{"dir": x.folder, "dentry": object{"inode": x.plain, "path": x.entry("/plain")}}}}
	}},
	{"inode_rename", func(x *expected) []object {
		return []object{{"inode_rename": object{
			"old_dir": x.folder, "old_dentry": object{"inode": x.plain, "path": x.entry("/plain")},
			"new_dir": maps(x.folder, object{"mode": "040750"}), "new_dentry": object{"path": x.entry("/sub/renamed")},
		}}}
	}},
	{"inode_getattr", func(x *expected) []object {
		return []object{{"inode_getattr": object{"path": object{"inode": x.plain, "path": x.path("/plain")}}}}
	}},
	{"inode_setxattr", func(x *expected) []object {
		entry := object{"inode": x.plain, "path": x.entry("/plain")}
		return []object{
			{"inode_setxattr": object{
				"dentry": entry, "name": "user.test", "value": base64.StdEncoding.EncodeToString([]byte{0, 1, 2, 0xff}), "flags": "1",
			}},
			{"inode_setxattr": object{"dentry": entry, "name": "user.empty", "value": "", "flags": "0"}},
		}
	}},
	{"path_truncate", func(x *expected) []object {
		return []object{
			{"path_truncate": object{"path": object{"inode": x.plain, "path": x.path("/plain")}}},
			{"inode_setattr": object{"dentry": object{"inode": x.plain, "path": x.entry("/plain")},
				"attr": object{"valid": "8", "mode": "00", "uid": "0", "gid": "0", "size": fmt.Sprint(1 << 33)}}},
		}
	}},
	{"path_unlink", func(x *expected) []object {
		return x.byPath("unlink", func(path func(string) object) object {
			return object{"dir": x.folder, "dentry": object{"inode": x.plain, "path": path("/plain")}}
		})
	}},
	{"path_mkdir", func(x *expected) []object {
		return []object{
			{"path_mkdir": object{"dir": x.folder, "dentry": object{"path": x.path("/made")}, "mode": "0757"}},
			{"inode_mkdir": object{"dir": x.folder, "dentry": object{"path": x.created(x.entry("/made"), 1)}, "mode": "0757"}},
		}
	}},
	{"path_rmdir", func(x *expected) []object {
		return x.byPath("rmdir", func(path func(string) object) object {
			return object{"dir": x.folder, "dentry": object{"inode": maps(x.folder, object{"mode": "040710"}), "path": path("/old")}}
		})
	}},
	{"path_symlink", func(x *expected) []object {
		return x.byPath("symlink", func(path func(string) object) object {
			return object{"dir": x.folder, "dentry": object{"path": path("/symbolic")}, "old_name": "../what/there is not"}
		})
	}},
	{"path_mknod", func(x *expected) []object {
		made := object{"flags": fmt.Sprint(unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | 0x8000),
			"inode": maps(x.plain, object{"mode": "0100600"}), "path": x.created(x.path("/file"), 1), "digest": emptyDigest}
		return append(
			x.byPath("mknod", func(path func(string) object) object {
				return object{"dir": x.folder, "dentry": object{"path": path("/node")}, "mode": "020626",
					"dev": object{"major": "300", "minor": "70000"}}
			}),
			object{"path_mknod": object{"dir": x.folder, "dentry": object{"path": x.path("/file")}, "mode": "0100600",
				"dev": object{"major": "0", "minor": "0"}}},
			object{"inode_create": object{"dir": x.folder, "dentry": object{"path": x.created(x.entry("/file"), 1)}, "mode": "0100600"}},
			object{"file_open": object{"file": made}})
	}},
	{"path_link", func(x *expected) []object {
		return x.byPath("link", func(path func(string) object) object {
			return object{"old_dentry": object{"inode": x.plain, "path": path("/plain")}, "dir": x.folder,
				"new_dentry": object{"path": path("/linked")}}
		})
	}},
	{"path_rename", func(x *expected) []object {
		events := x.byPath("rename", func(path func(string) object) object {
			return object{
				"old_dir": x.folder, "old_dentry": object{"inode": x.plain, "path": path("/plain")},
				"new_dir": maps(x.folder, object{"mode": "040750"}), "new_dentry": object{"path": path("/sub/renamed")},
			}
		})
		events[0]["path_rename"].(object)["flags"] = fmt.Sprint(unix.RENAME_NOREPLACE)
		return events
	}},
	{"bprm_check_security", func(x *expected) []object {
		// O_LARGEFILE and the kernel's __FMODE_EXEC.
		program := object{"flags": fmt.Sprint(0x8020), "inode": inode(x.t, x.dir+"/program"), "path": x.path("/program"), "digest": contentDigest}
		return []object{{"file_open": object{"file": program}}, {"bprm_check_security": object{"file": program}}}
	}},
	{"cred_prepare", func(x *expected) []object {
		return []object{{"cred_prepare": object{"cred": maps(x.coe(), object{"securebits": "0"})}}}
	}},
	{"userns_create", func(x *expected) []object {
		return []object{{"userns_create": object{"cred": maps(x.coe(), object{"securebits": "0"})}}}
	}},
	{"task_alloc", func(x *expected) []object {
		return []object{{"task_alloc": object{"flags": fmt.Sprint(unix.CLONE_FS | unix.CLONE_FILES)}}}
	}},
	{"socket_create", func(x *expected) []object {
		return []object{{"socket_create": object{"family": "2", "type": "2", "protocol": "0", "kern": "0"}}}
	}},
	{"socket_connect", func(x *expected) []object {
		return []object{
			{"socket_connect": object{"sock": x.sock(2, 2, 17), "addr": inet(4660, localhost)}},
			{"socket_connect": object{"sock": x.sock(10, 2, 17), "addr": object{"af_inet6": object{
				"port": "13330", "flow": "0", "scope": "0", "address": strings.Repeat("0", 31) + "1"}}}},
		}
	}},
	{"socket_bind", func(x *expected) []object {
		return []object{
			{"socket_bind": object{"sock": x.sock(2, 2, 17), "addr": inet(4660, localhost)}},
			{"socket_bind": object{"sock": x.sock(1, 1, 0), "addr": object{"af_unix": object{"address": ""}}}},
		}
	}},
	{"socket_sendmsg", func(x *expected) []object {
		return []object{
			{"socket_sendmsg": object{"sock": x.sock(2, 2, 17), "addr": inet(4660, localhost)}},
			{"socket_connect": object{"sock": x.sock(2, 2, 17), "addr": inet(4661, localhost)}},
			{"socket_sendmsg": object{"sock": x.sock(2, 2, 17)}},
		}
	}},
	{"socket_accept", func(x *expected) []object {
		accept := func(sock object, family string, address object) object {
			return object{"socket_accept": object{"sock": sock, "addr": object{family: address}}}
		}
		return []object{
			accept(x.sock(2, 1, 6), "af_inet", object{"port": "4660", "address": localhost}),
			accept(x.sock(10, 1, 6), "af_inet6", object{"port": "4660", "address": strings.Repeat("0", 31) + "1"}),
			accept(x.sock(1, 1, 0), "af_unix", object{"address": x.dir + "/socket"}),
			accept(x.sock(1, 1, 0), "af_unix", object{"address": ""}),
		}
	}},
	{"socket_listen", func(x *expected) []object {
		return []object{{"socket_listen": object{"sock": x.sock(2, 1, 6), "backlog": "77"}}}
	}},
	{"socket_socketpair", func(x *expected) []object {
		create := object{"socket_create": object{"family": "1", "type": "5", "protocol": "0", "kern": "0"}}
		return []object{create, create, {"socket_socketpair": object{"socka": x.sock(1, 5, 0), "sockb": x.sock(1, 5, 0)}}}
	}},
	{"socket_recvmsg", func(x *expected) []object {
		recvmsg := object{"socket_recvmsg": object{"sock": x.sock(2, 2, 17)}}
		return []object{recvmsg, recvmsg, recvmsg}
	}},
	{"socket_getsockname", func(x *expected) []object {
		return []object{{"socket_getsockname": object{"sock": x.sock(10, 2, 17)}}}
	}},
	{"socket_getpeername", func(x *expected) []object {
		return []object{{"socket_getpeername": object{"sock": x.sock(1, 1, 0)}}}
	}},
	{"socket_setsockopt", func(x *expected) []object {
		return []object{{"socket_setsockopt": object{"sock": x.sock(2, 1, 6), "level": "6", "optname": "1"}}}
	}},
	{"socket_shutdown", func(x *expected) []object {
		return []object{{"socket_shutdown": object{"sock": x.sock(1, 1, 0), "how": "1"}}}
	}},
	{"unix_may_send", func(x *expected) []object {
		sock := x.sock(1, 2, 0)
		may := object{"unix_may_send": object{"sock": sock, "other": sock}}
		return []object{
			{"socket_sendmsg": object{"sock": sock}}, may,
			{"socket_connect": object{"sock": sock, "addr": object{"af_unix": object{"address": x.dir + "/socket"}}}}, may,
		}
	}},
	{"unix_stream_connect", func(x *expected) []object {
		return []object{
			{"socket_connect": object{"sock": x.sock(1, 1, 0), "addr": object{"af_unix": object{"address": x.dir + "/socket"}}}},
			{"unix_stream_connect": object{"sock": x.sock(1, 1, 0), "other": x.sock(1, 1, 0)}},
		}
	}},
	{"task_kill", func(x *expected) []object {
		return []object{
			{"task_kill": object{"target": x.task, "sig": "10", "cross_ns": "0"}},
			{"task_kill": object{"target": zeroDigest, "sig": "0", "cross_ns": "1"}},
		}
	}},
	{"task_setpgid", func(x *expected) []object {
		return []object{
			{"task_setpgid": object{"task": x.task, "source": x.task}},
			{"task_setpgid": object{"task": x.task, "source": x.taskOf(x.fact("leader"))}},
		}
	}},
	{"task_getpgid", func(x *expected) []object {
		return []object{{"task_getpgid": object{"task": x.task}}, {"task_getpgid": object{"task": zeroDigest}}}
	}},
	{"task_getsid", func(x *expected) []object {
		return []object{{"task_getsid": object{"task": zeroDigest}}}
	}},
	{"task_setnice", func(x *expected) []object {
		return []object{{"task_setnice": object{"task": x.task, "nice": "-3"}}}
	}},
	{"task_setioprio", func(x *expected) []object {
		return []object{{"task_setioprio": object{"task": x.task, "ioprio": fmt.Sprint(ioprioClassBE<<13 | 4)}}}
	}},
	{"task_getioprio", func(x *expected) []object {
		return []object{{"task_getioprio": object{"task": zeroDigest}}}
	}},
	{"task_prlimit", func(x *expected) []object {
		// LSM_PRLIMIT_READ (include/linux/security.h).
		both := maps(x.coe(), object{"securebits": "0"})
		return []object{{"task_prlimit": object{"cred": both, "tcred": both, "flags": "1"}}}
	}},
	{"task_setrlimit", func(x *expected) []object {
		return []object{{"task_setrlimit": object{"task": x.task, "new_rlim": object{
			"resource": fmt.Sprint(unix.RLIMIT_CORE), "current": fmt.Sprint(1 << 40), "max": "18446744073709551615"}}}}
	}},
	{"task_setscheduler", func(x *expected) []object {
		return []object{{"task_setscheduler": object{"task": x.task}}}
	}},
	{"task_getscheduler", func(x *expected) []object {
		return []object{{"task_getscheduler": object{"task": zeroDigest}}}
	}},
	{"task_prctl", func(x *expected) []object {
		return []object{
			{"task_prctl": object{"option": fmt.Sprint(unix.PR_SET_DUMPABLE), "arg2": "1", "arg3": "3", "arg4": "4", "arg5": "5"}},
			{"task_prctl": object{"option": fmt.Sprint(unix.PR_GET_NAME), "arg2": "0", "arg3": "0", "arg4": "0", "arg5": "0"}},
			{"task_prctl": object{"option": fmt.Sprint(noOption), "arg2": "0", "arg3": "0", "arg4": "0", "arg5": fmt.Sprint(uint64(1 << 63))}},
		}
	}},
	{"ptrace_traceme", func(x *expected) []object {
		return []object{{"ptrace_traceme": object{"source": zeroDigest}}}
	}},
	{"capget", func(x *expected) []object {
		return []object{
			{"capget": object{"target": x.task, "effective": "0x" + x.facts.CapEff, "inheritable": x.fact("CapInh"), "permitted": x.fact("CapPrm")}},
			{"capget": object{"target": zeroDigest, "effective": x.fact("parent CapEff"),
				"inheritable": x.fact("parent CapInh"), "permitted": x.fact("parent CapPrm")}},
		}
	}},
	{"capset", func(x *expected) []object {
		return []object{{"capset": object{
			"effective": x.fact("effective"), "inheritable": x.fact("inheritable"), "permitted": x.fact("permitted")}}}
	}},
	{"ptrace_access_check", func(x *expected) []object {
		// PTRACE_MODE_READ and PTRACE_MODE_FSCREDS (include/linux/ptrace.h).
		return []object{{"ptrace_access_check": object{"child": zeroDigest, "mode": "9"}}}
	}},
	{"sb_mount", func(x *expected) []object {
		path := x.path("/here")
		path["type"] = "namespace" // the actor has one of its own
		return []object{{"sb_mount": object{"dev_name": "a source", "path": path, "type": "tmpfs", "flags": fmt.Sprint(unix.MS_NOSUID | unix.MS_NODEV)}}}
	}},
	{"sb_umount", func(x *expected) []object {
		return []object{{"sb_umount": object{"mnt": x.otherRoot(), "flags": fmt.Sprint(unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW)}}}
	}},
	{"sb_remount", func(x *expected) []object {
		flags := x.superblockFlags("sb_remount")
		remount := func(requested int, flags uint64) []object {
			return []object{
				{"sb_mount": object{"dev_name": "", "path": x.mounted(here(x.dir)), "type": "", "flags": fmt.Sprint(requested)}},
				{"sb_remount": object{"sb": x.superblock(flags)}},
				// IOPRIO_CLASS_BE and 3, of the thread of the journal (fs/ext4/super.c).
				{"task_setioprio": object{"task": zeroDigest, "ioprio": fmt.Sprint(ioprioClassBE<<13 | 3)}},
			}
		}
		return append(remount(unix.MS_REMOUNT|unix.MS_RDONLY, flags), remount(unix.MS_REMOUNT, flags|sbReadOnly)...)
	}},
	{"sb_pivotroot", func(x *expected) []object {
		return []object{{"sb_pivotroot": object{"old_path": x.mounted(lost(x.dir)), "new_path": x.mounted(here(x.dir))}}}
	}},
	{"sb_statfs", func(x *expected) []object {
		return []object{{"sb_statfs": object{"dentry": object{"inode": x.plain, "path": x.entry("/plain")}}}}
	}},
	{"move_mount", func(x *expected) []object {
		to := func(name string) object { return maps(x.path(name), object{"type": "namespace"}) }
		return []object{
			{"move_mount": object{"from_path": x.mounted(here(x.dir)), "to_path": to("/there")}},
			{"move_mount": object{"from_path": x.mounted("/"), "to_path": to("/here")}}, // only a name
		}
	}},
	{"quotactl", func(x *expected) []object {
		return []object{
			{"quotactl": object{"cmds": fmt.Sprint(quotaOn), "type": "0", "id": fmt.Sprint(noQuotaFormat),
				"sb": x.superblock(x.superblockFlags("quotactl"))}},
			{"quota_on": object{"dentry": object{"inode": x.other("040700"), "path": object{"dev": x.otherDev(), "pathname": "/lost+found"}}}},
		}
	}},
	{"shm_shmat", func(x *expected) []object {
		// unix.SysvShmAttach asks how large it is.
		return append([]object{
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": ipcRead}},
			{"shm_shmat": object{"perm": x.ipc(), "shmflg": fmt.Sprint(unix.SHM_RDONLY)}},
		}, x.controls("shm_shmctl")...)
	}},
	{"shm_shmctl", func(x *expected) []object {
		return append([]object{
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": "128"}},
			{"shm_associate": object{"perm": x.ipc(), "shmflg": "128"}},
		}, x.controls("shm_shmctl")...)
	}},
	{"sem_semop", func(x *expected) []object {
		return append([]object{
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": "128"}},
			{"sem_associate": object{"perm": x.ipc(), "semflg": "128"}},
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": ipcWrite}},
			{"sem_semop": object{"perm": x.ipc(), "nsops": "2", "alter": "1"}},
		}, x.controls("sem_semctl")...)
	}},
	{"msg_queue_msgsnd", func(x *expected) []object {
		return append([]object{
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": "128"}},
			{"msg_queue_associate": object{"perm": x.ipc(), "msqflg": "128"}},
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": ipcWrite}},
			{"msg_queue_msgsnd": object{"perm": x.ipc(), "msqflg": fmt.Sprint(ipcNoWait)}},
			{"ipc_permission": object{"ipcp": x.ipc(), "flag": ipcRead}},
			// SEARCH_EQUAL (ipc/msg.c).
			{"msg_queue_msgrcv": object{"perm": x.ipc(), "target": x.task, "type": "7", "mode": "2"}},
		}, x.controls("msg_queue_msgctl")...)
	}},
	{"key_alloc", func(x *expected) []object {
		return []object{x.keyPermission(), x.keyPermission(), {"key_alloc": object{"flags": "0", "cred": maps(x.coe(), object{"securebits": "0"})}}}
	}},
	{"netlink_send", func(x *expected) []object {
		return []object{
			{"socket_sendmsg": object{"sock": x.sock(16, 3, 0)}},
			{"netlink_send": object{"sock": x.sock(16, 3, 0), "uid": "0", "gid": "0", "portid": x.fact("portid"),
				"dst_group": "0", "flags": "0", "nsid_set": "0", "nsid": "0"}},
		}
	}},
	{"key_permission", func(x *expected) []object { return []object{x.keyPermission()} }},
	{"tun_dev_create", func(x *expected) []object {
		ioctl := func(cmd int) object {
			return object{"file_ioctl": object{"cmd": fmt.Sprint(cmd), "file": object{
				"flags": fmt.Sprint(unix.O_RDWR | 0x8000), "inode": inode(x.t, x.dir+"/tun"), "path": x.path("/tun"), "digest": emptyDigest,
			}}}
		}
		attach := object{"tun_dev_attach": object{"sock": object{"family": "0", "type": "0", "protocol": "0", "owner": zeroDigest}}}
		return []object{
			ioctl(unix.TUNSETIFF), {"tun_dev_create": object{}}, attach,
			ioctl(unix.TUNSETIFF), {"tun_dev_open": object{}}, attach,
			ioctl(unix.TUNSETQUEUE),
			ioctl(unix.TUNSETQUEUE), {"tun_dev_attach_queue": object{}}, attach,
		}
	}},
	{"bpf_map", func(x *expected) []object {
		return []object{
			{"bpf": object{"cmd": "0", "attr": object{"size": "64"}}},
			// FMODE_READ and FMODE_WRITE of an array.
			{"bpf_map": object{"map": object{"map_type": "2"}, "fmode": "3"}},
		}
	}},
	{"bpf_prog", func(x *expected) []object {
		return []object{
			{"bpf": object{"cmd": fmt.Sprint(unix.BPF_PROG_LOAD), "attr": object{"size": x.fact("size")}}},
			{"bpf_prog": object{"prog": object{"type": fmt.Sprint(bpfCgroupSockAddr), "attach_type": fmt.Sprint(unix.BPF_CGROUP_INET6_BIND)}}},
		}
	}},
	{"kernel_module_request", func(x *expected) []object {
		return []object{
			{"sb_mount": object{"dev_name": "none", "path": maps(x.path(""), object{"type": "namespace"}), "type": noFilesystem, "flags": "0"}},
			{"kernel_module_request": object{"kmod_name": "fs-" + noFilesystem}},
		}
	}},
	{"kernel_load_data", func(x *expected) []object {
		// LOADING_MODULE; what is in it is looked at after.
		return []object{{"kernel_load_data": object{"id": "2", "contents": "1"}}}
	}},
	{"syslog", func(x *expected) []object {
		return []object{{"syslog": object{"type": fmt.Sprint(unix.SYSLOG_ACTION_SIZE_BUFFER)}}}
	}},
	{"settime", func(x *expected) []object {
		zone := object{"minuteswest": fmt.Sprint(-noMinutes), "dsttime": "3"}
		return []object{
			{"settime": object{"ts": object{"seconds": x.fact("seconds"), "nsecs": x.fact("nsecs")}}},
			{"settime": object{"tz": zone}},
			{"settime": object{"ts": object{"seconds": fmt.Sprint(year2223), "nsecs": "5000"}, "tz": zone}},
			{"settime": object{}},
		}
	}},
	{"kernel_read_file", func(x *expected) []object {
		// READING_MODULE; the whole file is read.
		return []object{{"kernel_read_file": object{"file": x.plainFile(), "id": "2", "contents": "1"}}}
	}},
}

// Of include/linux/key.h: flags of a key.
const (
	keyInQuota   = 1 << 2
	keyUserAlive = 1 << 10
)

// keyPermission is an access to the keyring of the actor, which possesses it. Whether kernels mark that its
// user is there, nobody else can see.
func (x *expected) keyPermission() object {
	var flags string
	for _, r := range x.all {
		if at(r, "event.type") == "key_permission" {
			flags = at(r, "key_permission.key_ref.flags").(string)
		}
	}
	if flags != fmt.Sprint(keyInQuota) && flags != fmt.Sprint(keyInQuota|keyUserAlive) {
		x.t.Errorf("flags of the keyring are %q", flags)
	}
	return object{"key_permission": object{"cred": maps(x.coe(), object{"securebits": "0"}), "perm": x.fact("perm"),
		"key_ref": object{"possessed": "1", "uid": x.fact("uid"), "gid": x.fact("gid"), "flags": flags}}}
}

// maps returns a copy of an object with other members.
func maps(o object, other object) object {
	copied := make(object)
	for _, from := range []object{o, other} {
		for k, v := range from {
			copied[k] = v
		}
	}
	return copied
}

func (x *expected) coe() object {
	c := object{"capeff": "0x" + x.facts.CapEff}
	for _, id := range []string{"uid", "euid", "suid", "gid", "egid", "sgid", "fsuid", "fsgid"} {
		c[id] = "0"
	}
	return c
}

// prepare makes the actor's folder anew, with a plain file in it.
func prepare(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(work, name)
	if err := os.RemoveAll(dir); err != nil { // what another test left
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/program", []byte(content), 0o755); err != nil { // with the same content, and older
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/plain", []byte(content), 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/old", 0o710); err != nil {
		t.Fatal(err)
	}
	return dir
}

// folder makes the folder of an actor, whose file has rested, so that its digest can be exact.
func folder(t *testing.T, name string) string {
	t.Helper()
	dir := prepare(t, name)
	settle(dir + "/plain")
	return dir
}

// v3And returns the events of TSEM v3, and one more if it is of a later version.
func v3And(t *testing.T, name string) []event.Hook {
	t.Helper()
	list := "v3"
	if name != "" {
		list += "," + name
	}
	hooks, err := event.ParseHooks(list)
	check(t, err)
	return hooks
}

// TestEvents makes one occurrence of each event and compares every field with what
// the actor knows, or what can be found out in another way.
func TestEvents(t *testing.T) {
	task := actorTaskID(t)
	seen := make(map[string]bool)
	for _, e := range expectations {
		prepare(t, e.actor) // all at once, so that they need to rest only once
	}
	for _, e := range expectations {
		t.Run(e.actor, func(t *testing.T) {
			defer func() { seen[hookOf(e.actor)] = seen[hookOf(e.actor)] || t.Skipped() }()
			needFor(t, e.actor)
			x := &expected{t: t, dir: filepath.Join(work, e.actor), task: task}
			settle(x.dir + "/plain")
			x.plain, x.folder = inode(t, x.dir+"/plain"), inode(t, x.dir)
			o := observe(t, e.actor, namespace.Config{Events: v3And(t, hookOf(e.actor))})
			x.facts, x.all = o.facts, o.all
			var got []object
			for _, r := range o.events {
				got = append(got, object{at(r, "event.type").(string): r[at(r, "event.type").(string)]})
				x.header(r)
				seen[at(r, "event.type").(string)] = true
			}
			want := e.want(x)
			for _, w := range want {
				for kind := range w {
					needHook(t, kind)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
	seen["capable"] = true // TestCapable
	for _, h := range event.Hooks() {
		if !seen[h.String()] && hasHook(h.String()) {
			t.Errorf("no actor raised %s", h)
		}
	}
}

// TestExportTier: where no hook may sleep, the same events come, all of them atomic.
func TestExportTier(t *testing.T) {
	t.Cleanup(func() { reload(t) })
	t.Setenv("TSEM_TIER", string(loader.TierExport)) // undone before the cleanup above
	reload(t)
	if tier := engine.Support().Tier; tier != loader.TierExport {
		t.Fatalf("tier %s", tier)
	}
	TestEvents(t)
}

// mayWait says whether the events of a hook can wait on this kernel (TestWaitTable).
func mayWait(hook string) bool {
	return slices.ContainsFunc(engine.Support().Hooks, func(h loader.HookSupport) bool { return h.Name == hook && h.Waits })
}

// header checks what all records have in common.
func (x *expected) header(r object) {
	x.t.Helper()
	kind, hook := at(r, "export.type"), at(r, "event.type").(string)
	want := "async_event"
	if mayWait(hook) {
		want = "event"
	}
	if kind != want {
		x.t.Errorf("%s: kind %v, want %s", hook, kind, want)
	}
	ts, err := strconv.ParseUint(at(r, "event.ts").(string), 10, 64)
	if err != nil || ts < x.facts.Before || ts > x.facts.After {
		x.t.Errorf("%s: ts %v is not in %d to %d", hook, at(r, "event.ts"), x.facts.Before, x.facts.After)
	}
	for member, want := range map[string]string{
		"pid": strconv.Itoa(x.facts.PID), "process": x.facts.Comm, "task_id": x.task, "p_task_id": zeroDigest,
	} {
		if got := at(r, "event."+member); got != want {
			x.t.Errorf("%s: %s is %v, want %s", hook, member, got, want)
		}
	}
	if diff := cmp.Diff(x.coe(), r["COE"]); diff != "" {
		x.t.Errorf("%s: COE (-want +got):\n%s", hook, diff)
	}
}

// actorTaskID computes the TASK_ID of every actor, from the file and credentials.
func actorTaskID(t *testing.T) string {
	t.Helper()
	o := observe(t, "nothing", namespace.Config{})
	program := work + "/actor"
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	capEff, err := strconv.ParseUint(o.facts.CapEff, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(program, &stat); err != nil {
		t.Fatal(err)
	}
	inode := eventtest.InodeCell{UID: stat.Uid, GID: stat.Gid, Mode: stat.Mode, SMagic: ext4Magic, SID: workDevice(t)}
	if _, err := hex.Decode(inode.UUID[:], []byte(workUUID)); err != nil {
		t.Fatal(err)
	}
	b := &eventtest.Builder{Header: eventtest.Header{Hook: uint16(event.HookExec), Kind: uint8(event.KindExec), CapEff: capEff}}
	b.File(0x8020, 1, [32]byte{}) // O_LARGEFILE and the kernel's __FMODE_EXEC; TSEM_DIGEST_WANTED
	b.Inode(inode).Path(eventtest.PathCell{
		Flags: eventtest.PathDev, DevMajor: unix.Major(stat.Dev), DevMinor: unix.Minor(stat.Dev), Text: program,
	})
	exec, err := event.Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	point, err := event.NewMapper(event.Current, crypto.SHA256, taskid.NewTable(crypto.SHA256, engine)).
		Map(&exec, event.Digest{Sum: sum[:], State: event.DigestExact})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(point.Coefficient)
}

// TestCapable: one call that asks for one capability.
func TestCapable(t *testing.T) {
	needHook(t, "capable")
	o := observe(t, "capable", namespace.Config{})
	var got []any
	marks := 0
	for _, r := range o.all {
		if at(r, "task_kill.sig") == "0" {
			marks++
		}
		if marks == 1 && at(r, "event.type") == "capable" {
			got = append(got, r["capable"])
		}
	}
	want := []any{object{"cap": fmt.Sprint(unix.CAP_SYS_CHROOT), "opts": "0"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("capable events (-want +got):\n%s", diff)
	}
}
