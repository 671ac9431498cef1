// SPDX-License-Identifier: Apache-2.0

// Package taskid knows the TASK_IDs of the tasks of a host: it computes those of a namespace
// from the records of execs, by an event.Mapper, and shares them with the other keepers.
// Nothing here waits.
package taskid

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"

	"github.com/tsem-bpf/tsem-bpf/event"
)

const (
	// maxTaskIDs bounds the memory for identities to some 150 MB. A host reaches it with
	// a million different programs, parents and credentials.
	maxTaskIDs = 1 << 20
	// maxAsked bounds the memory for identities that nobody knows to some 2 MB.
	maxAsked = 1 << 16
)

// What can be wrong with a TASK_ID that was learned, for errors.Is, beside the errors of
// event.Mapper.Map.
var (
	// ErrTableFull keeps a TASK_ID from being known when a million are.
	ErrTableFull = errors.New("too many TASK_IDs")
	// ErrUnshared: the TASK_ID is known here, and nowhere else.
	ErrUnshared = errors.New("TASK_ID not shared")
)

// Store is where the keepers of a host tell each other the TASK_IDs of identities:
// loader.Engine. An identity stands for one TASK_ID, whoever computes it.
type Store interface {
	// TaskID returns the TASK_ID of an identity, with zeros behind it, and whether it is known.
	TaskID(identity uint64) (id [Room]byte, known bool)
	// ShareTaskID makes a TASK_ID known to all, unless that of its identity is.
	ShareTaskID(identity uint64, id [Room]byte) error
	// TaskIDs returns how many are known, without a system call.
	TaskIDs() uint64
}

// Room is the length of the longest TASK_ID, that of SHA-512.
const Room = 64

// Table knows the TASK_IDs that stand behind the identities of the kernel half: those that
// it has computed, and those that it was told by the store. It
// implements event.TaskIDs. One goroutine at a time; make it with NewTable.
type Table struct {
	hash    crypto.Hash
	mapper  *event.Mapper
	store   Store
	zeros   []byte
	unknown []byte // all f: a TASK_ID that there is, but that nobody can know
	ids     map[uint64][]byte
	asked   map[uint64]uint64 // how many the store knew when it was asked in vain
}

// NewTable returns an empty table for a namespace with the given digest function.
func NewTable(hash crypto.Hash, store Store) *Table {
	t := &Table{
		hash:    hash,
		store:   store,
		zeros:   make([]byte, hash.Size()),
		unknown: bytes.Repeat([]byte{0xff}, hash.Size()),
		ids:     make(map[uint64][]byte),
		asked:   make(map[uint64]uint64),
	}
	t.mapper = event.NewMapper(event.Current, hash, t) // no dialect hashes an exec in another way
	return t
}

// TaskID appends the TASK_ID of an identity to dst: zeros for 0, the identity of tasks
// that did no exec since they are modeled, as TSEM has it for tasks from before its
// activation; all f if it is not known. That of a namespace with another digest function
// is cut or filled with zeros, as in TSEM.
func (t *Table) TaskID(dst []byte, identity uint64) []byte {
	if id := t.find(identity); id != nil {
		return append(dst, id...)
	}
	return append(dst, t.unknown...)
}

// find returns the TASK_ID of an identity, nil if it is not known.
func (t *Table) find(identity uint64) []byte {
	if identity == 0 {
		return t.zeros
	}
	if id, ok := t.ids[identity]; ok {
		return id
	}
	// An event of a task without TASK_ID is not to cost a system call, unless there is news.
	known := t.store.TaskIDs()
	if before, ok := t.asked[identity]; ok && before == known {
		return nil
	}
	id, ok := t.store.TaskID(identity)
	if !ok {
		if len(t.asked) >= maxAsked {
			clear(t.asked)
		}
		t.asked[identity] = known
		return nil
	}
	own := bytes.Clone(id[:t.hash.Size()])
	if len(t.ids) < maxTaskIDs {
		t.ids[identity] = own
	}
	delete(t.asked, identity)
	return own
}

// Known says whether the TASK_ID of an identity is known.
func (t *Table) Known(identity uint64) bool { return t.find(identity) != nil }

// Learn computes the TASK_ID of the identity that an exec record introduces, if it is
// not known. d is the digest of the executed file; the TASK_IDs of the parent and of
// the creator of the file are taken as they are known now. The error is ErrUnshared, or
// ErrTableFull or one of event.Mapper.Map; with these the TASK_ID stays unknown.
func (t *Table) Learn(r *event.Record, d event.Digest) error {
	if t.Known(r.Identity()) {
		return nil
	}
	if len(t.ids) >= maxTaskIDs {
		return fmt.Errorf("%w: %d", ErrTableFull, len(t.ids))
	}
	p, err := t.mapper.Map(r, d)
	if err != nil {
		return err
	}
	t.ids[r.Identity()] = bytes.Clone(p.Coefficient)
	delete(t.asked, r.Identity())
	var shared [Room]byte
	copy(shared[:], p.Coefficient)
	if err := t.store.ShareTaskID(r.Identity(), shared); err != nil {
		return fmt.Errorf("%w: %w", ErrUnshared, err)
	}
	return nil
}
