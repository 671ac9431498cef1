// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // the digest functions a namespace can have
	_ "crypto/sha512"
	b64 "encoding/base64"
	"fmt"
	"hash"
	"slices"
	"strconv"
)

// Dialect is a form of the JSON.
type Dialect uint8

const (
	// Current is V3 with what later versions of TSEM and their tools read: tnum,
	// context and number in `event`, the type of a path; and with marks of its own
	// where a digest or a text is not what it seems.
	Current Dialect = iota
	// V3 is byte for byte what TSEM v3 writes, for names of printable text.
	V3
)

// ParseDialect returns the dialect of a name: "current" or "v3".
func ParseDialect(name string) (Dialect, error) {
	switch name {
	case "current":
		return Current, nil
	case "v3":
		return V3, nil
	}
	return 0, fmt.Errorf("dialect %q: one of current, v3", name)
}

// ParseDigest returns the digest function of a name, which is that of the kernel's
// crypto API: "sha256", "sha384" or "sha512".
func ParseDigest(name string) (crypto.Hash, error) {
	switch name {
	case "sha256":
		return crypto.SHA256, nil
	case "sha384":
		return crypto.SHA384, nil
	case "sha512":
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("digest %q: one of sha256, sha384, sha512", name)
}

// DigestState says how far the digest of a file can be relied on.
type DigestState uint8

const (
	// DigestUnavailable: the file could not be found or read, or not in time.
	DigestUnavailable DigestState = iota
	// DigestChanged: the file was changed before it could be read, or nobody would
	// have noticed: it was mapped shared and writable.
	DigestChanged
	// DigestUnsettled: the file was read as the record describes it, but it had been
	// changed so shortly before the event that a later change would not show.
	DigestUnsettled
	// DigestExact: it is that of the content at the time of the event.
	DigestExact
)

var digestStateNames = [...]string{
	DigestUnavailable: "unavailable", DigestChanged: "changed", DigestUnsettled: "unsettled", DigestExact: "exact",
}

// String returns the state in lower case, as records have it: "exact".
func (s DigestState) String() string { return digestStateNames[s] }

// Digest is the digest of the content of a file, and what it is worth. Without
// DigestExact the bytes do not matter. They are not to be changed.
type Digest struct {
	Sum   []byte
	State DigestState
}

// TaskIDs knows the TASK_IDs that records only have identities of. It keeps nothing of
// what it is given, and answers at once: encoding never waits.
type TaskIDs interface {
	// TaskID appends the TASK_ID of an identity to dst, as many bytes as a digest has.
	// It is the same each time, so that an Encoder need not ask again for each record;
	// except that all f, which stands for one that is not known, may become another.
	TaskID(dst []byte, identity uint64) []byte
}

// Digest returns the digest of the file of a record as far as the record itself tells:
// by rule, because IMA measured it in the hook, or because it cannot be known. Otherwise
// it returns false: somebody has to read the file. A record without a file needs none.
func (r *Record) Digest(h crypto.Hash) (Digest, bool) {
	if !r.HasFile() {
		return Digest{}, true
	}
	f := r.raw[sizeRecord+sizeCell:]
	switch source := digestSource(native.Uint32(f[offFileDigestState:])); {
	case source == digestEmpty:
		return Digest{emptyDigests[h], DigestExact}, true
	case source == digestZero:
		return Digest{zeros[:h.Size()], DigestExact}, true
	case source == digestVolatile:
		return Digest{State: DigestChanged}, true
	case source == digestIMA && h == crypto.SHA256:
		return Digest{f[offFileDigest : offFileDigest+32], DigestExact}, true
	}
	return Digest{}, false
}

var (
	emptyDigests = map[crypto.Hash][]byte{
		crypto.SHA256: crypto.SHA256.New().Sum(nil),
		crypto.SHA384: crypto.SHA384.New().Sum(nil),
		crypto.SHA512: crypto.SHA512.New().Sum(nil),
	}
	zeros [64]byte
)

// Encoder turns records into JSON. It belongs to one goroutine; make it with
// NewEncoder.
type Encoder struct {
	dialect Dialect
	hash    crypto.Hash
	ids     TaskIDs

	// Of the record at hand.
	record Record
	cells  cells
	digest Digest // of its file
	buffer []byte // of a TASK_ID, or the digest of an address
	hasher hash.Hash

	// TASK_IDs that were written lately, by their identity: two stand in each
	// record, and they are mostly those of the last one.
	known [16]struct {
		identity uint64
		digits   []byte
		final    bool // not when it is unknown: it may be learned
	}
}

// NewEncoder returns an encoder for namespaces with the given digest function.
func NewEncoder(dialect Dialect, h crypto.Hash, ids TaskIDs) *Encoder {
	return &Encoder{dialect: dialect, hash: h, ids: ids, hasher: h.New()}
}

// Append appends a record as one line of JSON, line feed included, and returns the
// extended buffer. d is the digest of the file that the record is about, if it is about
// one. It does no I/O and never waits, and allocates nothing if there is room. The error
// is ErrKind for KindExec, which is not an event, and ErrCut in the dialect V3, which
// could not tell that a text is not complete; nothing is appended then.
func (e *Encoder) Append(dst []byte, r *Record, d Digest) ([]byte, error) {
	alone := e.dialect == V3 && r.Untrusted() // then no text but the name of the process is written
	if r.Cut() > 0 && e.dialect == V3 && !alone {
		return dst, fmt.Errorf("%w: event %d, %s; the dialect current marks it", ErrCut, r.Number(), r.row.name)
	}
	e.record, e.cells, e.digest = *r, cells{rest: r.raw[sizeRecord:]}, d
	switch r.Kind() {
	case KindEvent:
		dst = append(dst, `{"export": {"type": "event"}`...)
	case KindAsync:
		dst = append(dst, `{"export": {"type": "async_event"}`...)
	case KindLog:
		dst = e.log(dst, "LOG")
	case KindDeny:
		dst = e.log(dst, "DENY")
	default:
		return dst, fmt.Errorf("%w: %d is not written", ErrKind, r.Kind())
	}
	if alone {
		return append(dst, "}\n"...), nil
	}
	dst = append(dst, `, "event": {`...)
	dst = e.event(dst)
	dst = append(dst, `}, "COE": {`...)
	c := r.Creds()
	dst = appendCreds(dst, &c)
	dst = append(dst, `}, "`...)
	dst = append(dst, r.row.name...)
	dst = append(dst, `": {`...)
	dst = e.members(dst)
	return append(dst, "}}\n"...), nil
}

// log appends what a record of an untrusted task begins with. In V3 that is all of it.
func (e *Encoder) log(dst []byte, action string) []byte {
	dst = append(dst, `{"export": {"type": "log"}, "log": {"process": "`...)
	dst = appendText(dst, e.record.Comm())
	dst = append(dst, `", "event": "`...)
	dst = append(dst, e.record.row.name...)
	dst = append(dst, `", "action": "`...)
	dst = append(dst, action...)
	return append(dst, `"}`...)
}

// event appends the members of `event` (sections 3.1 and, for the later ones, 7).
func (e *Encoder) event(dst []byte) []byte {
	r := &e.record
	if pid := r.TID(); pid != 0 {
		dst = appendUint(dst, `"pid": "`, uint64(pid))
		dst = append(dst, `, `...)
	}
	if e.dialect == Current {
		dst = appendUint(dst, `"tnum": "`, r.Tnum())
		dst = appendUint(dst, `, "context": "`, r.Namespace())
		dst = appendUint(dst, `, "number": "`, r.Number())
		dst = append(dst, `, `...)
	}
	dst = append(dst, `"process": "`...)
	dst = appendText(dst, r.Comm())
	dst = append(dst, `", "type": "`...)
	dst = append(dst, r.row.name...)
	dst = appendUint(dst, `", "ttd": "`, r.TTD())
	dst = appendUint(dst, `, "p_ttd": "`, r.ParentTTD())
	dst = e.id(dst, `, "task_id": `, r.Identity())
	dst = e.id(dst, `, "p_task_id": `, r.ParentIdentity())
	dst = appendUint(dst, `, "ts": "`, r.Time())
	if cut := r.Cut(); cut > 0 {
		dst = appendUint(dst, `, "cut": "`, uint64(cut))
	}
	return dst
}

// members walks the row of the hook.
func (e *Encoder) members(dst []byte) []byte {
	first := true
	for i := range e.record.row.members {
		m := &e.record.row.members[i]
		if m.shape.optional && e.cells.peek() == cellAbsent {
			e.cells.next()
			continue
		}
		if !first {
			dst = append(dst, `, `...)
		}
		first = false
		if m.shape == spacedU32 && e.dialect == V3 {
			dst = append(dst, ' ') // quirk Q3
		}
		dst = append(dst, '"')
		dst = append(dst, m.name...)
		dst = append(dst, `": `...)
		dst = m.shape.print(e, dst)
	}
	return dst
}

func (e *Encoder) scalar() uint64 { return native.Uint64(e.cells.next()) }

func (e *Encoder) u32(dst []byte) []byte {
	return appendUint(dst, `"`, uint64(uint32(e.scalar())))
}

func (e *Encoder) s32(dst []byte) []byte {
	return appendInt(dst, `"`, int64(int32(e.scalar())))
}

func (e *Encoder) u64(dst []byte) []byte { return appendUint(dst, `"`, e.scalar()) }

func (e *Encoder) octal(dst []byte) []byte {
	return appendOctal(dst, `"0`, uint32(e.scalar()))
}

func (e *Encoder) mapType(dst []byte) []byte {
	dst = appendInt(dst, `{"map_type": "`, int64(int32(e.scalar())))
	return append(dst, '}')
}

func (e *Encoder) taskID(dst []byte) []byte { return e.id(dst, ``, e.scalar()) }

func (e *Encoder) text(dst []byte) []byte {
	dst = append(dst, '"')
	dst = appendText(dst, e.cells.next())
	return append(dst, '"')
}

func (e *Encoder) base64(dst []byte) []byte {
	dst = append(dst, '"')
	dst = b64.StdEncoding.AppendEncode(dst, e.cells.next())
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
	if e.dialect == Current && p.Type > PathInFilesystem && int(p.Type) < len(pathTypeNames) {
		dst = append(dst, `"type": "`...)
		dst = append(dst, pathTypeNames[p.Type]...)
		dst = append(dst, `", `...)
	}
	dst = append(dst, `"pathname": "`...)
	dst = appendText(dst, p.Text)
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
	if state != DigestExact && e.dialect == Current {
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

// address appends an ADDR of connect or bind.
func (e *Encoder) address(dst []byte) []byte { return e.addr(dst, true) }

// messageAddress appends an ADDR of sendmsg, which knows less (section 4).
func (e *Encoder) messageAddress(dst []byte) []byte { return e.addr(dst, false) }

func (e *Encoder) addr(dst []byte, full bool) []byte {
	a := e.cells.next()
	family, given := native.Uint32(a[offAddrFamily:]), a[sizeAddr:]
	// A caller may give less than the family needs; the kernel then sees zeros.
	var b [addressMax]byte
	copy(b[:], given)
	port := uint64(native.Uint16(b[2:]))
	switch {
	case family == familyInet:
		dst = appendUint(dst, `{"af_inet": {"port": "`, port)
		key := `, "address": "`
		if !full && e.dialect == V3 {
			key = `, "addrress": "` // quirk Q4
		}
		dst = appendUint(dst, key, uint64(native.Uint32(b[4:])))
		return append(dst, `}}`...)
	case family == familyInet6:
		dst = appendUint(dst, `{"af_inet6": {"port": "`, port)
		if full {
			dst = appendUint(dst, `, "flow": "`, uint64(native.Uint32(b[4:])))
			dst = appendUint(dst, `, "scope": "`, uint64(native.Uint32(b[24:])))
		}
		dst = append(dst, `, "address": "`...)
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
