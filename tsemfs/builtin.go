// SPDX-License-Identifier: Apache-2.0

package tsemfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// BuiltIn is where the files are with TSEM in the kernel. Orchestrators have that path built in.
const BuiltIn = securityfs + "/tsem"

// securityfs is where the file system of that name is mounted.
const securityfs = "/sys/kernel/security"

// AttachBuiltIn shows the control plane at a directory also at BuiltIn, to the calling thread and what
// it starts or executes, in a mount namespace that the thread gets. It has to be locked, and is good
// for nothing else afterwards, also after an error. What is mounted elsewhere later is seen there, but
// for another control plane at BuiltIn.
//
// Only the kernel makes directories in securityfs. So a tmpfs is mounted over it, into which
// everything comes that is in securityfs, and the control plane.
func AttachBuiltIn(directory string) error {
	if _, err := os.Stat(filepath.Join(directory, "control")); err != nil {
		return fmt.Errorf("no control plane can be used at %s: %w; tsem-bpf daemon serves one, to root", directory, errors.Unwrap(err))
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w; CAP_SYS_ADMIN is needed", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts from the namespace before: %w", err)
	}
	plane, err := unix.OpenTree(unix.AT_FDCWD, directory, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open the mount at %s: %w", directory, err)
	}
	defer unix.Close(plane)
	if err := coverSecurityfs(); err != nil {
		return err
	}
	if err := os.Mkdir(BuiltIn, 0o700); err != nil {
		return err
	}
	return Attach(plane, BuiltIn)
}

// coverSecurityfs mounts a tmpfs over securityfs that shows all that is in it.
func coverSecurityfs() error {
	var stat unix.Statfs_t
	if err := unix.Statfs(securityfs, &stat); err != nil {
		return fmt.Errorf("look at %s: %w; the kernel needs CONFIG_SECURITYFS", securityfs, err)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if stat.Type != unix.SECURITYFS_MAGIC {
		if err := unix.Mount("securityfs", securityfs, "securityfs", flags, ""); err != nil {
			return fmt.Errorf("mount securityfs at %s: %w", securityfs, err)
		}
	}
	covered, err := os.Open(securityfs)
	if err != nil {
		return err
	}
	defer covered.Close()
	if err := unix.Mount("tmpfs", securityfs, "tmpfs", flags, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", securityfs, err)
	}
	entries, err := covered.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := uncover(int(covered.Fd()), entry); err != nil {
			return fmt.Errorf("show %s/%s: %w", securityfs, entry.Name(), err)
		}
	}
	return nil
}

// uncover shows an entry of the directory that is covered in what covers it.
func uncover(covered int, entry fs.DirEntry) error {
	path := filepath.Join(securityfs, entry.Name())
	switch entry.Type() {
	case fs.ModeSymlink:
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d/%s", covered, entry.Name()))
		if err != nil {
			return err
		}
		return os.Symlink(target, path)
	case fs.ModeDir:
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
	}
	tree, err := unix.OpenTree(covered, entry.Name(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
