// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// The operations that the kernel asks of the gate's file system (include/uapi/linux/fuse.h).
// All others get ENOSYS.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opGetxattr    = 22
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
)

const (
	inHeader  = 40 // struct fuse_in_header
	outHeader = 16 // struct fuse_out_header

	rootNode = 1 // FUSE_ROOT_ID
	gateNode = 2 // the only file
	gateName = "gate"

	// xattr is what a task reads to wait.
	xattr = "user.tsem"

	protocol      = 7  // the only major version there is
	protocolMinor = 31 // before the request header had extensions; all that is used is older

	keepCache = 1 << 1 // FOPEN_KEEP_CACHE: the pages of the program stay

	// Nobody writes to the gate; 4096 is the least that the kernel takes.
	maxWrite = 4096
	// The kernel wants room for FUSE_MIN_READ_BUFFER, 8192 bytes, and for a write with
	// its headers (fs/fuse/dev.c, fuse_dev_do_read); this is enough for both.
	bufferSize = 16384
	// Seconds: names and attributes never change. The kernel bounds it to what it can
	// count (fs/fuse/dir.c, fuse_time_to_jiffies).
	forever = 1 << 40
)

// errRequest: what was read is no FUSE request.
var errRequest = errors.New("not a FUSE request")

// request is one FUSE request. Its body lies in the buffer that was read into.
type request struct {
	opcode uint32
	unique uint64 // names the request, and is never used again; not 0 where an answer is expected
	node   uint64
	pid    uint32 // thread, in the pid namespace of who mounted; 0: not visible there
	body   []byte
}

// parseRequest reads struct fuse_in_header. errRequest: b is not as long as it says.
func parseRequest(b []byte) (request, error) {
	if len(b) < inHeader {
		return request{}, errRequest
	}
	le := binary.NativeEndian
	if uint64(le.Uint32(b)) != uint64(len(b)) {
		return request{}, errRequest
	}
	return request{
		opcode: le.Uint32(b[4:]),
		unique: le.Uint64(b[8:]),
		node:   le.Uint64(b[16:]),
		pid:    le.Uint32(b[32:]),
		body:   b[inHeader:],
	}, nil
}

// wait says whether the request is that of a task that waits, and in which slot: the
// size of the value that it asks for (struct fuse_getxattr_in) is the number.
func (r *request) wait() (slot uint32, ok bool) {
	if r.opcode != opGetxattr || r.unique == 0 || r.node != gateNode || len(r.body) != 8+len(xattr)+1 ||
		string(r.body[8:]) != xattr+"\x00" {
		return 0, false
	}
	return binary.NativeEndian.Uint32(r.body), true
}

// interrupted returns which request a signal interrupted (struct fuse_interrupt_in), 0
// if the request is another.
func (r *request) interrupted() (unique uint64) {
	if r.opcode != opInterrupt || len(r.body) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(r.body)
}

// fileSystem is the file system of a gate: one directory, one file that never changes.
type fileSystem struct {
	program []byte // what the file contains
}

// answer answers everything but waits, which the Gate does: it appends the body of the
// answer to out, which has room for the header. No answer is expected where ok is false.
func (f *fileSystem) answer(r *request, out []byte) (_ []byte, errno unix.Errno, ok bool) {
	switch r.opcode {
	case opForget, opBatchForget, opInterrupt:
		// An error as the answer to an interrupt would mean that there shall be no more of
		// them (ENOSYS), or that it shall come again (EAGAIN).
		return out, 0, false
	case opInit:
		out, errno = initialize(r.body, out)
	case opLookup:
		if r.node != rootNode || !bytes.Equal(r.body, []byte(gateName+"\x00")) {
			return out, unix.ENOENT, true
		}
		out = appendEntry(out, gateNode)
		out = f.appendAttributes(out, gateNode)
	case opGetattr:
		if r.node != rootNode && r.node != gateNode {
			return out, unix.ENOENT, true
		}
		out = appendValidity(out)
		out = f.appendAttributes(out, r.node)
	case opOpen:
		le := binary.NativeEndian
		out = le.AppendUint64(out, 0) // handle
		out = le.AppendUint32(out, keepCache)
		out = le.AppendUint32(out, 0)
	case opRead:
		out, errno = f.read(r, out)
	case opStatfs:
		out = append(out, make([]byte, 80)...) // struct fuse_statfs_out: no blocks, no files
	case opGetxattr:
		// ENOSYS would mean that no file here has attributes: the kernel would never ask again.
		errno = unix.ENODATA
	case opRelease, opFlush, opDestroy:
	default:
		errno = unix.ENOSYS
	}
	return out, errno, true
}

