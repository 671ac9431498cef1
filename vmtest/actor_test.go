// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// facts are what an actor knows about itself and what it did.
type facts struct {
	PID, PPID     int
	Comm          string
	CapEff        string
	Before, After uint64 // CLOCK_BOOTTIME, ns
	Values        map[string]string
}

// An act is one occurrence of an event. prepare comes before the first mark, what it
// returns between the marks.
type act func(dir string, know func(name, format string, args ...any)) (do func())

// actor is the whole life of an actor process.
func actor(name string) {
	runtime.LockOSThread()
	signal.Ignore(syscall.SIGUSR1)
	f := facts{PID: unix.Gettid(), PPID: os.Getppid(), Values: make(map[string]string)}
	comm, err := os.ReadFile("/proc/thread-self/comm")
	must(err)
	f.Comm = strings.TrimSpace(string(comm))
	f.CapEff = fmt.Sprintf("%x", capabilities(f.PID, "CapEff"))
	do := acts[name](filepath.Join(work, name), func(name, format string, args ...any) {
		f.Values[name] = fmt.Sprintf(format, args...)
	})
	// The thread that the facts are about, and not the process.
	mark := func() { must(unix.Tgkill(os.Getpid(), f.PID, markSignal)) }
	f.Before = bootTime()
	mark()
	do()
	mark()
	f.After = bootTime()
	if len(os.Args) > 1 {
		return // started by another actor, which speaks for it
	}
	must(json.NewEncoder(os.Stdout).Encode(f))
}

// capabilities returns a set of capabilities of a task, by its name in /proc/PID/status.
func capabilities(pid int, set string) uint64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(err)
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, set+":"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			must(err)
			return n
		}
	}
	must(fmt.Errorf("no %s in the status of %d", set, pid))
	return 0
}

// call makes a system call for which there is no function.
func call(number uintptr, args ...uintptr) uintptr {
	var a [6]uintptr
	copy(a[:], args)
	result, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		must(errno)
	}
	return result
}

// threadTime is how long the calling thread has had a CPU, in ns.
func threadTime() int64 {
	var t unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t))
	return t.Nano()
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "actor:", err)
		os.Exit(1)
	}
}

// mustFail ends the actor unless a call has failed with the errno that is wanted.
func mustFail(what string, err error, want unix.Errno) {
	if err != want {
		must(fmt.Errorf("%s: %w, want %w", what, err, want))
	}
}

func open(path string, flags int, mode uint32) int {
	fd, err := unix.Open(path, flags, mode)
	must(err)
	return fd
}

func socket(family, kind, protocol int) int {
	fd, err := unix.Socket(family, kind, protocol)
	must(err)
	return fd
}

// knowFlags tells f_flags of an open file, as fcntl has them.
func knowFlags(fd int, know func(string, string, ...any)) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	must(err)
	know("flags", "%d", flags)
}

var (
	loopback4 = &unix.SockaddrInet4{Port: 4660, Addr: [4]byte{127, 0, 0, 1}}
	loopback6 = &unix.SockaddrInet6{Port: 4660, Addr: [16]byte{15: 1}}
)

// listening returns a socket that listens at an address, and that a client is connected to.
func listening(family int, at unix.Sockaddr) int {
	listener := socket(family, unix.SOCK_STREAM, 0)
	// The connection of an actor before holds the address for a minute (tcp(7), TIME_WAIT).
	must(unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(unix.Bind(listener, at))
	must(unix.Listen(listener, 1))
	must(unix.Connect(socket(family, unix.SOCK_STREAM, 0), at))
	return listener
}

// Of include/uapi/linux/ioprio.h.
const (
	ioprioWhoProcess = 1
	ioprioClassBE    = 2
)

// noOption is none of prctl.
const noOption = 0x7fffffff

const (
	ipcKey    = 0x7473656d
	ipcNoWait = 0o4000
	ipcInfo   = 3 // of include/uapi/linux/ipc.h, as unix.IPC_STAT and unix.IPC_RMID
)

// controls asks about an object, asks about all of its kind, and removes it. The commands come
// behind the id and as many arguments as skip says.
func controls(number, id uintptr, skip int) {
	for _, command := range []uintptr{unix.IPC_STAT, ipcInfo, unix.IPC_RMID} {
		args := make([]uintptr, 3+skip)
		args[0], args[1+skip], args[2+skip] = id, command, uintptr(unsafe.Pointer(new([256]byte)))
		call(number, args...)
	}
}

// knowKeyring tells what the keyring of the process is.
func knowKeyring(know func(string, string, ...any)) {
	text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, unix.KEY_SPEC_PROCESS_KEYRING)
	must(err)
	var uid, gid, perm int
	_, err = fmt.Sscanf(text, "keyring;%d;%d;%x;_pid", &uid, &gid, &perm)
	must(err)
	know("uid", "%d", uid)
	know("gid", "%d", gid)
	know("perm", "%d", perm)
}

