// SPDX-License-Identifier: Apache-2.0

//go:build vmtest_runner

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestVng: what a command sees and what comes back is as in the own machine, on a kernel
// whose virtio and 9p are modules.
func TestVng(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const size = 3_000_000
	got := vm(t, "--vng", "-k", "6.1", "-m", "900M", "-c", "1", "-a", "tsem.test=1", "-W", "sh", "-ec", fmt.Sprintf(`
		exec 3>&1 >&2
		pwd
		nproc
		uname -r
		grep -o tsem.test=1 /proc/cmdline
		cut -d " " -f 2,3 /proc/mounts | head -2
		modprobe dummy && grep -wo ^dummy /proc/modules
		: >/usr/written >/etc/written
		ps -o args= 1 | grep -o virtme-init
		[ $(awk '/MemTotal/ { print $2 }' /proc/meminfo) -lt 900000 ]
		sleep 1000 & head -c %d /dev/urandom >/tmp/x
		cat /tmp/x >&3; sha256sum </tmp/x
		exit 7`, size))
	k, err := openKernel("6.1", "../kernels", "")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{dir, "1", k.version, "tsem.test=1", "/ overlay", "/proc proc", "dummy", "virtme-init",
		fmt.Sprintf("%x  -", sha256.Sum256([]byte(got.stdout))), ""}, "\n")
	if diff := cmp.Diff(want, got.stderr); diff != "" || got.status != 7 || len(got.stdout) != size {
		t.Errorf("status %d, %d bytes\n%s", got.status, len(got.stdout), diff)
	}
	if _, err := os.Stat("/usr/written"); err == nil {
		t.Error("what was written is on this machine")
	}
}

// TestVngWarning: the console is there, and so is the check of it.
func TestVngWarning(t *testing.T) {
	got := vm(t, "--vng", "-k", fastest, "-W", "sh", "-c", "echo '<4>WARNING: a test' >/dev/kmsg")
	if got.status != statusWarned || !strings.Contains(got.stderr, "WARNING: a test") {
		t.Errorf("%+v", got)
	}
}

// TestVngKilled: nothing of virtme-ng outlives the runner, and no file of it.
func TestVngKilled(t *testing.T) {
	scratch := t.TempDir()
	cmd := exec.Command("../run", "--vng", "-k", fastest, "sh", "-c", "echo begun; sleep 1000")
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch)
	untilBegun(t, cmd)
	group := childPID(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for range 100 {
		if err := syscall.Kill(-group, 0); errors.Is(err, syscall.ESRCH) {
			left, err := os.ReadDir(scratch)
			if err != nil || len(left) > 0 {
				t.Errorf("%v is left (%v)", left, err)
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("the process group %d is still there", group)
}
