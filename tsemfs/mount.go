// SPDX-License-Identifier: Apache-2.0

package tsemfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// Mount mounts the file system on a connection (fuse.OpenDevice) where nobody can see it yet.
// The result is a descriptor of its root, for Attach, and for the number of its device before
// that. Requests come from now on. Only root and who has the rights of root can use it.
func Mount(device int) (int, error) {
	options := append(fuse.Options(device), fuse.Option{Name: "default_permissions"})
	return fuse.Mount("fuse", unix.MOUNT_ATTR_NOEXEC, options...)
}

// Answer waits for the answer of the file system at a directory to one request: it is asked itself, and not what the kernel
// remembers of it. unix.ENOTCONN: nobody serves it any more.
func Answer(directory string) error {
	var stat unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, directory, unix.AT_STATX_FORCE_SYNC, unix.STATX_TYPE, &stat)
}

// Attach puts what Mount made over a directory, where all can see it. What a process that was
// killed left there is taken away first: such a file system can only be unmounted.
func Attach(mount int, directory string) error {
	for errors.Is(Answer(directory), unix.ENOTCONN) {
		if err := unix.Unmount(directory, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the file system at %s, which nobody serves any more: %w", directory, err)
		}
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, directory, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", directory, err)
	}
	return nil
}
