// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The filesystems whose stat shows other device numbers than the superblock has.
const (
	overlayMagic = 0x794c7630
	btrfsMagic   = 0x9123683e
)

// look opens without any effect on what is opened: no driver is called, no FIFO
// waited for.
const look = unix.O_PATH | unix.O_CLOEXEC

// toTop leads from any directory to the root of its mount namespace, where ".." ends:
// the root directory of the task that opens stops it only if it comes along there.
// So many levels go into PATH_MAX.
var toTop = strings.Repeat("/..", 1024)

// match says how far a file is that of a request.
type match int

const (
	other   match = iota // another file, or not a regular one
	touched              // the file, but its size or change time is another one
	same                 // the file, as it was
)

// content is what stat tells of the content without reading it.
type content struct {
	size, sec, nsec uint64
}

func (r *Request) content() content { return content{r.Size, r.CtimeSec, r.CtimeNsec} }

func contentOf(fd int) (content, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return content{uint64(st.Size), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec)}, err
}

// find returns the file of a request as an O_PATH descriptor, and how well it
// matches. If that is other there is no descriptor.
func find(req *Request) (fd int, best match) {
	fd = -1
	try := func(candidate int, err error) bool {
		if err != nil {
			return false
		}
		m := compare(candidate, req)
		if m <= best {
			unix.Close(candidate)
			return false
		}
		if fd >= 0 {
			unix.Close(fd)
		}
		fd, best = candidate, m
		return m == same
	}
	task := fmt.Sprintf("/proc/%d", req.TID)
	if req.Exec && try(open(task+"/exe", look)) {
		return fd, best
	}
	if strings.HasPrefix(req.Path, "/") && !try(openFrom(task+"/root", req.Path)) {
		try(openFrom("/", req.Path))
	}
	return fd, best
}

// openFrom opens a path from the root of the mount namespace that root is in. The path
// was built by the kernel, without symbolic links; those that stand in the way by now
// are followed within that mount namespace, never through /proc into another one.
func openFrom(root, path string) (int, error) {
	dir, err := open(root+toTop, look|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return retry(func() (int, error) {
		return unix.Openat2(dir, path, &unix.OpenHow{
			Flags:   look,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
	})
}

func compare(fd int, req *Request) match {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return other
	}
	if !isOnDevice(fd, uint64(st.Dev), req) {
		return other
	}
	if ino, err := inodeNumber(fd); err != nil || ino != req.Ino {
		return other
	}
	if now, err := contentOf(fd); err != nil || now != req.content() {
		return touched
	}
	return same
}

// isOnDevice compares the filesystem. Overlayfs shows the device numbers of its layers
// and btrfs those of its subvolumes; there, the type has to do.
func isOnDevice(fd int, dev uint64, req *Request) bool {
	if req.SMagic != overlayMagic && req.SMagic != btrfsMagic {
		return unix.Major(dev) == req.DevMajor && unix.Minor(dev) == req.DevMinor
	}
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && uint32(fs.Type) == req.SMagic
}

// inodeNumber returns i_ino, as the kernel half sees it. That of stat is another one
// on overlayfs and some more; fdinfo has it since Linux 5.14.
func inodeNumber(fd int) (uint64, error) {
	name := fmt.Sprintf("/proc/self/fdinfo/%d", fd)
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nino:\t")
	number, _, _ := strings.Cut(rest, "\n")
	ino, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("inode number in %s: %w", name, err)
	}
	return ino, nil
}

// reopen opens for reading what an O_PATH descriptor stands for. It does not wait for
// who holds a lease. Leaving the access time alone is for owners and the privileged.
func reopen(fd int) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	file, err := open(name, flags|unix.O_NOATIME)
	if err == unix.EPERM {
		return open(name, flags)
	}
	return file, err
}

func open(name string, flags int) (int, error) {
	return retry(func() (int, error) { return unix.Open(name, flags, 0) })
}

// retry repeats what a signal interrupted: the runtime sends them to preempt, and on
// some network filesystems even open can be interrupted.
func retry(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); err != unix.EINTR {
			return n, err
		}
	}
}