// initialize answers struct fuse_init_in with struct fuse_init_out: no feature is wanted.
func initialize(in, out []byte) ([]byte, unix.Errno) {
	le := binary.NativeEndian
	if len(in) < 16 {
		return out, unix.EINVAL
	}
	if le.Uint32(in) < protocol {
		return out, unix.EPROTO
	}
	out = le.AppendUint32(out, protocol)
	out = le.AppendUint32(out, min(protocolMinor, le.Uint32(in[4:])))
	out = append(out, in[8:12]...)             // max_readahead: as the kernel likes it
	out = le.AppendUint32(out, 0)              // flags
	out = le.AppendUint16(out, 16)             // max_background, of which there is nothing
	out = le.AppendUint16(out, 12)             // congestion_threshold
	out = le.AppendUint32(out, maxWrite)       //
	out = le.AppendUint32(out, 1)              // time_gran, in ns
	return append(out, make([]byte, 36)...), 0 // max_pages and younger fields: unused without flags
}

// read answers struct fuse_read_in with a piece of the program.
func (f *fileSystem) read(r *request, out []byte) ([]byte, unix.Errno) {
	if r.node != gateNode || len(r.body) < 24 {
		return out, unix.EINVAL
	}
	le := binary.NativeEndian
	begin := min(le.Uint64(r.body[8:]), uint64(len(f.program)))
	size := min(uint64(le.Uint32(r.body[16:])), uint64(len(f.program))-begin)
	return append(out, f.program[begin:begin+size]...), 0
}

// appendEntry appends struct fuse_entry_out up to the attributes.
func appendEntry(out []byte, node uint64) []byte {
	le := binary.NativeEndian
	out = le.AppendUint64(out, node)
	out = le.AppendUint64(out, 0)       // generation
	out = le.AppendUint64(out, forever) // entry_valid
	out = le.AppendUint64(out, forever) // attr_valid
	return le.AppendUint64(out, 0)      // and their nanoseconds
}

// appendValidity appends struct fuse_attr_out up to the attributes.
func appendValidity(out []byte) []byte {
	out = binary.NativeEndian.AppendUint64(out, forever)
	return binary.NativeEndian.AppendUint64(out, 0) // nanoseconds
}

// appendAttributes appends struct fuse_attr.
func (f *fileSystem) appendAttributes(out []byte, node uint64) []byte {
	le := binary.NativeEndian
	mode, size := uint32(unix.S_IFDIR|0o555), uint64(0)
	if node == gateNode {
		mode, size = unix.S_IFREG|0o555, uint64(len(f.program))
	}
	out = le.AppendUint64(out, node)
	out = le.AppendUint64(out, size)
	out = le.AppendUint64(out, (size+511)/512)
	out = append(out, make([]byte, 36)...) // times
	out = le.AppendUint32(out, mode)
	out = le.AppendUint32(out, 1)          // nlink
	out = append(out, make([]byte, 12)...) // uid, gid, rdev
	out = le.AppendUint32(out, 4096)       // blksize
	return le.AppendUint32(out, 0)         // flags
}

// putHeader fills in struct fuse_out_header, for an answer of so many bytes with it.
func putHeader(b []byte, size int, unique uint64, errno unix.Errno) {
	le := binary.NativeEndian
	le.PutUint32(b, uint32(size))
	le.PutUint32(b[4:], uint32(-int32(errno)))
	le.PutUint64(b[8:], unique)
}
