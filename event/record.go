// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// What Parse and Append find wrong, for errors.Is; the text names the record and the rule.
var (
	// ErrTruncated: the record is shorter than it says, or than its header.
	ErrTruncated = errors.New("record is truncated")
	// ErrVersion: the record is of another version of the kernel half.
	ErrVersion = errors.New("record of another version")
	// ErrHook: the record is of no hook of the event table.
	ErrHook = errors.New("unknown hook")
	// ErrKind: the record is of no kind, or of one that its hook cannot have.
	ErrKind = errors.New("wrong kind of record")
	// ErrCell: a cell is not what the event table asks for.
	ErrCell = errors.New("wrong cell")
	// ErrCut: a text of the record is not complete, which the dialect has no mark for.
	ErrCut = errors.New("text is not complete")
)

// recordVersion is TSEM_RECORD_VERSION of bpf/record.h.
const recordVersion = 3

// textMax is TSEM_TEXT_MAX of bpf/record.h, the bound of a text.
const textMax = 4096

// valueMax is TSEM_VALUE_MAX of bpf/record.h, the bound of a byte string.
const valueMax = 65536

// addressMax is the size of struct sockaddr_storage.
const addressMax = 128

// Where the fields of struct tsem_record are; a test compares all these offsets with
// the BTF of the object.
const (
	offRecordLength    = 0
	offRecordVersion   = 4
	offRecordHook      = 6
	offRecordKind      = 8
	offRecordCells     = 9
	offRecordCut       = 10
	offRecordShare     = 11
	offRecordSlot      = 12
	offRecordTicket    = 16
	offRecordNumber    = 24
	offRecordNamespace = 32
	offRecordTime      = 40
	offRecordTid       = 48
	offRecordTgid      = 52
	offRecordTnum      = 56
	offRecordTtd       = 64
	offRecordPTtd      = 72
	offRecordIdentity  = 80
	offRecordPIdentity = 88
	offRecordCreds     = 96
	offRecordComm      = 144
	sizeRecord         = 160

	sizeCell = 8
)

type cellType uint16

// enum tsem_cell_type of bpf/record.h.
const (
	cellAbsent cellType = iota
	cellScalar
	cellInode
	cellPath
	cellFile
	cellCreds
	cellSock
	cellIPC
	cellAddr
	cellTask
	cellText
	cellBytes
	cellTypes
)

// cellCut is TSEM_CELL_CUT: the text or bytes are not complete.
const cellCut = 1

// Of each type: the size of the payload, and how much more may follow.
var cellSizes = [cellTypes]struct{ fixed, more uint32 }{
	cellScalar: {8, 0},
	cellInode:  {sizeInode, 0},
	cellPath:   {sizePath, textMax},
	cellFile:   {sizeFile, 0},
	cellCreds:  {sizeCreds, 0},
	cellSock:   {sizeSock, 0},
	cellIPC:    {sizeIPC, 0},
	cellAddr:   {sizeAddr, addressMax},
	cellTask:   {8, 0},
	cellText:   {0, textMax},
	cellBytes:  {0, valueMax},
}

// Record is a checked record. It refers to the bytes given to Parse and is valid as
// long as they are. A value like any other; safe for concurrent reading.
type Record struct {
	raw []byte
	row *row
}

// native reads integers as the kernel of this host wrote them.
var native = binary.NativeEndian

// Parse checks a record against the contract (bpf/record.h) and the event table. It
// does not allocate unless the record is wrong; errors are ErrTruncated, ErrVersion,
// ErrHook, ErrKind or ErrCell. Nothing is taken on trust: what Parse accepts, every
// other function of the package can handle.
func Parse(raw []byte) (Record, error) {
	if len(raw) < sizeRecord {
		return Record{}, fmt.Errorf("%w: %d bytes, the header alone has %d", ErrTruncated, len(raw), sizeRecord)
	}
	if v := native.Uint16(raw[offRecordVersion:]); v != recordVersion {
		return Record{}, fmt.Errorf("%w: %d, this is for %d", ErrVersion, v, recordVersion)
	}
	if length := native.Uint32(raw); uint64(length) != uint64(len(raw)) {
		return Record{}, fmt.Errorf("%w: %d bytes, it says %d", ErrTruncated, len(raw), length)
	}
	r := Record{raw: raw, row: Hook(native.Uint16(raw[offRecordHook:])).row()}
	if r.row == nil {
		return Record{}, fmt.Errorf("%w: %d", ErrHook, native.Uint16(raw[offRecordHook:]))
	}
	if k := r.Kind(); k < KindEvent || k > KindDeny || (k == KindExec) != (r.row.kind == KindExec) {
		return Record{}, fmt.Errorf("%w: %d, of %s", ErrKind, k, r.row.name)
	}
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("%s: %w", r.row.name, err)
	}
	return r, nil
}

