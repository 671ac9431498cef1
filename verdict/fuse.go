// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
)

const (
	gateNode = 2 // the only file
	gateName = "gate"

	// xattr is what a task reads to wait.
	xattr = "user.tsem"
)

// waitIn says whether a request is that of a task that waits, and in which slot: the size of
// the value that it asks for (struct fuse_getxattr_in) is the number.
func waitIn(r *fuse.Request) (slot uint32, ok bool) {
	if r.Opcode != fuse.OpGetxattr || r.Unique == 0 || r.Node != gateNode || len(r.Body) != 8+len(xattr)+1 ||
		string(r.Body[8:]) != xattr+"\x00" {
		return 0, false
	}
	return binary.NativeEndian.Uint32(r.Body), true
}

// fileSystem is the file system of a gate: one directory, one file that never changes.
type fileSystem struct {
	program []byte // what the file contains
}

// answer answers everything but waits, which the Gate does: it appends the body of the
// answer to out, which has room for the header. No answer is expected where ok is false.
func (f *fileSystem) answer(r *fuse.Request, out []byte) (_ []byte, errno unix.Errno, ok bool) {
	switch r.Opcode {
	case fuse.OpForget, fuse.OpBatchForget, fuse.OpInterrupt:
		return out, 0, false
	case fuse.OpInit:
		out, errno = fuse.AppendInit(out, r.Body)
	case fuse.OpLookup:
		if r.Node != fuse.RootNode || !bytes.Equal(r.Body, []byte(gateName+"\x00")) {
			return out, unix.ENOENT, true
		}
		out = fuse.AppendEntry(out, f.attr(gateNode), fuse.Forever)
	case fuse.OpGetattr:
		if r.Node != fuse.RootNode && r.Node != gateNode {
			return out, unix.ENOENT, true
		}
		out = fuse.AppendAttr(out, f.attr(r.Node))
	case fuse.OpOpen:
		out = fuse.AppendOpen(out, 0, fuse.KeepCache) // the pages of the program stay
	case fuse.OpRead:
		out, errno = f.read(r, out)
	case fuse.OpStatfs:
		out = fuse.AppendStatfs(out)
	case fuse.OpGetxattr:
		// ENOSYS would mean that no file here has attributes: the kernel would never ask again.
		errno = unix.ENODATA
	case fuse.OpRelease, fuse.OpFlush, fuse.OpDestroy:
	default:
		errno = unix.ENOSYS
	}
	return out, errno, true
}

// read answers with a piece of the program.
func (f *fileSystem) read(r *fuse.Request, out []byte) ([]byte, unix.Errno) {
	piece, ok := r.Range()
	if r.Node != gateNode || !ok {
		return out, unix.EINVAL
	}
	begin := min(piece.Offset, uint64(len(f.program)))
	size := min(uint64(piece.Size), uint64(len(f.program))-begin)
	return append(out, f.program[begin:begin+size]...), 0
}

func (f *fileSystem) attr(node uint64) fuse.Attr {
	if node == gateNode {
		return fuse.Attr{Node: node, Size: uint64(len(f.program)), Mode: unix.S_IFREG | 0o555}
	}
	return fuse.Attr{Node: node, Mode: unix.S_IFDIR | 0o555}
}
