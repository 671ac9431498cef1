// SPDX-License-Identifier: Apache-2.0

package event

import "bytes"

// A layout appends what the value whose cells are next is in the CELL of an event.
//
// CELL, in capitals, is what TSEM calls these bytes, and their digest. The cells of a
// record are another thing. Sections 2.6 and 2.7 of docs/spec/semantics.md have all layouts.
type layout func(m *Mapper, b []byte) []byte

// The layouts of the shapes of the event table (table.go).

func (m *Mapper) u16(b []byte) []byte { return native.AppendUint16(b, uint16(m.cells.scalar())) }

func (m *Mapper) u32(b []byte) []byte { return appendU32(b, m.cells.u32()) }

func (m *Mapper) u64(b []byte) []byte { return native.AppendUint64(b, m.cells.scalar()) }

func (m *Mapper) taskID(b []byte) []byte { return m.id(b, m.cells.scalar()) }

// wideTaskID is a TASK_ID with the whole buffer that TSEM keeps it in.
func (m *Mapper) wideTaskID(b []byte) []byte { return m.wideID(b, m.cells.scalar()) }

func (m *Mapper) wideID(b []byte, identity uint64) []byte {
	return append(m.id(b, identity), zeros[m.hash.Size():]...)
}

func (m *Mapper) text(b []byte) []byte { return appendString(b, m.cells.next()) }

func (m *Mapper) bytes(b []byte) []byte { return append(b, m.cells.next()...) }

// appendCOE appends the context of execution, which is without the securebits.
func appendCOE(b []byte, c *Creds) []byte {
	b = appendU32(b, c.UID, c.EUID, c.SUID, c.GID, c.EGID, c.SGID, c.FSUID, c.FSGID)
	return native.AppendUint64(b, c.CapEff)
}

// credentials are ten fields. A test for errors that is reversed makes TSEM v3 end after
// the first.
func (m *Mapper) credentials(b []byte) []byte {
	c := credsOf(m.cells.next())
	if m.dialect == V3 {
		return appendU32(b, c.UID)
	}
	return appendU32(appendCOE(b, &c), c.Securebits)
}

// tmpfs gives every mount another UUID, which therefore identifies nothing.
const tmpfsMagic = 0x01021994

func (m *Mapper) inode(b []byte) []byte {
	i := inodeOf(m.cells.next())
	b = appendU32(b, i.UID, i.GID, i.Mode, i.SMagic)
	b = append(b, i.SID[:]...)
	if i.SMagic == tmpfsMagic {
		i.UUID = [16]byte{}
	}
	return append(b, i.UUID[:]...)
}

// path leaves the last component of a created file out: the names of temporary files are
// random. In a directory entry TSEM does so only if the file was created in the namespace
// of the task. Whether it was, or in another namespace, is not in a record, and so the
// first is taken for granted.
func (m *Mapper) path(b []byte) []byte {
	p := pathOf(m.cells.next())
	if p.HasDevice {
		b = appendU32(b, p.Major, p.Minor)
	}
	if !p.Created {
		return appendString(b, p.Text)
	}
	slash := bytes.LastIndexByte(p.Text, '/')
	if slash < 0 {
		m.err = ErrNoDirectory
	}
	b = appendString(b, p.Text[:slash+1])
	b = native.AppendUint64(b, p.Instance)
	return m.id(b, p.Owner)
}

func (m *Mapper) dentry(b []byte) []byte {
	if m.cells.peek() == cellInode {
		b = m.inode(b)
	} else {
		m.cells.next()
	}
	return m.path(b)
}

func (m *Mapper) file(b []byte) []byte {
	b = appendU32(b, native.Uint32(m.cells.next()[offFileFFlags:]))
	b = m.inode(b)
	b = m.path(b)
	return append(b, m.digest...)
}

func (m *Mapper) sock(b []byte) []byte {
	s := m.cells.next()
	b = appendU32(b, native.Uint32(s[offSockFamily:]), native.Uint32(s[offSockType:]), native.Uint32(s[offSockProtocol:]))
	return m.owner(b, s)
}

func (m *Mapper) owner(b, sock []byte) []byte {
	return m.wideID(b, native.Uint64(sock[offSockOwner:]))
}

func (m *Mapper) ipc(b []byte) []byte {
	i := m.cells.next()
	b = appendU32(b, native.Uint32(i[offIPCUID:]), native.Uint32(i[offIPCGID:]), native.Uint32(i[offIPCCUID:]), native.Uint32(i[offIPCCGID:]))
	b = native.AppendUint16(b, uint16(native.Uint32(i[offIPCMode:])))
	return m.id(b, native.Uint64(i[offIPCOwner:]))
}

// address is that of connect or bind. TSEM v3 takes the length of a name as that of a
// string with its NUL, and so loses the last byte of a name without one.
func (m *Mapper) address(b []byte) []byte {
	family, given, padded := m.cells.addr()
	data := given[min(2, len(given)):]
	switch family {
	case familyInet, familyInet6:
		b = appendInet(b, family, &padded)
		if family == familyInet6 {
			b = append(b, padded[4:8]...)   // flow
			b = append(b, padded[24:28]...) // scope
		}
		return b
	case familyUnix:
		name := untilNUL(data)
		if m.dialect == V3 && len(name) == len(data) {
			name = name[:max(len(name), 1)-1]
		}
		return append(b, name...)
	default:
		return m.sum(b, data)
	}
}

