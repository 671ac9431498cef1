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

// Attach puts what Mount made over a directory, where all can see it. What a process that was
// killed left there is taken away first: such a file system can only be unmounted.
func Attach(mount int, directory string) error {
	for {
		// Asked of the file system itself, not of what the kernel remembers of it.
		var stat unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, directory, unix.AT_STATX_FORCE_SYNC, unix.STATX_TYPE, &stat)
		if !errors.Is(err, unix.ENOTCONN) {
			break
		}
		if err := unix.Unmount(directory, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the file system at %s, which nobody serves any more: %w", directory, err)
		}
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, directory, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", directory, err)
	}
	return nil
}
