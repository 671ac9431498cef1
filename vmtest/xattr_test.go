// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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
		t.Errorf("something is cut: %v", o.totals)
	}
}