// localAddress is that of accept, of which less is hashed. The port is in the order of the host
// in the record, as TSEM hashes it.
func (m *Mapper) localAddress(b []byte) []byte {
	family, given, padded := m.cells.addr()
	data := given[min(2, len(given)):]
	switch family {
	case familyInet, familyInet6:
		return appendInet(b, family, &padded)
	case familyUnix:
		return append(b, untilNUL(data)...)
	default:
		return m.sum(b, data)
	}
}

// messageAddress is that of sendmsg and recvmsg, of which as little is hashed, and of other families nothing.
func (m *Mapper) messageAddress(b []byte) []byte {
	family, _, padded := m.cells.addr()
	return appendInet(b, family, &padded)
}

// appendInet appends port and address as the caller gave them, in the order of the network.
func appendInet(b []byte, family uint32, a *[addressMax]byte) []byte {
	switch family {
	case familyInet:
		return append(b, a[2:8]...)
	case familyInet6:
		b = append(b, a[2:4]...)
		return append(b, a[8:24]...)
	}
	return b
}

// nsidSet is hashed by the nsid, which the cell behind it has, if there is one.
func (m *Mapper) nsidSet(b []byte) []byte {
	if m.cells.scalar() == 0 {
		return b
	}
	behind := m.cells
	return appendU32(b, behind.u32())
}

// hashed is of what the member before it is hashed with.
func (m *Mapper) hashed(b []byte) []byte {
	m.cells.next()
	return b
}

// prctlGetPdeathsig is an option whose second argument is an address, which is hashed as 0;
// those of PR_SET_NAME and PR_GET_NAME are 0 in the record already.
const prctlGetPdeathsig = 2

// prctlOption is hashed with the second argument, which the cell behind it has.
func (m *Mapper) prctlOption(b []byte) []byte {
	option := m.cells.u32()
	b = appendU32(b, option)
	behind := m.cells
	arg2 := behind.scalar()
	if option == prctlGetPdeathsig {
		arg2 = 0
	}
	return native.AppendUint64(b, arg2)
}

// v3Layouts are what TSEM v3 hashes of some events instead of the layouts of their members
// (section 7.2).
var v3Layouts = map[Hook]layout{
	13: (*Mapper).prctlV3,
	15: (*Mapper).mmapV3,
	56: noneV3("msg_queue_msgsnd"),
	60: (*Mapper).keyPermissionV3,
	61: (*Mapper).netlinkV3,
	78: (*Mapper).attachQueueV3,
	79: noneV3("tun_dev_attach"),
	81: (*Mapper).u32, // another reversed test of three: the first number is all that is hashed
	82: (*Mapper).u32,
	83: (*Mapper).u32,
}

// nameAlone is what an event without parameters is hashed as: its name, and the digest of nothing.
func (m *Mapper) nameAlone(b []byte, name string) []byte { return m.sum(append(b, name...), nil) }

// prctlV3: the third argument is left out.
func (m *Mapper) prctlV3(b []byte) []byte {
	b = m.prctlOption(b)
	m.cells.next()
	m.cells.next()
	return m.u64(m.u64(b))
}

// mmapV3: the arguments of the hook are named wrong. What goes in as the protection is the
// requested one, and the protection goes in as the flags. The requested one is not in a
// record, and so the protection is taken for it: they differ where the personality of the
// task makes memory executable that is readable (READ_IMPLIES_EXEC).
func (m *Mapper) mmapV3(b []byte) []byte {
	if m.cells.peek() == cellFile {
		b = m.file(b)
	} else {
		m.cells.next()
	}
	prot := m.cells.u32()
	return appendU32(b, prot, prot)
}

// netlinkV3: the socket is looked for in the wrong member of a union, 8 bytes further on,
// and the flags stand for the nsid. Whether the socket is one of the kernel (kern) is not in
// a record; it is of a process, which is what makes the event.
func (m *Mapper) netlinkV3(b []byte) []byte {
	s := m.cells.next()
	uid, gid, portid, group, flags := m.cells.u32(), m.cells.u32(), m.cells.u32(), m.cells.u32(), m.cells.u32()
	b = appendU32(b, native.Uint32(s[offSockProtocol:]), 0)
	at := len(b)
	b = m.owner(b, s)
	b = append(b[:at+4], b[at+8:]...)
	b = appendU32(b, uid, gid, uid, gid, portid, group, flags)
	if m.cells.scalar() != 0 {
		b = appendU32(b, flags)
	}
	return b
}

// noneV3: the event has no case, and so is hashed as if it had no parameters.
func noneV3(name string) layout {
	return func(m *Mapper, b []byte) []byte { return m.nameAlone(b, name) }
}

// keyPermissionV3: the ids of the owner are cut to 16 bits.
func (m *Mapper) keyPermissionV3(b []byte) []byte {
	b = m.u16(m.u16(m.u32(b)))
	return m.u32(m.credentials(m.u64(b)))
}

// attachQueueV3: the cases of two events are exchanged, and so a socket is hashed that there is not.
func (m *Mapper) attachQueueV3(b []byte) []byte { return append(b, make([]byte, 3*4+len(zeros))...) }

func appendString(b, s []byte) []byte {
	return append(appendU32(b, uint32(len(s))), s...)
}

func appendU32(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = native.AppendUint32(b, v)
	}
	return b
}
