// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// The operations of this package and of its users (include/uapi/linux/fuse.h, enum
// fuse_opcode). Whoever serves a file system answers all others with ENOSYS, after which the
// kernel does most of them itself, or not at all, and does not ask again.
const (
	OpLookup      = 1
	OpForget      = 2
	OpGetattr     = 3
	OpSetattr     = 4
	OpOpen        = 14
	OpRead        = 15
	OpWrite       = 16
	OpStatfs      = 17
	OpRelease     = 18
	OpGetxattr    = 22
	OpFlush       = 25
	OpInit        = 26
	OpOpendir     = 27
	OpReaddir     = 28
	OpReleasedir  = 29
	OpInterrupt   = 36
	OpDestroy     = 38
	OpPoll        = 40
	OpBatchForget = 42
)

// What the kernel is told with an open file (struct fuse_open_out).
const (
	DirectIO             = 1 << 0 // FOPEN_DIRECT_IO: every read and write is a request
	KeepCache            = 1 << 1 // FOPEN_KEEP_CACHE: what was read stays right
	NoFlush              = 1 << 5 // FOPEN_NOFLUSH: close(2) waits for nothing
	ParallelDirectWrites = 1 << 6 // FOPEN_PARALLEL_DIRECT_WRITES: below the end of the file
)

const (
	// RequestHeader is the size of struct fuse_in_header, AnswerHeader that of struct
	// fuse_out_header.
	RequestHeader = 40
	AnswerHeader  = 16

	// RootNode is the number of the directory that is mounted (FUSE_ROOT_ID).
	RootNode = 1

	// MaxWrite is the most data that a request to write has. It is the least that the
	// kernel takes; the kernel splits what is more.
	MaxWrite = 4096

	// BufferSize is room for every request. The kernel wants room for FUSE_MIN_READ_BUFFER,
	// 8192 bytes, and for a write with its headers (fs/fuse/dev.c, fuse_dev_do_read); this
	// is enough for both.
	BufferSize = 16384

	// Forever is for how many seconds what never changes is right. The kernel bounds it to
	// what it can count (fs/fuse/dir.c, fuse_time_to_jiffies).
	Forever = 1 << 40

	protocol      = 7  // the only major version there is
	protocolMinor = 31 // before the request header had extensions; all that is used is older

	notifyPoll = 1 // FUSE_NOTIFY_POLL, the only notification that is used
)

// ErrRequest: what was read is no FUSE request.
var ErrRequest = errors.New("not a FUSE request")

// Request is one FUSE request. Its body lies in the buffer that was read into.
type Request struct {
	Opcode uint32
	Unique uint64 // names the request, and is never used again; not 0 where an answer is expected
	Node   uint64
	TID    uint32 // thread, in the pid namespace of who mounted; 0: not visible there
	Body   []byte
}

// ParseRequest reads struct fuse_in_header. ErrRequest: b is not as long as it says.
func ParseRequest(b []byte) (Request, error) {
	if len(b) < RequestHeader {
		return Request{}, ErrRequest
	}
	le := binary.NativeEndian
	if uint64(le.Uint32(b)) != uint64(len(b)) {
		return Request{}, ErrRequest
	}
	return Request{
		Opcode: le.Uint32(b[4:]),
		Unique: le.Uint64(b[8:]),
		Node:   le.Uint64(b[16:]),
		TID:    le.Uint32(b[32:]),
		Body:   b[RequestHeader:],
	}, nil
}

// Interrupted returns which request a signal interrupted (struct fuse_interrupt_in), 0
// if the request is another. An interrupt is not answered: an error as the answer would mean
// that there shall be no more of them (ENOSYS), or that it shall come again (EAGAIN).
func (r *Request) Interrupted() (unique uint64) {
	if r.Opcode != OpInterrupt || len(r.Body) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(r.Body)
}

// Range is which bytes of an open file are asked for (struct fuse_read_in).
type Range struct {
	Handle uint64
	Offset uint64
	Size   uint32
}

// Range returns what a request to read a file or a directory asks for.
func (r *Request) Range() (_ Range, ok bool) {
	if len(r.Body) < 24 {
		return Range{}, false
	}
	le := binary.NativeEndian
	return Range{le.Uint64(r.Body), le.Uint64(r.Body[8:]), le.Uint32(r.Body[16:])}, true
}

// Attr is what there is to know of a node: its number, its size in bytes, and its type and
// permissions. All nodes belong to root and have no times.
type Attr struct {
	Node, Size uint64
	Mode       uint32
}

// The Append functions append the body of an answer, or a piece of it, and return the
// extended buffer, which has room for the header in front.

// AppendInit answers struct fuse_init_in with struct fuse_init_out: no feature is wanted.
func AppendInit(out, in []byte) ([]byte, unix.Errno) {
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
	out = le.AppendUint32(out, MaxWrite)       //
	out = le.AppendUint32(out, 1)              // time_gran, in ns
	return append(out, make([]byte, 36)...), 0 // max_pages and younger fields: unused without flags
}

// AppendEntry appends struct fuse_entry_out: the node of a name, which the kernel need not
// look up again for so many seconds.
func AppendEntry(out []byte, a Attr, seconds uint64) []byte {
	le := binary.NativeEndian
	out = le.AppendUint64(out, a.Node)
	out = le.AppendUint64(out, 0)       // generation
	out = le.AppendUint64(out, seconds) // entry_valid
	out = le.AppendUint64(out, Forever) // attr_valid
	out = le.AppendUint64(out, 0)       // and their nanoseconds
	return appendAttr(out, a)
}

// AppendAttr appends struct fuse_attr_out: attributes that never change.
func AppendAttr(out []byte, a Attr) []byte {
	out = binary.NativeEndian.AppendUint64(out, Forever)
	out = binary.NativeEndian.AppendUint64(out, 0) // nanoseconds
	return appendAttr(out, a)
}

// appendAttr appends struct fuse_attr.
func appendAttr(out []byte, a Attr) []byte {
	le := binary.NativeEndian
	out = le.AppendUint64(out, a.Node)
	out = le.AppendUint64(out, a.Size)
	out = le.AppendUint64(out, (a.Size+511)/512)
	out = append(out, make([]byte, 36)...) // times
	out = le.AppendUint32(out, a.Mode)
	out = le.AppendUint32(out, 1)          // nlink
	out = append(out, make([]byte, 12)...) // uid, gid, rdev
	out = le.AppendUint32(out, 4096)       // blksize
	return le.AppendUint32(out, 0)         // flags
}

// AppendOpen appends struct fuse_open_out: the number of an open file or directory, and what
// the kernel is told with it.
func AppendOpen(out []byte, handle uint64, flags uint32) []byte {
	le := binary.NativeEndian
	out = le.AppendUint64(out, handle)
	out = le.AppendUint32(out, flags)
	return le.AppendUint32(out, 0)
}

// AppendStatfs appends struct fuse_statfs_out: no blocks, no files.
func AppendStatfs(out []byte) []byte {
	return append(out, make([]byte, 80)...)
}

// PutHeader fills in struct fuse_out_header, for an answer of so many bytes with it.
func PutHeader(b []byte, size int, unique uint64, errno unix.Errno) {
	le := binary.NativeEndian
	le.PutUint32(b, uint32(size))
	le.PutUint32(b[4:], uint32(-int32(errno)))
	le.PutUint64(b[8:], unique)
}
