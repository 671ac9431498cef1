// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// inMountNamespace runs prepare on a thread with a mount namespace and a root
// directory of its own, where a tmpfs is mounted on dir. The thread stays as it is
// until the end of the test. It returns the thread id.
func inMountNamespace(t *testing.T, dir string, prepare func() error) (tid uint32) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a mount namespace takes root")
	}
	ready, end := make(chan error), make(chan struct{})
	t.Cleanup(func() { close(end) })
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this function
		tid = uint32(unix.Gettid())
		ready <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return os.NewSyscallError("mount / private", err)
			}
			if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
				return os.NewSyscallError("mount tmpfs", err)
			}
			return prepare()
		}()
		<-end
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return tid
}

// recordOf returns the request of a thread for a file that it alone sees.
func recordOf(t *testing.T, fd int, path string, tid uint32) Request {
	t.Helper()
	req := record(t, "/proc/self/fd/"+strconv.Itoa(fd))
	req.Path, req.TID = path, tid
	return req
}

func TestOtherMountNamespace(t *testing.T) {
	dir, fd := t.TempDir(), -1
	path := filepath.Join(dir, "file")
	tid := inMountNamespace(t, dir, func() (err error) {
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			return err
		}
		fd, err = open(path, look)
		return err
	})
	defer unix.Close(fd)
	c := testCache(t, unix.Read)
	req := recordOf(t, fd, path, tid)
	req.SMagic = fuseMagic // so that it is not kept
	want(t, c, req, Exact, "content")
	req.TID = 0
	want(t, c, req, Unavailable, "")
}

// The path of a record begins at the root of the mount namespace; a thread in a
// chroot shows only its own root. The file is outside.
func TestChroot(t *testing.T) {
	dir, fd := t.TempDir(), -1
	path, jail := filepath.Join(dir, "file"), filepath.Join(dir, "deep", "jail")
	tid := inMountNamespace(t, dir, func() (err error) {
		if err := os.MkdirAll(jail, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			return err
		}
		if fd, err = open(path, look); err != nil {
			return err
		}
		return os.NewSyscallError("chroot", unix.Chroot(jail))
	})
	defer unix.Close(fd)
	want(t, testCache(t, unix.Read), recordOf(t, fd, path, tid), Exact, "content")
}

// Overlayfs shows other numbers than the kernel half sees.
func TestOverlay(t *testing.T) {
	dir, fd := t.TempDir(), -1
	merged := filepath.Join(dir, "merged")
	path := filepath.Join(merged, "file")
	tid := inMountNamespace(t, dir, func() (err error) {
		for _, d := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "lower", "file"), []byte("content"), 0o600); err != nil {
			return err
		}
		layers := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
		if err := unix.Mount("test", merged, "overlay", 0, layers); err != nil {
			return os.NewSyscallError("mount overlay", err)
		}
		fd, err = open(path, look)
		return err
	})
	defer unix.Close(fd)
	req := recordOf(t, fd, path, tid)
	if req.SMagic != overlayMagic {
		t.Fatalf("filesystem is %#x", req.SMagic)
	}
	req.DevMinor += 1000 // the superblock has another number than stat shows
	want(t, testCache(t, unix.Read), req, Exact, "content")
}
