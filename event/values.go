// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	b64 "encoding/base64"
	"slices"
	"strconv"
)

// How the shapes of the event table (table.go) are written: each takes the cells that are next.

func (e *Encoder) u32(dst []byte) []byte {
	return appendUint(dst, `"`, uint64(e.cells.u32()))
}

func (e *Encoder) s32(dst []byte) []byte {
	return appendInt(dst, `"`, int64(int32(e.cells.u32())))
}

func (e *Encoder) s64(dst []byte) []byte {
	return appendInt(dst, `"`, int64(e.cells.scalar()))
}

func (e *Encoder) u64(dst []byte) []byte { return appendUint(dst, `"`, e.cells.scalar()) }

func (e *Encoder) hex64(dst []byte) []byte {
	dst = append(dst, `"0x`...)
	dst = strconv.AppendUint(dst, e.cells.scalar(), 16)
	return append(dst, '"')
}

func (e *Encoder) octal(dst []byte) []byte {
	return appendOctal(dst, `"0`, e.cells.u32())
}

// device is major and minor number as the kernel has them in one.
func (e *Encoder) device(dst []byte) []byte {
	dev := e.cells.u32()
	dst = appendUint(dst, `{"major": "`, uint64(dev>>20))
	dst = appendUint(dst, `, "minor": "`, uint64(dev&0xfffff))
	return append(dst, '}')
}

func (e *Encoder) taskID(dst []byte) []byte { return e.id(dst, ``, e.cells.scalar()) }

func (e *Encoder) text(dst []byte) []byte {
	dst = append(dst, '"')
	dst = appendText(dst, e.end(e.cells.next()))
	return append(dst, '"')
}

func (e *Encoder) base64(dst []byte) []byte {
	dst = append(dst, '"')
	dst = b64.StdEncoding.AppendEncode(dst, e.end(e.cells.next()))
	return append(dst, '"')
}

func (e *Encoder) credentials(dst []byte) []byte {
	c := credsOf(e.cells.next())
	dst = append(dst, '{')
	dst = appendCreds(dst, &c)
	dst = appendUint(dst, `, "securebits": "`, uint64(c.Securebits))
	return append(dst, '}')
}

func (e *Encoder) inode(dst []byte) []byte {
	i := e.cells.next()
	dst = appendUint(dst, `{"uid": "`, uint64(native.Uint32(i[offInodeUID:])))
	dst = appendUint(dst, `, "gid": "`, uint64(native.Uint32(i[offInodeGID:])))
	dst = appendOctal(dst, `, "mode": "0`, native.Uint32(i[offInodeMode:]))
	dst = append(dst, `, "s_magic": "0x`...)
	dst = strconv.AppendUint(dst, uint64(native.Uint32(i[offInodeSMagic:])), 16)
	dst = append(dst, `", "s_id": "`...)
	dst = appendText(dst, untilNUL(i[offInodeSID:offInodeSID+32]))
	dst = append(dst, `", "s_uuid": "`...)
	dst = appendHex(dst, i[offInodeSUUID:offInodeSUUID+16])
	return append(dst, `"}`...)
}

func (e *Encoder) path(dst []byte) []byte {
	p := pathOf(e.cells.next())
	dst = append(dst, '{')
	if p.HasDevice {
		dst = appendUint(dst, `"dev": {"major": "`, uint64(p.Major))
		dst = appendUint(dst, `, "minor": "`, uint64(p.Minor))
		dst = append(dst, `}, `...)
	}
	// Without a directory a creation has no place, and clients that map it fail
	// (section 7 of the specification).
	if p.Created && bytes.IndexByte(p.Text, '/') >= 0 {
		dst = e.id(dst, `"owner": `, p.Owner)
		dst = appendUint(dst, `, "instance": "`, p.Instance)
		dst = append(dst, `, `...)
	}
	if e.dialect != V3 && p.Type > PathInFilesystem && int(p.Type) < len(pathTypeNames) {
		dst = append(dst, `"type": "`...)
		dst = append(dst, pathTypeNames[p.Type]...)
		dst = append(dst, `", `...)
	}
	dst = append(dst, `"pathname": "`...)
	dst = appendText(dst, e.end(p.Text))
	return append(dst, `"}`...)
}

