// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// DevicePath is where the device is.
const DevicePath = "/dev/fuse"

// ErrFUSE: this system does not let FUSE be used as it is; the text says what to change.
var ErrFUSE = errors.New("FUSE cannot be used")

// OpenDevice opens a new connection: a descriptor of the device, in blocking mode, that is not
// inherited by what this process executes. The connection ends with its last descriptor, and so
// does the file system that is mounted with it.
func OpenDevice() (int, error) {
	fd, err := openDevice()
	if err != nil {
		return -1, explainOpen(err)
	}
	return fd, nil
}

func openDevice() (int, error) {
	fd, err := unix.Open(DevicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		// The node comes with the module, and the module with whoever wants the file system.
		if context, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC); err == nil {
			_ = unix.Close(context)
		}
		fd, err = unix.Open(DevicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

func explainOpen(err error) error {
	remedy := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		remedy = "load the module fuse (modprobe fuse; CONFIG_FUSE_FS), and give a container the device (c 10 229)"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		remedy = "load the module fuse (modprobe fuse), or use a kernel with CONFIG_FUSE_FS"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		remedy = "run as root, and let the container use the device (c 10 229)"
	default:
		return fmt.Errorf("open %s: %w", DevicePath, err)
	}
	return fmt.Errorf("open %s: %w: %w: %s", DevicePath, err, ErrFUSE, remedy)
}

// Option is an option of a file system. One without value is a flag.
type Option struct{ Name, Value string }

// Options are those of a file system that belongs to root, on a connection.
func Options(device int) []Option {
	return []Option{
		{"fd", strconv.Itoa(device)},
		{"rootmode", strconv.FormatUint(unix.S_IFDIR, 8)},
		{"user_id", "0"},
		{"group_id", "0"},
	}
}

// Mount mounts a file system of a type where nobody can see it: a mount of fsmount(2) is in no
// mount namespace until somebody moves it there (move_mount(2)), and lives as long as a
// file of it is open. attributes are those of fsmount(2), besides nosuid and nodev. The result
// is a descriptor of its root, which no program inherits.
func Mount(filesystem string, attributes int, options ...Option) (int, error) {
	context, err := unix.Fsopen(filesystem, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, explainMount(filesystem, fmt.Errorf("open file system %s: %w", filesystem, err))
	}
	defer unix.Close(context)
	for _, o := range options {
		if o.Value == "" {
			err = unix.FsconfigSetFlag(context, o.Name)
		} else {
			err = unix.FsconfigSetString(context, o.Name, o.Value)
		}
		if err != nil {
			return -1, fmt.Errorf("set option %s=%s of file system %s: %w", o.Name, o.Value, filesystem, err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, explainMount(filesystem, fmt.Errorf("create file system %s: %w", filesystem, err))
	}
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|attributes)
	if err != nil {
		return -1, explainMount(filesystem, fmt.Errorf("mount file system %s: %w", filesystem, err))
	}
	return mount, nil
}

func explainMount(filesystem string, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w: load the module fuse (modprobe fuse), or use a kernel with CONFIG_FUSE_FS", ErrFUSE, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %w: CAP_SYS_ADMIN is needed, and no seccomp filter or LSM that refuses mounts of %s", ErrFUSE, err, filesystem)
	}
	return err
}