// getCapabilities reads the capabilities of a task, in halves of 32; 0 is the caller.
func getCapabilities(pid int) (sets [2]unix.CapUserData) {
	must(unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(pid)}, &sets[0]))
	return sets
}

// privateMounts gives the actor a mount namespace of its own, out of which nothing gets.
func privateMounts() {
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// here is where an actor mounts a filesystem.
func here(dir string) string { return dir + "/here" }

// lost is a directory in each ext4 filesystem.
func lost(dir string) string { return here(dir) + "/lost+found" }

// mountOther mounts the other filesystem of makeWork in a mount namespace of the actor's own, and
// tells its device, of which it returns the path.
func mountOther(dir, options string, know func(string, string, ...any)) string {
	privateMounts()
	control := open("/dev/loop-control", unix.O_RDWR, 0)
	number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	must(err)
	name := fmt.Sprint("loop", number)
	must(unix.IoctlLoopConfigure(open("/dev/"+name, unix.O_RDWR, 0), &unix.LoopConfig{
		Fd: uint32(open(otherImage, unix.O_RDWR, 0)), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
	}))
	must(unix.Mkdir(here(dir), 0o700))
	must(unix.Mount("/dev/"+name, here(dir), "ext4", 0, options))
	var stat unix.Stat_t
	must(unix.Stat(here(dir), &stat))
	know("s_id", "%s", name)
	know("major", "%d", unix.Major(stat.Dev))
	know("minor", "%d", unix.Minor(stat.Dev))
	return "/dev/" + name
}

// Of include/uapi/linux/quota.h, for user quotas: commands, and a format that there is not.
const (
	quotaSync     = 0x800001
	quotaOn       = 0x800002
	noQuotaFormat = 99
)

// noFilesystem is a name that tries to forge a record, noMinutes are more of them west of Greenwich than can be,
// and year2223 is a time that has more than 32 bits.
const (
	noFilesystem = "tsem\"}\n{\\"
	noMinutes    = 1000
	year2223     = 8_000_000_000
)

// bpfCgroupSockAddr is BPF_PROG_TYPE_CGROUP_SOCK_ADDR.
const bpfCgroupSockAddr = 18

// fioClex is FIOCLEX of include/uapi/asm-generic/ioctls.h, which has no argument.
const fioClex = 0x5451

// compatIoctl returns an ioctl without argument as a 32 bit program calls it: by int 0x80, which a 64 bit one
// can use too. The call is machine code in memory that is made for it, where its result is put as well.
func compatIoctl(fd, cmd int) func() error {
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(err)
	const result = 64                                                        // where in the memory
	code := []byte{0xb8, 54, 0, 0, 0}                                        // mov eax, 54: ioctl
	code = binary.LittleEndian.AppendUint32(append(code, 0xbb), uint32(fd))  // mov ebx, fd
	code = binary.LittleEndian.AppendUint32(append(code, 0xb9), uint32(cmd)) // mov ecx, cmd
	code = append(code, 0x31, 0xd2, 0xcd, 0x80, 0x89, 0x05)                  // xor edx, edx; int 0x80; mov [rip+...], eax
	code = binary.LittleEndian.AppendUint32(code, uint32(result-len(code)-4))
	copy(memory, append(code, 0xc3)) // ret
	// A function of Go is a pointer to the address of its code; this one keeps to what Go wants of registers.
	entry := &struct{ code *byte }{&memory[0]}
	run := *(*func())(unsafe.Pointer(&entry))
	return func() error {
		run()
		return unix.Errno(-int32(binary.LittleEndian.Uint32(memory[result:])))
	}
}

// execProgram executes a file that is no program, which the test put into the actor's folder.
func execProgram(dir string) error {
	path, err := unix.BytePtrFromString(dir + "/program")
	must(err)
	argv := [2]*byte{path}
	_, _, errno := unix.Syscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv)), 0)
	return errno
}

// cloneSelf makes a task that does not begin to live: it shall have the number of the caller.
func cloneSelf(flags uint64) error {
	self := int32(unix.Gettid())
	// struct clone_args (include/uapi/linux/sched.h)
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
		setTID                                                               *int32
		setTIDSize, cgroup                                                   uint64
	}{flags: flags, exitSignal: uint64(unix.SIGCHLD), setTID: &self, setTIDSize: 1}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	return errno
}

// plain is a file that the test put into the actor's folder.
func plain(dir string) string { return dir + "/plain" }