// NumberOf returns the number of a record that Parse refused, 0 if it was none of an
// event. It is false if not even the header can be read: the record is shorter than
// that, or of another version.
func NumberOf(raw []byte) (number uint64, readable bool) {
	if len(raw) < sizeRecord || native.Uint16(raw[offRecordVersion:]) != recordVersion {
		return 0, false
	}
	return native.Uint64(raw[offRecordNumber:]), true
}

// ShareOf returns which share of the reserve of the magazine a record belongs to (enum
// tsem_share_of of bpf/state.h), also if Parse refuses it; 0: none.
func ShareOf(raw []byte) uint8 {
	if len(raw) < sizeRecord {
		return 0
	}
	return raw[offRecordShare]
}

// check walks the cells as an encoder will.
func (r *Record) check() error {
	w := cells{rest: r.raw[sizeRecord:]}
	var count, cut uint8
	for _, m := range r.row.members {
		wanted := m.shape.cells
		if m.shape.optional && w.peek() == cellAbsent {
			wanted = absentOnly
		}
		for _, set := range wanted {
			flags, err := w.check(set)
			if err != nil {
				return fmt.Errorf("%w (member %s, cell %d)", err, m.name, count+1)
			}
			count++
			cut += uint8(flags & cellCut)
		}
	}
	switch {
	case len(w.rest) > 0:
		return fmt.Errorf("%w: %d bytes after the last one", ErrCell, len(w.rest))
	case count != r.raw[offRecordCells]:
		return fmt.Errorf("%w: %d cells, the header says %d", ErrCell, count, r.raw[offRecordCells])
	case cut != r.raw[offRecordCut]:
		return fmt.Errorf("%w: %d of them cut, the header says %d", ErrCell, cut, r.raw[offRecordCut])
	}
	return nil
}

var absentOnly = []cellSet{oneOf(cellAbsent)}

// cells is a walk over the cells of a record.
type cells struct{ rest []byte }

func (c *cells) peek() cellType {
	if len(c.rest) < sizeCell {
		return cellTypes
	}
	return cellType(native.Uint16(c.rest))
}

// next returns the payload of the next cell. Only after check.
func (c *cells) next() []byte {
	size := native.Uint32(c.rest[4:])
	payload := c.rest[sizeCell : sizeCell+size]
	c.rest = c.rest[sizeCell+(size+7)&^7:]
	return payload
}

// check makes sure that the next cell is one of a set, and steps over it.
func (c *cells) check(set cellSet) (flags uint16, err error) {
	if len(c.rest) < sizeCell {
		return 0, fmt.Errorf("%w: no room for its head", ErrTruncated)
	}
	kind, size := cellType(native.Uint16(c.rest)), native.Uint32(c.rest[4:])
	flags = native.Uint16(c.rest[2:])
	if kind >= cellTypes || set&(1<<kind) == 0 {
		return 0, fmt.Errorf("%w: type %d", ErrCell, kind)
	}
	sizes := cellSizes[kind]
	switch {
	case size < sizes.fixed || size > sizes.fixed+sizes.more:
		return 0, fmt.Errorf("%w: type %d with %d bytes", ErrCell, kind, size)
	case flags&^cellCut != 0 || flags != 0 && sizes.more == 0:
		return 0, fmt.Errorf("%w: type %d with flags %#x", ErrCell, kind, flags)
	case uint64(len(c.rest)) < sizeCell+(uint64(size)+7)&^7:
		return 0, fmt.Errorf("%w: a cell of %d bytes in the last %d", ErrTruncated, size, len(c.rest))
	}
	padding := c.rest[sizeCell+size : sizeCell+(size+7)&^7]
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return 0, fmt.Errorf("%w: type %d with padding %x", ErrCell, kind, padding)
	}
	if kind == cellPath {
		if unknown := native.Uint32(c.rest[sizeCell+offPathFlags:]) &^ pathFlags; unknown != 0 {
			return 0, fmt.Errorf("%w: path flags %#x", ErrCell, unknown)
		}
		if t := native.Uint32(c.rest[sizeCell+offPathType:]); t >= uint32(len(pathTypeNames)) {
			return 0, fmt.Errorf("%w: path type %d", ErrCell, t)
		}
	}
	if kind == cellFile {
		if state := native.Uint32(c.rest[sizeCell+offFileDigestState:]); state > uint32(digestVolatile) {
			return 0, fmt.Errorf("%w: digest state %d", ErrCell, state)
		}
	}
	c.next()
	return flags, nil
}

