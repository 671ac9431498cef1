// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// largeValues are sizes around the pieces in which a value is put into the magazine,
// and the largest that the kernel takes (XATTR_SIZE_MAX).
var largeValues = []int{4095, 4096, 4097, 8191, 8192, 12345, 65535, 65536}

// largeValue has no two pieces alike, and its last bytes are not zero.
func largeValue(size int) []byte {
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(1 + i%251)
	}
	return value
}

// acl is a value of an attribute with entries of all kinds (fs/posix_acl.c): the owner, a
// user, the group, a group, the mask, others.
var acl = []byte{
	2, 0, 0, 0,
	0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	0x02, 0, 4, 0, 0xe8, 3, 0, 0,
	0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	0x08, 0, 5, 0, 0xe9, 3, 1, 0,
	0x10, 0, 7, 0, 0xff, 0xff, 0xff, 0xff,
	0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
}

func actACL(dir string, know func(string, string, ...any)) func() {
	return func() {
		must(unix.Setxattr(plain(dir), "system.posix_acl_access", acl, 0))
		must(unix.Setxattr(dir, "system.posix_acl_default", acl, 0))
		// No list; before 6.2 the kernel asks the hook, and finds the value invalid after it.
		if err := unix.Setxattr(dir, "system.posix_acl_default", nil, 0); err != unix.EINVAL {
			must(err)
		}
		_, err := unix.Getxattr(plain(dir), "system.posix_acl_access", make([]byte, len(acl)))
		must(err)
		must(unix.Removexattr(plain(dir), "system.posix_acl_access"))
	}
}

// TestACL: a POSIX access control list is set, read and removed as an attribute, whatever hook
// the kernel has for it.
func TestACL(t *testing.T) {
	needACL(t)
	folder(t, "acl")
	o := observe(t, "acl", namespace.Config{})
	own := slices.ContainsFunc(engine.Support().Hooks, func(h loader.HookSupport) bool { return h.Name == "inode_set_acl" && h.Present })
	line := func(hook, rest string) string {
		if own || !mayWait(hook) {
			return "async_event " + hook + rest
		}
		return "event " + hook + rest
	}
	var got []string
	for _, r := range o.events {
		hook := at(r, "event.type").(string)
		text := fmt.Sprint(at(r, "export.type"), " ", hook, " ", at(r, hook+".dentry.path.pathname"), " ", at(r, hook+".name"))
		if hook == "inode_setxattr" {
			text += fmt.Sprint(" ", at(r, hook+".value"), " ", at(r, hook+".flags"))
		}
		got = append(got, text)
	}
	value := base64.StdEncoding.EncodeToString(acl)
	want := []string{
		line("inode_setxattr", " /acl/plain system.posix_acl_access "+value+" 0"),
		line("inode_setxattr", " /acl system.posix_acl_default "+value+" 0"),
		line("inode_setxattr", " /acl system.posix_acl_default  0"),
		line("inode_getxattr", " /acl/plain system.posix_acl_access"),
		line("inode_removexattr", " /acl/plain system.posix_acl_access"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for _, name := range engine.Missing() {
		if strings.HasSuffix(name, "_acl") {
			t.Errorf("%s is missing", name)
		}
	}
}

// actLargeValues sets them on a file of tmpfs, which takes any that fits into memory:
// trusted.* is there in all kernels.
func actLargeValues(dir string, know func(string, string, ...any)) func() {
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("none", dir, "tmpfs", 0, ""))
	must(os.WriteFile(dir+"/file", nil, 0o600))
	return func() {
		for _, size := range largeValues {
			must(unix.Setxattr(dir+"/file", "trusted.value", largeValue(size), 0))
		}
	}
}

// TestLargeValues: the value of an extended attribute is whole, and what comes after it
// in the record is where it belongs.
func TestLargeValues(t *testing.T) {
	needXattr(t, "/tmp", "trusted.value", "CONFIG_TMPFS_XATTR") // a tmpfs too
	folder(t, "large_values")
	o := observe(t, "large_values", namespace.Config{})
	var got, want []string
	for _, r := range o.events {
		value, err := base64.StdEncoding.DecodeString(at(r, "inode_setxattr.value").(string))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%v %v %v %d bytes: %t", at(r, "event.type"), at(r, "inode_setxattr.name"),
			at(r, "inode_setxattr.flags"), len(value), string(value) == string(largeValue(len(value)))))
	}
	for _, size := range largeValues {
		want = append(want, fmt.Sprintf("inode_setxattr trusted.value 0 %d bytes: true", size))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if strings.Contains(strings.Join(o.lines, ""), `"cut"`) || o.totals.Cut != 0 {
		t.Errorf("something is cut: %+v", o.totals)
	}
}
