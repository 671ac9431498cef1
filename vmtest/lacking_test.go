// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
)

// These tests also run on kernels that somebody built (vmtest/run -k PATH), which may
// lack what a test is about. The test is then skipped, and says what it is. On a kernel of
// vmtest/kernels.list nothing is lacking, so that there it is a failure.

// lacks ends a test whose kernel does not have something: a hook or an option.
func lacks(t *testing.T, what string) {
	t.Helper()
	if name := os.Getenv("TSEM_LISTED_KERNEL"); name != "" {
		t.Fatalf("kernel %s of vmtest/kernels.list lacks %s, and no such kernel may", name, what)
	}
	t.Skipf("kernel %s lacks %s", engine.Support().Kernel, what)
}

// needHook ends a test if the kernel does not have a hook.
func needHook(t *testing.T, name string) {
	t.Helper()
	if slices.Contains(engine.Missing(), name) {
		lacks(t, "the hook "+name)
	}
}

// needFile ends a test if there is no file that an option of the kernel makes.
func needFile(t *testing.T, path, option string) {
	t.Helper()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		lacks(t, option)
	}
}

// hookOf is the hook that an actor is about; none for some.
func hookOf(actor string) string {
	for _, h := range event.Hooks() {
		if strings.HasPrefix(actor, h.String()) {
			return h.String()
		}
	}
	return ""
}

// needFor ends the test of an actor if the kernel does not have what it acts on.
func needFor(t *testing.T, actor string) {
	t.Helper()
	needHook(t, hookOf(actor))
	switch actor {
	case "inode_create":
		needCreators(t)
		// Without these the kernel applies the umask before it calls the hook.
		if _, err := unix.Getxattr(work, "system.posix_acl_access", nil); errors.Is(err, unix.EOPNOTSUPP) {
			lacks(t, "CONFIG_EXT4_FS_POSIX_ACL")
		}
	case "socket_connect":
		needFile(t, "/proc/net/if_inet6", "CONFIG_IPV6, or has it disabled")
	case "shm_shmat":
		needFile(t, "/proc/sysvipc", "CONFIG_SYSVIPC")
	case "kernel_read_file":
		needFile(t, "/proc/modules", "CONFIG_MODULES")
	}
}

// needCreators ends a test if the kernel does not tell of new inodes: from 6.4 on it does
// only if some LSM wants extended attributes on them.
func needCreators(t *testing.T) {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(engine.Support().Kernel, "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	wants := func(lsm string) bool { return slices.Contains([]string{"evm", "selinux", "smack"}, lsm) }
	if (major > 6 || major == 6 && minor >= 4) && !slices.ContainsFunc(engine.Support().LSMs, wants) {
		lacks(t, "an LSM with extended attributes of new inodes (CONFIG_EVM)")
	}
}
