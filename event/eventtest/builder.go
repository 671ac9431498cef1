// SPDX-License-Identifier: Apache-2.0

// Package eventtest builds records for tests, byte by byte as bpf/record.h says and
// without a look at package event.
package eventtest

import "encoding/binary"

// Types of cells (enum tsem_cell_type in bpf/record.h).
const (
	Absent = iota
	Scalar
	Inode
	Path
	File
	Creds
	Sock
	IPC
	Addr
	Task
	Text
	Bytes
)

// Header is the header of a record (struct tsem_record); what is not here is zero.
type Header struct {
	Hook                    uint16
	Kind, Share             uint8
	Slot                    uint32
	Ticket                  uint64
	Number, Namespace, Time uint64
	TID, TGID               uint32
	Tnum, TTD, ParentTTD    uint64
	Identity, Parent        uint64
	Creds                   [8]uint32 // uid, euid, suid, gid, egid, sgid, fsuid, fsgid
	CapEff                  uint64
	Comm                    string
}

// Builder collects the cells of one record. The zero value is an empty record.
type Builder struct {
	Header

	cells      []byte
	count, cut uint8
}

var native = binary.NativeEndian

// Cell appends a cell whose payload is made of integers (uint16, uint32, uint64) and
// byte slices, in turn.
func (b *Builder) Cell(kind uint16, payload ...any) *Builder {
	return b.cell(kind, 0, payload)
}

// Cut appends a cell that is marked as not complete.
func (b *Builder) Cut(kind uint16, payload ...any) *Builder {
	b.cut++
	return b.cell(kind, 1, payload)
}

func (b *Builder) cell(kind, flags uint16, payload []any) *Builder {
	var p []byte
	for _, v := range payload {
		p = appendValue(p, v)
	}
	b.cells = native.AppendUint16(b.cells, kind)
	b.cells = native.AppendUint16(b.cells, flags)
	b.cells = native.AppendUint32(b.cells, uint32(len(p)))
	b.cells = append(b.cells, p...)
	for len(b.cells)%8 != 0 {
		b.cells = append(b.cells, 0)
	}
	b.count++
	return b
}

func appendValue(p []byte, v any) []byte {
	switch v := v.(type) {
	case uint16:
		return native.AppendUint16(p, v)
	case uint32:
		return native.AppendUint32(p, v)
	case uint64:
		return native.AppendUint64(p, v)
	case []byte:
		return append(p, v...)
	}
	panic("eventtest: neither integer nor bytes")
}

// Record returns the record.
func (b *Builder) Record() []byte {
	h := &b.Header
	var r []byte
	var comm [16]byte
	copy(comm[:15], h.Comm)
	for _, v := range []any{
		uint32(160 + len(b.cells)), uint16(3), h.Hook, []byte{h.Kind, b.count, b.cut, h.Share}, h.Slot, h.Ticket,
		h.Number, h.Namespace, h.Time, h.TID, h.TGID, h.Tnum, h.TTD, h.ParentTTD, h.Identity, h.Parent,
	} {
		r = appendValue(r, v)
	}
	for _, id := range h.Creds {
		r = appendValue(r, id)
	}
	for _, v := range []any{h.CapEff, uint32(0), uint32(0), comm[:]} {
		r = appendValue(r, v)
	}
	return append(r, b.cells...)
}