func (e *Encoder) dentry(dst []byte) []byte {
	dst = append(dst, '{')
	if e.cells.peek() == cellInode {
		dst = append(dst, `"inode": `...)
		dst = e.inode(dst)
		dst = append(dst, `, `...)
	} else {
		e.cells.next()
	}
	dst = append(dst, `"path": `...)
	dst = e.path(dst)
	return append(dst, '}')
}

func (e *Encoder) file(dst []byte) []byte {
	f := e.cells.next()
	dst = appendUint(dst, `{"flags": "`, uint64(native.Uint32(f[offFileFFlags:])))
	dst = append(dst, `, "inode": `...)
	dst = e.inode(dst)
	dst = append(dst, `, "path": `...)
	dst = e.path(dst)
	state := e.digest.State
	dst = append(dst, `, "digest": "`...)
	if state == DigestExact {
		dst = appendHex(dst, e.digest.Sum)
	} else {
		for range 2 * e.hash.Size() {
			dst = append(dst, 'f')
		}
	}
	dst = append(dst, '"')
	if state != DigestExact && e.dialect != V3 {
		dst = append(dst, `, "digest_state": "`...)
		dst = append(dst, state.String()...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

func (e *Encoder) sock(dst []byte) []byte {
	s := e.cells.next()
	dst = appendInt(dst, `{"family": "`, int64(int32(native.Uint32(s[offSockFamily:]))))
	dst = appendInt(dst, `, "type": "`, int64(int32(native.Uint32(s[offSockType:]))))
	dst = appendInt(dst, `, "protocol": "`, int64(int32(native.Uint32(s[offSockProtocol:]))))
	dst = e.id(dst, `, "owner": `, native.Uint64(s[offSockOwner:]))
	return append(dst, '}')
}

func (e *Encoder) ipc(dst []byte) []byte {
	i := e.cells.next()
	dst = appendUint(dst, `{"uid": "`, uint64(native.Uint32(i[offIPCUID:])))
	dst = appendUint(dst, `, "gid": "`, uint64(native.Uint32(i[offIPCGID:])))
	dst = appendUint(dst, `, "cuid": "`, uint64(native.Uint32(i[offIPCCUID:])))
	dst = appendUint(dst, `, "cgid": "`, uint64(native.Uint32(i[offIPCCGID:])))
	dst = appendOctal(dst, `, "mode": "0`, native.Uint32(i[offIPCMode:]))
	dst = e.id(dst, `, "owner": `, native.Uint64(i[offIPCOwner:]))
	return append(dst, '}')
}

// Address families (include/linux/socket.h).
const (
	familyUnix  = 1
	familyInet  = 2
	familyInet6 = 10
)

// The member of an ADDR that has the address.
const addressKey = `, "address": "`

// address appends an ADDR of connect or bind.
func (e *Encoder) address(dst []byte) []byte { return e.addr(dst, true, addressKey) }

// localAddress appends an ADDR of accept, which knows less (section 4).
func (e *Encoder) localAddress(dst []byte) []byte { return e.addr(dst, false, addressKey) }

// messageAddress appends an ADDR of sendmsg or recvmsg, which knows as little.
func (e *Encoder) messageAddress(dst []byte) []byte {
	if e.dialect == V3 {
		return e.addr(dst, false, `, "addrress": "`) // quirk Q4
	}
	return e.addr(dst, false, addressKey)
}

// addr appends an ADDR, full if with flow and scope; ipv4 is the key of an address of IPv4.
func (e *Encoder) addr(dst []byte, full bool, ipv4 string) []byte {
	family, given, b := e.cells.addr()
	port := uint64(native.Uint16(b[2:]))
	switch {
	case family == familyInet:
		dst = appendUint(dst, `{"af_inet": {"port": "`, port)
		dst = appendUint(dst, ipv4, uint64(native.Uint32(b[4:])))
		return append(dst, `}}`...)
	case family == familyInet6:
		dst = appendUint(dst, `{"af_inet6": {"port": "`, port)
		if full {
			dst = appendUint(dst, `, "flow": "`, uint64(native.Uint32(b[4:])))
			dst = appendUint(dst, `, "scope": "`, uint64(native.Uint32(b[24:])))
		}
		dst = append(dst, addressKey...)
		dst = appendHex(dst, b[8:24])
	case family == familyUnix:
		// Up to the first zero byte: nothing of an abstract name (quirk Q10).
		dst = append(dst, `{"af_unix": {"address": "`...)
		dst = appendText(dst, untilNUL(given[min(2, len(given)):]))
	default:
		e.hasher.Reset()
		e.hasher.Write(given[min(2, len(given)):])
		e.buffer = e.hasher.Sum(e.buffer[:0])
		dst = append(dst, `{"af_other": {"address": "`...)
		dst = appendHex(dst, e.buffer)
	}
	return append(dst, `"}}`...)
}

// id appends a key and the TASK_ID of an identity.
func (e *Encoder) id(dst []byte, key string, identity uint64) []byte {
	dst = append(dst, key...)
	known := &e.known[identity%uint64(len(e.known))]
	if known.identity != identity || !known.final {
		e.buffer = e.ids.TaskID(e.buffer[:0], identity)
		known.identity, known.digits = identity, appendHex(known.digits[:0], e.buffer)
		known.final = !allOnes(e.buffer)
	}
	dst = append(dst, '"')
	dst = append(dst, known.digits...)
	return append(dst, '"')
}

func allOnes(b []byte) bool {
	for _, v := range b {
		if v != 0xff {
			return false
		}
	}
	return true
}

func appendCreds(dst []byte, c *Creds) []byte {
	dst = appendUint(dst, `"uid": "`, uint64(c.UID))
	dst = appendUint(dst, `, "euid": "`, uint64(c.EUID))
	dst = appendUint(dst, `, "suid": "`, uint64(c.SUID))
	dst = appendUint(dst, `, "gid": "`, uint64(c.GID))
	dst = appendUint(dst, `, "egid": "`, uint64(c.EGID))
	dst = appendUint(dst, `, "sgid": "`, uint64(c.SGID))
	dst = appendUint(dst, `, "fsuid": "`, uint64(c.FSUID))
	dst = appendUint(dst, `, "fsgid": "`, uint64(c.FSGID))
	dst = append(dst, `, "capeff": "0x`...)
	dst = strconv.AppendUint(dst, c.CapEff, 16)
	return append(dst, '"')
}

// appendUint appends a key, which ends with the opening quote of its value, the
// value, and the closing quote. So do the others.
func appendUint(dst []byte, key string, v uint64) []byte {
	dst = append(dst, key...)
	dst = strconv.AppendUint(dst, v, 10)
	return append(dst, '"')
}

func appendInt(dst []byte, key string, v int64) []byte {
	dst = append(dst, key...)
	dst = strconv.AppendInt(dst, v, 10)
	return append(dst, '"')
}

func appendOctal(dst []byte, key string, v uint32) []byte {
	dst = append(dst, key...)
	dst = strconv.AppendUint(dst, uint64(v), 8)
	return append(dst, '"')
}

// hexPairs are the two digits of each byte, as one integer of the host.
var hexPairs = func() (p [256]uint16) {
	for b := range p {
		p[b] = native.Uint16([]byte{hexDigits[b>>4], hexDigits[b&15]})
	}
	return p
}()

// appendHex appends the digits of bytes, two at a time: digests are a third of a
// record, and encoding/hex goes digit by digit (BenchmarkAppend shows it).
func appendHex(dst, b []byte) []byte {
	n := len(dst)
	dst = slices.Grow(dst, 2*len(b))[:n+2*len(b)]
	for i, v := range b {
		native.PutUint16(dst[n+2*i:], hexPairs[v])
	}
	return dst
}
