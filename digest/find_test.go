// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// neverRead fails the test when a file is read.
func neverRead(t *testing.T) func(int, []byte) (int, error) {
	return func(int, []byte) (int, error) {
		t.Error("the file was read")
		return 0, unix.EIO
	}
}

func TestReplaced(t *testing.T) {
	path := write(t, "file", "content")
	req := record(t, path)
	if err := os.Rename(write(t, "file", "another"), path); err != nil {
		t.Fatal(err)
	}
	want(t, testCache(t, neverRead(t)), req, Unavailable, "")
}

func TestRemoved(t *testing.T) {
	path := write(t, "file", "content")
	req := record(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want(t, testCache(t, neverRead(t)), req, Unavailable, "")
}

func TestOtherDevice(t *testing.T) {
	c := testCache(t, neverRead(t))
	req := record(t, write(t, "file", "content"))
	for _, change := range []func(*Request){
		func(r *Request) { r.DevMinor++ },
		func(r *Request) { r.DevMajor++ },
		func(r *Request) { r.Ino++ },
	} {
		req := req
		change(&req)
		want(t, c, req, Unavailable, "")
	}
	for _, magic := range []uint32{overlayMagic, btrfsMagic} {
		if req := req; req.SMagic != magic {
			req.SMagic = magic
			want(t, c, req, Unavailable, "")
		}
	}
}

func TestWithoutPath(t *testing.T) {
	req := record(t, write(t, "file", "content"))
	t.Chdir(filepath.Dir(req.Path))
	c := testCache(t, neverRead(t))
	for _, path := range []string{"file", "", "nodev:/", "/fi\x00le"} {
		req.Path = path
		want(t, c, req, Unavailable, "")
	}
}

// A FIFO that took the place of a file is not opened: that would wait, and let a
// writer through.
func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	req := record(t, path)
	req.Size = 1
	c := testCache(t, neverRead(t))
	want(t, c, req, Unavailable, "")
	wantStats(t, c, Stats{Unavailable: 1})
}

func TestSymbolicLinks(t *testing.T) {
	path := write(t, "file", "content")
	link := filepath.Join(t.TempDir(), "link")
	dir := filepath.Join(t.TempDir(), "dir")
	for name, target := range map[string]string{link: path, dir: filepath.Dir(path)} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	c := testCache(t, unix.Read)
	for _, name := range []string{link, filepath.Join(dir, "file")} {
		req := record(t, name)
		req.Path = name
		want(t, c, req, Exact, "content")
	}
}

// Links of /proc lead out of the mount namespace of the task.
func TestMagicLink(t *testing.T) {
	req := record(t, write(t, "file", "content"))
	req.Path = "/proc/self/root" + req.Path
	want(t, testCache(t, neverRead(t)), req, Unavailable, "")
}

func TestTaskGone(t *testing.T) {
	req := record(t, write(t, "file", "content"))
	req.TID = 0
	c := testCache(t, unix.Read)
	want(t, c, req, Exact, "content")
	req.Exec = true
	want(t, c, req, Exact, "content")
}

// An executed file is found although it has no name any more.
func TestExecutedAndRemoved(t *testing.T) {
	source, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, "sleep", string(content))
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	cmd.Args[0] = "sleep"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	req := record(t, "/proc/"+strconv.Itoa(cmd.Process.Pid)+"/exe")
	req.Path, req.TID = path, uint32(cmd.Process.Pid)
	c := testCache(t, unix.Read)
	want(t, c, req, Unavailable, "")
	req.Exec = true
	want(t, c, req, Exact, string(content))
}

func TestDescriptorsClosed(t *testing.T) {
	path := write(t, "file", "content")
	exact := record(t, path)
	touched, another, exe := exact, exact, exact
	touched.CtimeNsec ^= 1
	another.Ino++
	exe.Exec = true // finds the test's own program first, which is another file
	c := testCache(t, unix.Read)
	count := func() int {
		t.Helper()
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	want(t, c, exact, Exact, "content")
	want(t, c, touched, Changed, "content")
	want(t, c, another, Unavailable, "")
	want(t, c, exe, Exact, "content")
	if after := count(); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}
