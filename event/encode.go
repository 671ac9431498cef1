// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto"
	_ "crypto/sha256" // the digest functions a namespace can have
	_ "crypto/sha512"
	"fmt"
	"hash"
	"math"
)

// Dialect is a form of the JSON, and of what is hashed (NewMapper).
type Dialect uint8

const (
	// Current is V3 with what later versions of TSEM and their tools read: tnum,
	// context and number in `event`, the type of a path; and with marks of its own
	// where a digest or a text is not what it seems.
	Current Dialect = iota
	// V3 is byte for byte what TSEM v3 writes, for names of printable text.
	V3
	// Coefficients is Current with the coefficient of each event that has one, in `event`.
	Coefficients
)

// ParseDialect returns the dialect of a name: "current" or "v3". Coefficients has no name:
// it is Current and a flag.
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
	zeros [64]byte // as many as TSEM has room for in a TASK_ID (HASH_MAX_DIGESTSIZE of the kernel)
)

// Encoder turns records into JSON. It belongs to one goroutine; make it with
// NewEncoder.
type Encoder struct {
	dialect Dialect
	hash    crypto.Hash
	ids     TaskIDs
	mapper  *Mapper // nil: no coefficients are written
	limit   int     // bytes of a line; 0: none

	// Of the record at hand.
	record Record
	cells  cells
	digest Digest // of its file
	buffer []byte // of a TASK_ID, or the digest of an address
	room   int    // bytes of each text that are written
	cut    int    // texts that are not complete, in the record or because of the room
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
	e := &Encoder{dialect: dialect, hash: h, ids: ids, hasher: h.New(), room: math.MaxInt}
	if dialect == Coefficients {
		e.mapper = NewMapper(dialect, h, ids)
	}
	return e
}

// Limit makes an encoder that has not been used yet write no line of more bytes than that, line feed
// included: as much is left out at the front of long texts as it takes, and they are marked as cut. All
// else needs less than 3600 bytes.
func (e *Encoder) Limit(bytes int) { e.limit = bytes }

// Append appends a record as one line of JSON, line feed included, and returns the
// extended buffer. d is the digest of the file that the record is about, if it is about
// one. It does no I/O and never waits, and allocates nothing if there is room. The error
// is ErrKind for KindExec, which is not an event, and ErrCut in the dialect V3, which
// could not tell that a text is not complete; nothing is appended then.
func (e *Encoder) Append(dst []byte, r *Record, d Digest) ([]byte, error) {
	e.record, e.digest, e.room, e.cut = *r, d, math.MaxInt, int(r.Cut())
	line, err := e.line(dst)
	if e.limit == 0 {
		return line, err
	}
	for room := e.limit; err == nil && len(line)-len(dst) > e.limit && room > 0; {
		room /= 2
		e.room = room
		e.cut = int(r.Cut()) + e.shortened()
		line, err = e.line(dst)
	}
	return line, err
}

// shortened returns how many texts are too long for the room and were complete.
func (e *Encoder) shortened() (texts int) {
	for c := (cells{rest: e.record.raw[sizeRecord:]}); len(c.rest) > 0; {
		kind, flags := c.peek(), native.Uint16(c.rest[2:])
		fixed := 0
		switch kind {
		case cellPath:
			fixed = sizePath
		case cellText, cellBytes:
		default:
			c.next()
			continue
		}
		if len(c.next())-fixed > e.room && flags&cellCut == 0 {
			texts++
		}
	}
	return texts
}

// end returns what of a text has room: its end, which of a path tells most.
func (e *Encoder) end(text []byte) []byte { return text[max(0, len(text)-e.room):] }

// line appends the line of the record at hand.
func (e *Encoder) line(dst []byte) ([]byte, error) {
	r := &e.record
	alone := e.dialect == V3 && r.Untrusted() // then no text but the name of the process is written
	if e.cut > 0 && e.dialect == V3 && !alone {
		return dst, fmt.Errorf("%w: event %d, %s; the dialect current marks it", ErrCut, r.Number(), r.row.name)
	}
	e.cells = cells{rest: r.raw[sizeRecord:]}
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
	dst = e.members(dst, r.row.members)
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
	if e.dialect != V3 {
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
	if e.cut > 0 {
		dst = appendUint(dst, `, "cut": "`, uint64(e.cut))
	}
	if e.mapper != nil {
		// Without one the member is missing: nobody is to take what is not known for a point.
		if p, err := e.mapper.point(r, e.digest); err == nil {
			dst = append(dst, `, "coefficient": "`...)
			dst = appendHex(dst, p.Coefficient)
			dst = append(dst, '"')
		}
	}
	return dst
}

// members appends those of the object of an event, or of an object in it.
func (e *Encoder) members(dst []byte, members []member) []byte {
	first := true
	for i := range members {
		m := &members[i]
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
