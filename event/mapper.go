// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto"
	"errors"
	"fmt"
	"hash"
)

// Why an event has no coefficient, beside ErrCut, for errors.Is; the text names the event.
var (
	// ErrNoDigest: the content of its file is not known.
	ErrNoDigest = errors.New("no digest of the file")
	// ErrNoTaskID: a TASK_ID that is hashed is not known.
	ErrNoTaskID = errors.New("TASK_ID is not known")
	// ErrNoDirectory: the path of a created file is hashed by its directory, and this
	// one has none. TSEM does not map such an event either.
	ErrNoDirectory = errors.New("path has no directory")
)

// Point is an event as a security model has it: three digests in the digest function of
// the namespace.
type Point struct {
	COE  []byte // of the credentials of the task: the context of execution
	CELL []byte // of the parameters of the event

	// Coefficient is the security state coefficient: of the type of the event, the TASK_IDs
	// of parent and task, COE and CELL. Of KindExec it is the TASK_ID that the exec gives.
	Coefficient []byte
}

// Mapper maps events to points as TSEM does (TSEM v3, map.c; sections 2.5 to 2.8 of
// docs/spec/semantics.md), by the rows of the event table, which an Encoder walks too.
// Integers are hashed in the byte order of the host, as there. It belongs to one goroutine;
// make it with NewMapper.
type Mapper struct {
	dialect Dialect
	hash    crypto.Hash
	ids     TaskIDs
	hasher  hash.Hash

	// Of the record at hand.
	cells  cells
	exec   bool   // it is of KindExec
	digest []byte // of its file
	err    error  // what a layout found wrong

	coe, cell, whole []byte    // what is hashed
	sums             [3][]byte // what comes of it
}

// NewMapper returns a mapper for namespaces with the given digest function. In the dialect
// V3 what TSEM v3 hashes by mistake is hashed as there (section 7.2), in all others as it
// is meant; the mistakes are v3Layouts, and those that the layouts of CREDS and ADDR name.
func NewMapper(dialect Dialect, h crypto.Hash, ids TaskIDs) *Mapper {
	return &Mapper{dialect: dialect, hash: h, ids: ids, hasher: h.New()}
}

// Map returns the point of an event, which is valid until the next call. d is the digest of
// the file that the record is about, if it is about one. It does no I/O, never waits, and
// does not allocate unless there is no point. The error is ErrCut, ErrNoDigest, ErrNoTaskID
// or ErrNoDirectory: events that differ in nothing but what is not known would have the same
// point, and so they have none.
//
// Only TASK_IDs are computed all the same if that of the parent or of the creator of the
// file is not known: it is all f, and hashed as such, in TSEM (section 2.2) and here.
func (m *Mapper) Map(r *Record, d Digest) (Point, error) {
	p, err := m.point(r, d)
	if err != nil {
		return Point{}, fmt.Errorf("%w: event %d, %s", err, r.Number(), r.row.name)
	}
	return p, nil
}

// point is Map with errors that name no event, which cost nothing.
func (m *Mapper) point(r *Record, d Digest) (Point, error) {
	switch {
	case r.Cut() > 0:
		return Point{}, ErrCut
	case r.HasFile() && d.State != DigestExact:
		return Point{}, ErrNoDigest
	}
	m.cells, m.exec, m.digest, m.err = cells{rest: r.raw[sizeRecord:]}, r.Kind() == KindExec, d.Sum, nil
	c := r.Creds()
	m.coe = appendCOE(m.coe[:0], &c)
	m.cell = m.appendCELL(m.cell[:0], r.row)

	// The name goes in as it is: TSEM's documentation says hashed, its code differs.
	m.whole = append(m.whole[:0], r.row.name...)
	m.whole = m.id(m.whole, r.ParentIdentity())
	if m.exec {
		m.whole = append(m.whole, zeros[:m.hash.Size()]...)
	} else {
		m.whole = m.id(m.whole, r.Identity())
	}
	if m.err != nil {
		return Point{}, m.err
	}
	m.sums[0], m.sums[1] = m.sum(m.sums[0][:0], m.coe), m.sum(m.sums[1][:0], m.cell)
	m.whole = append(append(m.whole, m.sums[0]...), m.sums[1]...)
	m.sums[2] = m.sum(m.sums[2][:0], m.whole)
	return Point{m.sums[0], m.sums[1], m.sums[2]}, nil
}

// appendCELL appends the CELL of an event: what its parameters are hashed as.
func (m *Mapper) appendCELL(b []byte, r *row) []byte {
	if m.dialect == V3 {
		if wrong, ok := v3Layouts[r.hook]; ok {
			return wrong(m, b)
		}
	}
	if len(r.members) == 0 {
		return m.nameAlone(b, r.name)
	}
	return m.members(b, r.members)
}

// members appends what those of the object of an event, or of an object in it, are hashed as.
func (m *Mapper) members(b []byte, members []member) []byte {
	for i := range members {
		s := members[i].shape
		if s.optional && m.cells.peek() == cellAbsent {
			m.cells.next()
			continue
		}
		b = s.layout(m, b)
	}
	return b
}

// sum appends the digest of data.
func (m *Mapper) sum(b, data []byte) []byte {
	m.hasher.Reset()
	m.hasher.Write(data)
	return m.hasher.Sum(b)
}

// id appends the TASK_ID of an identity.
func (m *Mapper) id(b []byte, identity uint64) []byte {
	n := len(b)
	b = m.ids.TaskID(b, identity)
	if allOnes(b[n:]) && !m.exec {
		m.err = ErrNoTaskID
	}
	return b
}
