// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
)

// These tests also run on kernels that somebody built (vmtest/run -k PATH), which may
// lack what a test is about. The test is then skipped, and says what it is. On a kernel of
// vmtest/kernels.list nothing is lacking, so that there it is a failure.

// lacks ends a test whose kernel does not have something, such as a hook or an option.
func lacks(t *testing.T, what string) {
	t.Helper()
	if name := os.Getenv("TSEM_LISTED_KERNEL"); name != "" {
		t.Fatalf("kernel %s of vmtest/kernels.list lacks %s, and no such kernel may", name, what)
	}
	t.Skipf("kernel %s lacks %s", engine.Support().Kernel, what)
}

// hasHook says whether the kernel has a hook of the object.
func hasHook(name string) bool {
	return slices.ContainsFunc(engine.Support().Hooks, func(h loader.HookSupport) bool { return h.Name == name && h.Present })
}

// needHook ends a test if the kernel does not have a hook.
func needHook(t *testing.T, name string) {
	t.Helper()
	if slices.Contains(engine.Missing(), name) {
		lacks(t, "the hook "+name)
	}
}

// needSleep ends a test if the kernel has a hook and lets no program sleep there.
func needSleep(t *testing.T, name string) {
	t.Helper()
	for _, h := range engine.Support().Hooks {
		if h.Name == name && !h.Sleepable {
			lacks(t, "programs that may sleep in "+name)
		}
	}
}

// needFile ends a test if there is no file that an option of the kernel makes.
func needFile(t *testing.T, path, option string) {
	t.Helper()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		lacks(t, option)
	}
}

// needFilesystem ends a test if the kernel does not have a type of filesystem.
func needFilesystem(t *testing.T, name, option string) {
	t.Helper()
	_ = exec.Command("modprobe", name).Run() // it may be built in, without modules to look among
	types, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(types)), name) {
		lacks(t, option)
	}
}

// needXattr ends a test if a filesystem does not have a kind of extended attributes.
func needXattr(t *testing.T, path, name, option string) {
	t.Helper()
	if _, err := unix.Getxattr(path, name, nil); errors.Is(err, unix.EOPNOTSUPP) {
		lacks(t, option)
	}
}

func needACL(t *testing.T) {
	t.Helper()
	needXattr(t, work, "system.posix_acl_access", "CONFIG_EXT4_FS_POSIX_ACL")
}

// needSocket ends a test if the kernel does not have a family of sockets.
func needSocket(t *testing.T, family int, option string) {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		lacks(t, option)
	}
	if err == nil {
		_ = unix.Close(fd)
	}
}

// needIMA ends a test if IMA does not take digests that can be used. Its first entry,
// boot_aggregate, has the digest function that it takes for files (ima_init.c).
func needIMA(t *testing.T) {
	t.Helper()
	needSecurityFS(t)
	const list = "/sys/kernel/security/ima/ascii_runtime_measurements"
	needFile(t, list, "CONFIG_IMA")
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(string(text), "\n"); !strings.Contains(first, " sha256:") {
		lacks(t, "CONFIG_IMA_DEFAULT_HASH_SHA256")
	}
	needSleep(t, "mmap_file") // where it is asked
}

// needSecurityFS mounts securityfs where nobody has.
func needSecurityFS(t *testing.T) {
	t.Helper()
	const at = "/sys/kernel/security"
	if _, err := os.Stat(at + "/lsm"); err == nil {
		return
	}
	if err := unix.Mount("none", at, "securityfs", 0, ""); errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		lacks(t, "CONFIG_SECURITYFS")
	} else if err != nil {
		t.Fatal(err)
	}
}

// hookOf is the hook that an actor is about; none for some.
func hookOf(actor string) string {
	var hook string
	for _, h := range event.Hooks() {
		if name := h.String(); strings.HasPrefix(actor, name) && len(name) > len(hook) {
			hook = name
		}
	}
	return hook
}

// needFor ends the test of an actor if the kernel does not have what it acts on.
func needFor(t *testing.T, actor string) {
	t.Helper()
	needHook(t, hookOf(actor))
	inet := func() { needSocket(t, unix.AF_INET, "CONFIG_INET") }
	inet6 := func() { needFile(t, "/proc/net/if_inet6", "CONFIG_IPV6, or has it disabled") }
	local := func() { needSocket(t, unix.AF_UNIX, "CONFIG_UNIX") }
	switch actor {
	case "inode_create", "inode_mkdir", "path_mkdir", "path_mknod":
		needCreators(t)
		needACL(t) // without, the kernel applies the umask before it calls the hook
	case "file_ioctl_compat":
		needFile(t, "/proc/sys/abi/vsyscall32", "CONFIG_IA32_EMULATION")
	case "inode_mknod":
		needACL(t)
	case "socket_create", "socket_sendmsg", "socket_listen", "socket_recvmsg", "socket_setsockopt":
		inet()
	case "socket_getsockname":
		inet6()
	case "socket_connect":
		inet()
		inet6()
	case "socket_bind":
		inet()
		local()
	case "socket_accept":
		inet()
		inet6()
		local()
	case "unix_stream_connect", "unix_may_send", "socket_socketpair", "socket_getpeername", "socket_shutdown":
		local()
	case "shm_shmat", "shm_shmctl", "sem_semop", "msg_queue_msgsnd":
		needFile(t, "/proc/sysvipc", "CONFIG_SYSVIPC")
	case "quotactl":
		needFile(t, "/proc/sys/fs/quota", "CONFIG_QUOTA")
	case "tun_dev_create":
		_ = exec.Command("modprobe", "tun").Run() // it may be built in
		needFile(t, "/sys/class/misc/tun", "CONFIG_TUN")
	case "kernel_read_file", "kernel_load_data", "kernel_module_request":
		needFile(t, "/proc/modules", "CONFIG_MODULES")
	}
}

// needCreators ends a test if the kernel does not tell of new inodes: ext4 has to ask for what LSMs
// want to write into them, and from 6.4 on some LSM has to want that.
func needCreators(t *testing.T) {
	t.Helper()
	if err := unix.Setxattr(work, "security.test", nil, 0); err == unix.EOPNOTSUPP {
		lacks(t, "CONFIG_EXT4_FS_SECURITY")
	}
	var major, minor int
	if _, err := fmt.Sscanf(engine.Support().Kernel, "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	wants := func(lsm string) bool { return slices.Contains([]string{"evm", "selinux", "smack"}, lsm) }
	if (major > 6 || major == 6 && minor >= 4) && !slices.ContainsFunc(engine.Support().LSMs, wants) {
		lacks(t, "an LSM with extended attributes of new inodes (CONFIG_EVM)")
	}
}
