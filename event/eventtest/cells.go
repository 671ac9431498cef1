// SPDX-License-Identifier: Apache-2.0

package eventtest

// InodeCell is a struct tsem_inode.
type InodeCell struct {
	UID, GID, Mode, SMagic uint32
	DevMajor, DevMinor     uint32
	Ino, Size              uint64
	CtimeSec, CtimeNsec    uint64
	SID                    string // at most 31 bytes
	UUID                   [16]byte
}

// Flags of a PathCell (enum tsem_path_flags in bpf/record.h).
const (
	PathDev      = 1
	PathCreated  = 2
	PathNameOnly = 4
)

// PathCell is a struct tsem_path and the text behind it.
type PathCell struct {
	DevMajor, DevMinor uint32
	Owner, Instance    uint64
	Flags, Type        uint32
	Text               string
	Cut                bool // the text is not complete
}

// Scalar appends a number; a signed one is to be sign-extended.
func (b *Builder) Scalar(v uint64) *Builder { return b.Cell(Scalar, v) }

// Task appends the identity of a task.
func (b *Builder) Task(identity uint64) *Builder { return b.Cell(Task, identity) }

// Text appends a text.
func (b *Builder) Text(s string) *Builder { return b.Cell(Text, []byte(s)) }

// Bytes appends a byte string.
func (b *Builder) Bytes(p []byte) *Builder { return b.Cell(Bytes, p) }

// Absent appends a cell that does not apply.
func (b *Builder) Absent() *Builder { return b.Cell(Absent) }

// Inode appends an inode.
func (b *Builder) Inode(i InodeCell) *Builder {
	var id [32]byte
	copy(id[:31], i.SID)
	return b.Cell(Inode, i.UID, i.GID, i.Mode, i.SMagic, i.DevMajor, i.DevMinor,
		i.Ino, i.Size, i.CtimeSec, i.CtimeNsec, id[:], i.UUID[:])
}

// Path appends a path.
func (b *Builder) Path(p PathCell) *Builder {
	add := b.Cell
	if p.Cut {
		add = b.Cut
	}
	return add(Path, p.DevMajor, p.DevMinor, p.Owner, p.Instance, p.Flags, p.Type, []byte(p.Text))
}

// File appends the first cell of a file, state being its enum tsem_digest_state; the
// caller adds the inode and the path.
func (b *Builder) File(flags, state uint32, digest [32]byte) *Builder {
	return b.Cell(File, flags, state, digest[:])
}

// Creds appends credentials; ids as in Header.Creds.
func (b *Builder) Creds(ids [8]uint32, capEff uint64, securebits uint32) *Builder {
	var payload []any
	for _, id := range ids {
		payload = append(payload, id)
	}
	return b.Cell(Creds, append(payload, capEff, securebits, uint32(0))...)
}

// Sock appends a socket.
func (b *Builder) Sock(family, kind, protocol uint32, owner uint64) *Builder {
	return b.Cell(Sock, family, kind, protocol, uint32(0), owner)
}

// IPC appends an IPC permission.
func (b *Builder) IPC(uid, gid, cuid, cgid, mode uint32, owner uint64) *Builder {
	return b.Cell(IPC, uid, gid, cuid, cgid, mode, uint32(0), owner)
}

// Addr appends an address as a caller gave it, to a socket of the given family.
func (b *Builder) Addr(family uint32, address []byte) *Builder {
	return b.Cell(Addr, family, uint32(len(address)), address)
}