// Hook returns the hook of the record.
func (r *Record) Hook() Hook { return r.row.hook }

// Untrusted says whether the record is of an untrusted task, about which nobody is asked.
func (r *Record) Untrusted() bool { return r.Kind() == KindLog || r.Kind() == KindDeny }

// Kind returns the kind of the record.
func (r *Record) Kind() Kind { return Kind(r.raw[offRecordKind]) }

// Slot returns the verdict slot that the task waits in; 0: it does not wait.
func (r *Record) Slot() uint32 { return native.Uint32(r.raw[offRecordSlot:]) }

// Ticket returns what names the wait in its slot; of no meaning if that is 0.
func (r *Record) Ticket() uint64 { return native.Uint64(r.raw[offRecordTicket:]) }

// Number returns the number of the event in its namespace, from 1; 0 for KindExec.
func (r *Record) Number() uint64 { return native.Uint64(r.raw[offRecordNumber:]) }

// Namespace returns the id of the modeling namespace.
func (r *Record) Namespace() uint64 { return native.Uint64(r.raw[offRecordNamespace:]) }

// Time returns the time of the event, CLOCK_BOOTTIME in ns.
func (r *Record) Time() uint64 { return native.Uint64(r.raw[offRecordTime:]) }

// TID returns the thread id of the task in the initial pid namespace.
func (r *Record) TID() uint32 { return native.Uint32(r.raw[offRecordTid:]) }

// TGID returns the thread group id of the task in the initial pid namespace.
func (r *Record) TGID() uint32 { return native.Uint32(r.raw[offRecordTgid:]) }

// Tnum returns the task number, which is never reused.
func (r *Record) Tnum() uint64 { return native.Uint64(r.raw[offRecordTnum:]) }

// TTD returns the execution counter of the task.
func (r *Record) TTD() uint64 { return native.Uint64(r.raw[offRecordTtd:]) }

// ParentTTD returns the execution counter that the parent had at the fork.
func (r *Record) ParentTTD() uint64 { return native.Uint64(r.raw[offRecordPTtd:]) }

// Identity returns what stands for the TASK_ID; 0: no exec yet.
func (r *Record) Identity() uint64 { return native.Uint64(r.raw[offRecordIdentity:]) }

// ParentIdentity returns what stands for the TASK_ID of the parent at the fork.
func (r *Record) ParentIdentity() uint64 { return native.Uint64(r.raw[offRecordPIdentity:]) }

// Comm returns the command name of the task, without NUL.
func (r *Record) Comm() []byte { return untilNUL(r.raw[offRecordComm : offRecordComm+16]) }

// Cut returns how many cells of the record are not complete.
func (r *Record) Cut() uint8 { return r.raw[offRecordCut] }

// Creds returns the credentials of the task.
func (r *Record) Creds() Creds { return credsOf(r.raw[offRecordCreds:]) }

// HasFile says whether the record is about a file, which File then returns.
func (r *Record) HasFile() bool {
	w := cells{rest: r.raw[sizeRecord:]}
	return w.peek() == cellFile
}

// File returns the file that the record is about. Only if HasFile.
func (r *Record) File() FileView {
	w := cells{rest: r.raw[sizeRecord:]}
	return w.file()
}

// Size returns the size of the record in bytes.
func (r *Record) Size() int { return len(r.raw) }

// Clone returns a copy that does not refer to the bytes given to Parse.
func (r *Record) Clone() Record { return Record{bytes.Clone(r.raw), r.row} }

// Identities calls yield for each identity whose TASK_ID is needed to describe the
// event or, of KindExec, to compute the TASK_ID that the exec gives; some several times.
// It ends when yield returns false.
func (r *Record) Identities(yield func(identity uint64) bool) {
	if !yield(r.ParentIdentity()) || r.Kind() != KindExec && !yield(r.Identity()) {
		return
	}
	for w := (cells{rest: r.raw[sizeRecord:]}); len(w.rest) > 0; {
		kind, payload := w.peek(), w.next()
		at := -1
		switch kind {
		case cellTask:
			at = 0
		case cellPath:
			if native.Uint32(payload[offPathFlags:])&pathCreated != 0 {
				at = offPathOwner
			}
		case cellSock:
			at = offSockOwner
		case cellIPC:
			at = offIPCOwner
		}
		if at >= 0 && !yield(native.Uint64(payload[at:])) {
			return
		}
	}
}

func untilNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}