var acts = map[string]act{
	"cost": func(dir string, know func(string, string, ...any)) func() {
		const rounds = 101
		median := func(calls int, do func()) int64 {
			var all []int64
			for range rounds {
				begin := threadTime()
				for range calls {
					do()
				}
				all = append(all, threadTime()-begin)
			}
			slices.Sort(all)
			return all[rounds/2]
		}
		// Short rounds, so that most have no tick of the clock in them; what is itself short is
		// done more often, as reading the clock scatters by some hundred instructions.
		measure := func(name string, calls int, do func()) {
			know(name, "%d", (median(calls, do)-median(0, do))/int64(calls))
		}
		// Renaming changes a file, and one that has just changed is digested at each open:
		// what is renamed is not what is opened, and empty, so that it is never digested.
		moved := dir + "/moved"
		must(unix.Close(open(moved, unix.O_CREAT|unix.O_WRONLY, 0o644)))
		file := open(plain(dir), unix.O_RDONLY, 0)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		must(err)
		udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		must(err)
		message := make([]byte, 1)
		control := func(cmd int) func() {
			return func() {
				_, err := unix.FcntlInt(uintptr(file), cmd, 0)
				must(err)
			}
		}
		return func() {
			measure("open+close", 20, func() { must(unix.Close(open(plain(dir), unix.O_RDONLY, 0))) })
			measure("stat", 20, func() { must(unix.Stat(plain(dir), new(unix.Stat_t))) })
			measure("rename there and back", 20, func() {
				must(unix.Rename(moved, moved+".other"))
				must(unix.Rename(moved+".other", moved))
			})
			measure("mmap+munmap", 20, func() {
				memory, err := unix.Mmap(file, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
				must(err)
				must(unix.Munmap(memory))
			})
			measure("chmod", 20, func() { must(unix.Chmod(moved, 0o644)) })
			measure("ioctl", 20, func() {
				_, err := unix.IoctlGetInt(file, unix.FS_IOC_GETFLAGS)
				must(err)
			})
			measure("chroot", 20, func() { must(unix.Chroot("/")) })
			measure("socket+close", 20, func() {
				socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
				must(err)
				must(unix.Close(socket))
			})
			measure("connect a UDP socket", 20, func() { must(unix.Connect(udp, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})) })
			measure("kill", 20, func() { must(unix.Kill(unix.Getpid(), markSignal)) })
			measure("write+read a socket", 20, func() {
				_, err := unix.Write(pair[0], message)
				must(err)
				_, err = unix.Read(pair[1], message)
				must(err)
			})
			measure("fcntl F_GETFL", 20, control(unix.F_GETFL))
			measure("fcntl F_GETFD", 1000, control(unix.F_GETFD))
			measure("getppid", 1000, func() { unix.Getppid() })
		}
	},
	"nothing": func(string, func(string, string, ...any)) func() { return func() {} },
	"file_open": func(dir string, know func(string, string, ...any)) func() {
		return func() { knowFlags(open(plain(dir), unix.O_RDONLY, 0), know) }
	},
	"file_open_special": func(dir string, know func(string, string, ...any)) func() {
		// Directories, devices and pipes are no file_open events.
		return func() {
			open(dir, unix.O_RDONLY, 0)
			open("/dev/null", unix.O_RDWR, 0)
		}
	},
	"mmap_file": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		return func() {
			_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
			must(err)
			_, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			must(err)
			_, err = unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			must(err)
		}
	},
	"file_ioctl": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		return func() {
			_, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
			must(err)
		}
	},
	"file_ioctl_compat": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		ioctl := compatIoctl(fd, fioClex)
		return func() { mustFail("ioctl of 32 bits", ioctl(), unix.Errno(0)) }
	},
	"file_lock": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		return func() { must(unix.Flock(fd, unix.LOCK_EX)) }
	},
	"file_truncate": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDWR, 0)
		knowFlags(fd, know)
		return func() {
			// More than ext4 can have: the content stays, and its digest is known.
			mustFail("a file of 2^60 bytes", unix.Ftruncate(fd, 1<<60), unix.EFBIG)
		}
	},
	"file_fcntl": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		return func() {
			for _, cmd := range []int{unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_SETFD, unix.F_GETFD, unix.F_GETFL, unix.F_GETPIPE_SZ} {
				// The last one is no pipe, which is found out after the hook.
				if _, err := unix.FcntlInt(uintptr(fd), cmd, 0); cmd != unix.F_GETPIPE_SZ {
					must(err)
				}
			}
		}
	},
	"file_receive": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		must(err)
		must(unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0))
		return func() {
			_, _, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), make([]byte, unix.CmsgSpace(4)), 0)
			must(err)
		}
	},
	"file_ioctl_pipe": func(dir string, know func(string, string, ...any)) func() {
		var p [2]int
		must(unix.Pipe(p[:]))
		var stat unix.Stat_t
		must(unix.Fstat(p[0], &stat))
		know("mode", "0%o", stat.Mode)
		return func() {
			_, err := unix.IoctlGetInt(p[0], unix.TIOCINQ)
			must(err)
		}
	},
	"inode_create": func(dir string, know func(string, string, ...any)) func() {
		unix.Umask(0o022)
		return func() {
			for _, name := range []string{"/one", "/two"} {
				fd := open(dir+name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o646)
				_, err := unix.Write(fd, []byte("content that is never digested"))
				must(err)
				must(unix.Close(fd))
			}
			knowFlags(open(dir+"/two", unix.O_RDONLY, 0), know)
			must(unix.Unlink(dir + "/two"))
		}
	},
	"inode_link": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Link(plain(dir), dir+"/linked")) }
	},
	"inode_symlink": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Symlink("../what/there is not", dir+"/symbolic")) }
	},
	"inode_mkdir": func(dir string, know func(string, string, ...any)) func() {
		unix.Umask(0o022)
		return func() {
			must(unix.Mkdir(dir+"/made", 0o757))
			must(unix.Rmdir(dir + "/made"))
		}
	},
	"inode_rmdir": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Rmdir(dir + "/old")) }
	},
	"inode_mknod": func(dir string, know func(string, string, ...any)) func() {
		unix.Umask(0o022)
		return func() { must(unix.Mknod(dir+"/node", unix.S_IFCHR|0o626, int(unix.Mkdev(1, 3)))) }
	},
	"inode_setattr": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			must(unix.Chmod(plain(dir), 0o4640))
			must(unix.Truncate(plain(dir), 1<<33))
			must(unix.Chown(plain(dir), 12, 34))
		}
	},
	"inode_getxattr": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			if _, err := unix.Getxattr(plain(dir), "user.none", nil); err != unix.ENODATA {
				must(fmt.Errorf("an attribute that there is not: %w", err))
			}
		}
	},
	"inode_listxattr": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			_, err := unix.Listxattr(plain(dir), nil)
			must(err)
		}
	},
	"inode_removexattr": func(dir string, know func(string, string, ...any)) func() {
		must(unix.Setxattr(plain(dir), "user.test", []byte("x"), 0))
		return func() { must(unix.Removexattr(plain(dir), "user.test")) }
	},
	"inode_killpriv": func(dir string, know func(string, string, ...any)) func() {
		// Version 2 of a file's capabilities (struct vfs_cap_data), none of which is there.
		must(unix.Setxattr(plain(dir), "security.capability", []byte{3: 2, 19: 0}, 0))
		return func() { must(unix.Chown(plain(dir), 12, 34)) }
	},
	"inode_unlink": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Unlink(plain(dir))) }
	},
	"inode_rename": func(dir string, know func(string, string, ...any)) func() {
		must(unix.Mkdir(dir+"/sub", 0o750))
		return func() { must(unix.Rename(plain(dir), dir+"/sub/renamed")) }
	},
	"inode_getattr": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			var stat unix.Stat_t
			must(unix.Stat(plain(dir), &stat))
		}
	},
	"inode_setxattr": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			must(unix.Setxattr(plain(dir), "user.test", []byte{0, 1, 2, 0xff}, unix.XATTR_CREATE))
			must(unix.Setxattr(plain(dir), "user.empty", nil, 0))
		}
	},
	"path_truncate": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Truncate(plain(dir), 1<<33)) }
	},
	"path_unlink": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Unlink(plain(dir))) }
	},
	"path_mkdir": func(dir string, know func(string, string, ...any)) func() {
		unix.Umask(0o022)
		return func() { must(unix.Mkdir(dir+"/made", 0o757)) }
	},
	"path_rmdir": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Rmdir(dir + "/old")) }
	},
	"path_symlink": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Symlink("../what/there is not", dir+"/symbolic")) }
	},
	"path_mknod": func(dir string, know func(string, string, ...any)) func() {
		unix.Umask(0o022)
		return func() {
			must(unix.Mknod(dir+"/node", unix.S_IFCHR|0o626, int(unix.Mkdev(300, 70_000))))
			must(unix.Close(open(dir+"/file", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)))
		}
	},
	"path_link": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Link(plain(dir), dir+"/linked")) }
	},
	"path_rename": func(dir string, know func(string, string, ...any)) func() {
		must(unix.Mkdir(dir+"/sub", 0o750))
		return func() {
			must(unix.Renameat2(unix.AT_FDCWD, plain(dir), unix.AT_FDCWD, dir+"/sub/renamed", unix.RENAME_NOREPLACE))
		}
	},
	"bprm_check_security": func(dir string, know func(string, string, ...any)) func() {
		return func() { mustFail("exec of what is no program", execProgram(dir), unix.ENOEXEC) }
	},
	"cred_prepare": func(dir string, know func(string, string, ...any)) func() {
		return func() { call(unix.SYS_SETREGID, ^uintptr(0), ^uintptr(0)) } // both stay as they are
	},
	"userns_create": func(dir string, know func(string, string, ...any)) func() {
		return func() { mustFail("clone", cloneSelf(unix.CLONE_NEWUSER), unix.EEXIST) }
	},
	"task_alloc": func(dir string, know func(string, string, ...any)) func() {
		return func() { mustFail("clone", cloneSelf(unix.CLONE_FS|unix.CLONE_FILES), unix.EEXIST) }
	},
	"refused": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			mustFail("exec", execProgram(dir), unix.EPERM)
			mustFail("clone", cloneSelf(0), unix.EPERM)
		}
	},
	"large_values":   actLargeValues,
	"acl":            actACL,
	"shared_mapping": actSharedMapping,
	"overlay":        actOverlay,
	"socket_create": func(dir string, know func(string, string, ...any)) func() {
		return func() { socket(unix.AF_INET, unix.SOCK_DGRAM, 0) }
	},
	"socket_connect": func(dir string, know func(string, string, ...any)) func() {
		four, six := socket(unix.AF_INET, unix.SOCK_DGRAM, 0), socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		return func() {
			must(unix.Connect(four, loopback4))
			must(unix.Connect(six, loopback6))
		}
	},
	"socket_bind": func(dir string, know func(string, string, ...any)) func() {
		four, local := socket(unix.AF_INET, unix.SOCK_DGRAM, 0), socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		return func() {
			must(unix.Bind(four, loopback4))
			must(unix.Bind(local, &unix.SockaddrUnix{Name: "@abstract"}))
		}
	},
	"socket_sendmsg": func(dir string, know func(string, string, ...any)) func() {
		four := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		return func() {
			must(unix.Sendto(four, []byte("x"), 0, loopback4))
			must(unix.Connect(four, &unix.SockaddrInet4{Port: 4661, Addr: [4]byte{127, 0, 0, 1}}))
			must(unix.Send(four, []byte("x"), 0))
		}
	},
	"socket_accept": func(dir string, know func(string, string, ...any)) func() {
		listeners := []int{
			listening(unix.AF_INET, loopback4), listening(unix.AF_INET6, loopback6),
			listening(unix.AF_UNIX, &unix.SockaddrUnix{Name: dir + "/socket"}), listening(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@abstract"}),
		}
		return func() {
			for _, listener := range listeners {
				// Without room for the address of the client, so that nobody asks for it.
				call(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, 0)
			}
		}
	},
	"socket_listen": func(dir string, know func(string, string, ...any)) func() {
		four := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		return func() { must(unix.Listen(four, 77)) }
	},
	"socket_socketpair": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
			must(err)
		}
	},
	"socket_recvmsg": func(dir string, know func(string, string, ...any)) func() {
		four, text := socket(unix.AF_INET, unix.SOCK_DGRAM, 0), make([]byte, 1)
		must(unix.Bind(four, loopback4))
		for range 3 {
			must(unix.Sendto(four, []byte("x"), 0, loopback4))
		}
		return func() {
			_, from, err := unix.Recvfrom(four, text, 0)
			must(err)
			if from.(*unix.SockaddrInet4).Port != loopback4.Port {
				must(fmt.Errorf("a message from %v", from))
			}
			_, _, _, _, err = unix.Recvmsg(four, text, nil, 0)
			must(err)
			_, err = unix.Read(four, text)
			must(err)
		}
	},
	"socket_getsockname": func(dir string, know func(string, string, ...any)) func() {
		six := socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		return func() {
			_, err := unix.Getsockname(six)
			must(err)
		}
	},
	"socket_getpeername": func(dir string, know func(string, string, ...any)) func() {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		must(err)
		return func() {
			_, err := unix.Getpeername(pair[1])
			must(err)
		}
	},
	"socket_setsockopt": func(dir string, know func(string, string, ...any)) func() {
		four := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		return func() { must(unix.SetsockoptInt(four, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)) }
	},
	"socket_shutdown": func(dir string, know func(string, string, ...any)) func() {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		must(err)
		return func() { must(unix.Shutdown(pair[0], unix.SHUT_WR)) }
	},
	"unix_may_send": func(dir string, know func(string, string, ...any)) func() {
		receiver, sender := socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0), socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		address := &unix.SockaddrUnix{Name: dir + "/socket"}
		must(unix.Bind(receiver, address))
		return func() {
			must(unix.Sendto(sender, []byte("x"), 0, address))
			must(unix.Connect(sender, address))
		}
	},
	"unix_stream_connect": func(dir string, know func(string, string, ...any)) func() {
		listener, client := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		address := &unix.SockaddrUnix{Name: dir + "/socket"}
		must(unix.Bind(listener, address))
		must(unix.Listen(listener, 1))
		return func() { must(unix.Connect(client, address)) }
	},
	"task_kill": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			must(unix.Kill(os.Getpid(), unix.SIGUSR1))
			must(unix.Kill(os.Getpid(), unix.SIGURG))
			must(unix.Kill(os.Getppid(), 0))
		}
	},
	"task_setpgid": func(dir string, know func(string, string, ...any)) func() {
		// Of the same session, with a group of its own; what it echoes it has been executed for. Not by
		// os.StartProcess, which sends a signal 0 to see whether it can.
		var in, out [2]int
		must(unix.Pipe2(in[:], unix.O_CLOEXEC))
		must(unix.Pipe2(out[:], unix.O_CLOEXEC))
		cat, err := exec.LookPath("cat")
		must(err)
		leader, err := syscall.ForkExec(cat, []string{cat}, &syscall.ProcAttr{
			Files: []uintptr{uintptr(in[0]), uintptr(out[1])}, Sys: &syscall.SysProcAttr{Setpgid: true},
		})
		must(err)
		_, err = unix.Write(in[1], []byte("x"))
		must(err)
		_, err = unix.Read(out[0], make([]byte, 1))
		must(err)
		know("leader", "%d", leader)
		return func() {
			must(unix.Setpgid(0, 0))
			must(unix.Setpgid(0, leader))
			must(unix.Close(in[1]))
			_, err := unix.Wait4(leader, nil, 0, nil)
			must(err)
		}
	},
	"task_getpgid": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			_, err := unix.Getpgid(os.Getpid())
			must(err)
			_, err = unix.Getpgid(os.Getppid())
			must(err)
		}
	},
	"task_getsid": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			_, err := unix.Getsid(os.Getppid())
			must(err)
		}
	},
	"task_setnice": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Setpriority(unix.PRIO_PROCESS, 0, -3)) }
	},
	"task_setioprio": func(dir string, know func(string, string, ...any)) func() {
		return func() { call(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioClassBE<<13|4) }
	},
	"task_getioprio": func(dir string, know func(string, string, ...any)) func() {
		return func() { call(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(os.Getppid())) }
	},
	"task_prlimit": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, new(unix.Rlimit))) }
	},
	"task_setrlimit": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			must(unix.Prlimit(0, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 40, Max: unix.RLIM_INFINITY}, nil))
		}
	},
	"task_setscheduler": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			var priority int32 // all of struct sched_param
			call(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_BATCH, uintptr(unsafe.Pointer(&priority)))
		}
	},
	"task_getscheduler": func(dir string, know func(string, string, ...any)) func() {
		return func() { call(unix.SYS_SCHED_GETSCHEDULER, uintptr(os.Getppid())) }
	},
	"task_prctl": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			must(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 3, 4, 5))
			var name [16]byte
			must(unix.Prctl(unix.PR_GET_NAME, uintptr(unsafe.Pointer(&name)), 0, 0, 0))
			if got := unix.ByteSliceToString(name[:]); got != "actor" {
				must(fmt.Errorf("PR_GET_NAME says %q", got))
			}
			if err := unix.Prctl(noOption, 0, 0, 0, 1<<63); err != unix.EINVAL {
				must(fmt.Errorf("an option that nobody knows: %w", err))
			}
		}
	},
	"ptrace_traceme": func(dir string, know func(string, string, ...any)) func() {
		// A task that is traced stops at each signal, and nobody would let it go on.
		all := new(unix.Sigset_t)
		for i := range all.Val {
			all.Val[i] = math.MaxUint64
		}
		return func() {
			must(unix.PthreadSigmask(unix.SIG_BLOCK, all, nil))
			call(unix.SYS_PTRACE, unix.PTRACE_TRACEME)
		}
	},
	"capget": func(dir string, know func(string, string, ...any)) func() {
		for _, set := range []string{"CapInh", "CapPrm"} {
			know(set, "%#x", capabilities(os.Getpid(), set))
			know("parent "+set, "%#x", capabilities(os.Getppid(), set))
		}
		know("parent CapEff", "%#x", capabilities(os.Getppid(), "CapEff"))
		return func() {
			getCapabilities(0)
			getCapabilities(os.Getppid())
		}
	},
	"capset": func(dir string, know func(string, string, ...any)) func() {
		sets := getCapabilities(0)
		sets[0].Effective &^= 1 << unix.CAP_SYS_BOOT
		sets[0].Inheritable = 1 << unix.CAP_SYS_TIME
		for name, halves := range map[string][2]uint32{
			"effective":   {sets[0].Effective, sets[1].Effective},
			"inheritable": {sets[0].Inheritable, sets[1].Inheritable},
			"permitted":   {sets[0].Permitted, sets[1].Permitted},
		} {
			know(name, "%#x", uint64(halves[1])<<32|uint64(halves[0]))
		}
		return func() { must(unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])) }
	},
	"capable": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Chroot("/")) }
	},
	"ptrace_access_check": func(dir string, know func(string, string, ...any)) func() {
		link := fmt.Sprintf("/proc/%d/exe", os.Getppid())
		buffer := make([]byte, 256)
		return func() {
			_, err := unix.Readlink(link, buffer)
			must(err)
		}
	},
	"sb_mount": func(dir string, know func(string, string, ...any)) func() {
		privateMounts()
		must(unix.Mkdir(here(dir), 0o755))
		return func() {
			must(unix.Mount("a source", here(dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"))
		}
	},
	"sb_umount": func(dir string, know func(string, string, ...any)) func() {
		mountOther(dir, "", know)
		return func() { must(unix.Unmount(here(dir), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)) }
	},
	"sb_remount": func(dir string, know func(string, string, ...any)) func() {
		mountOther(dir, "", know)
		return func() {
			must(unix.Mount("", here(dir), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			must(unix.Mount("", here(dir), "", unix.MS_REMOUNT, ""))
		}
	},
	"sb_pivotroot": func(dir string, know func(string, string, ...any)) func() {
		mountOther(dir, "", know)
		return func() { must(unix.PivotRoot(here(dir), lost(dir))) }
	},
	"sb_statfs": func(dir string, know func(string, string, ...any)) func() {
		return func() { must(unix.Statfs(plain(dir), new(unix.Statfs_t))) }
	},
	"move_mount": func(dir string, know func(string, string, ...any)) func() {
		mountOther(dir, "", know)
		must(unix.Mkdir(dir+"/there", 0o700))
		detached, err := unix.OpenTree(unix.AT_FDCWD, here(dir), unix.OPEN_TREE_CLONE)
		must(err)
		return func() {
			must(unix.MoveMount(unix.AT_FDCWD, here(dir), unix.AT_FDCWD, dir+"/there", 0))
			must(unix.MoveMount(detached, "", unix.AT_FDCWD, here(dir), unix.MOVE_MOUNT_F_EMPTY_PATH))
		}
	},
	"quotactl": func(dir string, know func(string, string, ...any)) func() {
		device, err := unix.BytePtrFromString(mountOther(dir, "usrquota", know))
		must(err)
		file, err := unix.BytePtrFromString(lost(dir))
		must(err)
		return func() {
			_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, quotaOn<<8, uintptr(unsafe.Pointer(device)), noQuotaFormat, uintptr(unsafe.Pointer(file)), 0, 0)
			// Neither is there such a format, nor is it a file; kernels differ in what they look at first.
			if errno != unix.ESRCH && errno != unix.EACCES {
				must(fmt.Errorf("quotas that cannot be: %w", errno))
			}
			call(unix.SYS_QUOTACTL, quotaSync<<8)
		}
	},
	"shm_shmctl": func(dir string, know func(string, string, ...any)) func() {
		call(unix.SYS_SHMGET, ipcKey, 4096, 0o640|unix.IPC_CREAT)
		return func() {
			id := call(unix.SYS_SHMGET, ipcKey, 4096, 0o200)
			controls(unix.SYS_SHMCTL, id, 0)
		}
	},
	"sem_semop": func(dir string, know func(string, string, ...any)) func() {
		call(unix.SYS_SEMGET, ipcKey, 2, 0o640|unix.IPC_CREAT)
		return func() {
			id := call(unix.SYS_SEMGET, ipcKey, 2, 0o200)
			// struct sembuf: number, operation, flags. One semaphore is set and the other one looked at.
			operations := [2][3]int16{{0, 1, 0}, {1, 0, 0}}
			call(unix.SYS_SEMOP, id, uintptr(unsafe.Pointer(&operations)), 2)
			controls(unix.SYS_SEMCTL, id, 1)
		}
	},
	"msg_queue_msgsnd": func(dir string, know func(string, string, ...any)) func() {
		call(unix.SYS_MSGGET, ipcKey, 0o640|unix.IPC_CREAT)
		return func() {
			id := call(unix.SYS_MSGGET, ipcKey, 0o200)
			message := [2]int64{7, 0} // struct msgbuf: type, text
			call(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&message)), 8, ipcNoWait)
			call(unix.SYS_MSGRCV, id, uintptr(unsafe.Pointer(&message)), 8, 7, ipcNoWait)
			controls(unix.SYS_MSGCTL, id, 0)
		}
	},
	"shm_shmat": func(dir string, know func(string, string, ...any)) func() {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o640|unix.IPC_CREAT)
		must(err)
		return func() {
			_, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
			must(err)
			_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
			must(err)
		}
	},
	"key_alloc": func(dir string, know func(string, string, ...any)) func() {
		_, err := unix.AddKey("user", "first", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		must(err)
		knowKeyring(know)
		return func() {
			_, err := unix.AddKey("user", "second", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			must(err)
		}
	},
	"netlink_send": func(dir string, know func(string, string, ...any)) func() {
		s := socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		must(unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
		name, err := unix.Getsockname(s)
		must(err)
		know("portid", "%d", name.(*unix.SockaddrNetlink).Pid)
		// struct nlmsghdr of RTM_GETLINK with NLM_F_REQUEST, and struct ifinfomsg.
		message := make([]byte, 32)
		message[0], message[4], message[6] = 32, unix.RTM_GETLINK, unix.NLM_F_REQUEST
		message[20] = 1 // the interface
		return func() {
			_, err := unix.Write(s, message)
			must(err)
		}
	},
	"key_permission": func(dir string, know func(string, string, ...any)) func() {
		keyring, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
		must(err)
		call(unix.SYS_KEYCTL, unix.KEYCTL_CHOWN, uintptr(keyring), 12, 34)
		must(unix.KeyctlSetperm(keyring, 0x3f030b01))
		knowKeyring(know)
		return func() {
			_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, false)
			must(err)
		}
	},
	"tun_dev_create": func(dir string, know func(string, string, ...any)) func() {
		// On a filesystem of which everything is known.
		must(unix.Mknod(dir+"/tun", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))))
		one, two := open(dir+"/tun", unix.O_RDWR, 0), open(dir+"/tun", unix.O_RDWR, 0)
		device, err := unix.NewIfreq("tsem0")
		must(err)
		device.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
		queue := func(flags uint16) *unix.Ifreq {
			request, err := unix.NewIfreq("")
			must(err)
			request.SetUint16(flags)
			return request
		}
		detach, attach := queue(unix.IFF_DETACH_QUEUE), queue(unix.IFF_ATTACH_QUEUE)
		return func() {
			must(unix.IoctlIfreq(one, unix.TUNSETIFF, device))
			must(unix.IoctlIfreq(two, unix.TUNSETIFF, device))
			must(unix.IoctlIfreq(two, unix.TUNSETQUEUE, detach))
			must(unix.IoctlIfreq(two, unix.TUNSETQUEUE, attach))
		}
	},
	"bpf_map": func(dir string, know func(string, string, ...any)) func() {
		// union bpf_attr of BPF_MAP_CREATE: an array of one value of 8 bytes.
		attr := [16]uint32{2, 4, 8, 1}
		return func() { call(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)) }
	},
	"bpf_prog": func(dir string, know func(string, string, ...any)) func() {
		license := []byte("GPL\x00")
		code := [2]uint64{1<<32 | 0xb7, 0x95} // r0 = 1; exit
		// union bpf_attr of BPF_PROG_LOAD.
		attr := struct {
			kind, count                uint32
			code                       *[2]uint64
			license                    *byte
			logLevel, logSize          uint32
			logBuffer                  uint64
			version, flags             uint32
			name                       [16]byte
			device, expectedAttachType uint32
		}{kind: bpfCgroupSockAddr, count: 2, code: &code, license: &license[0], expectedAttachType: unix.BPF_CGROUP_INET6_BIND}
		know("size", "%d", unsafe.Sizeof(attr))
		return func() { call(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)) }
	},
	"kernel_module_request": func(dir string, know func(string, string, ...any)) func() {
		privateMounts()
		return func() {
			if err := unix.Mount("none", dir, noFilesystem, 0, ""); err != unix.ENODEV {
				must(fmt.Errorf("a filesystem that there is not: %w", err))
			}
		}
	},
	"kernel_load_data": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			if unix.InitModule(make([]byte, 4096), "") == nil {
				must(errors.New("zeros were loaded as a module"))
			}
		}
	},
	"syslog": func(dir string, know func(string, string, ...any)) func() {
		return func() {
			_, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
			must(err)
		}
	},
	"settime": func(dir string, know func(string, string, ...any)) func() {
		var now unix.Timespec
		must(unix.ClockGettime(unix.CLOCK_REALTIME, &now))
		know("seconds", "%d", now.Sec)
		know("nsecs", "%d", now.Nsec)
		never := unix.Timeval{Sec: year2223, Usec: 5}
		zone := [2]int32{-noMinutes, 3} // struct timezone
		settimeofday := func(ts *unix.Timeval, tz *[2]int32) unix.Errno {
			_, _, errno := unix.Syscall(unix.SYS_SETTIMEOFDAY, uintptr(unsafe.Pointer(ts)), uintptr(unsafe.Pointer(tz)), 0)
			return errno
		}
		return func() {
			must(unix.ClockSettime(unix.CLOCK_REALTIME, &now))
			// With such a timezone nothing is set.
			for _, ts := range []*unix.Timeval{nil, &never} {
				if errno := settimeofday(ts, &zone); errno != unix.EINVAL {
					must(fmt.Errorf("a timezone that there cannot be: %w", errno))
				}
			}
			if errno := settimeofday(nil, nil); errno != 0 {
				must(errno)
			}
		}
	},
	"kernel_read_file": func(dir string, know func(string, string, ...any)) func() {
		fd := open(plain(dir), unix.O_RDONLY, 0)
		knowFlags(fd, know)
		return func() {
			// Read, and refused: it is no module, nor signed where that is looked at first.
			if unix.FinitModule(fd, "", 0) == nil {
				must(errors.New("a text was loaded as a module"))
			}
		}
	},
	"paths":      actPaths,
	"opens":      actOpens,
	"asks":       actAsks,
	"flood":      actFlood,
	"gatekeeper": actGatekeeper,
	"noisy":      actNoisy,
	"rewrites":   actRewrites,
}
