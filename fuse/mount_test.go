// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExplain: an error that somebody can do something about says what, and is ErrFUSE.
func TestExplain(t *testing.T) {
	mount := func(err error) error { return explainMount("fuse", err) }
	for _, c := range []struct {
		explain func(error) error
		errno   unix.Errno
		remedy  string // "": there is none
	}{
		{explainOpen, unix.ENOENT, "modprobe fuse"},
		{explainOpen, unix.ENODEV, "CONFIG_FUSE_FS"},
		{explainOpen, unix.EACCES, "run as root"},
		{explainOpen, unix.EMFILE, ""},
		{mount, unix.ENODEV, "modprobe fuse"},
		{mount, unix.EPERM, "CAP_SYS_ADMIN"},
		{mount, unix.ENOMEM, ""},
	} {
		err := c.explain(c.errno)
		if !errors.Is(err, c.errno) || errors.Is(err, ErrFUSE) != (c.remedy != "") || !strings.Contains(err.Error(), c.remedy) {
			t.Errorf("%v, want %q", err, c.remedy)
		}
	}
}
