// SPDX-License-Identifier: Apache-2.0

// Package taskid knows the TASK_IDs of the tasks of a namespace: it computes them from the
// records of execs, by an event.Mapper. It does no I/O, and nothing here waits.
package taskid

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"

	"github.com/tsem-bpf/tsem-bpf/event"
)

// maxTaskIDs bounds the memory for identities to some 150 MB. A host reaches it with
// a million different programs, parents and credentials.
const maxTaskIDs = 1 << 20

// ErrTableFull keeps a TASK_ID from being known when a million are.
var ErrTableFull = errors.New("too many TASK_IDs")

// Table knows the TASK_IDs that stand behind the identities of the kernel half. It
// implements event.TaskIDs. One goroutine at a time; make it with NewTable.
type Table struct {
	mapper  *event.Mapper
	zeros   []byte
	unknown []byte // all f: a TASK_ID that there is, but that nobody can know
	ids     map[uint64][]byte
}

// NewTable returns an empty table for a namespace with the given digest function.
func NewTable(hash crypto.Hash) *Table {
	t := &Table{
		zeros:   make([]byte, hash.Size()),
		unknown: bytes.Repeat([]byte{0xff}, hash.Size()),
		ids:     make(map[uint64][]byte),
	}
	t.mapper = event.NewMapper(event.Current, hash, t) // no dialect hashes an exec in another way
	return t
}

// TaskID appends the TASK_ID of an identity to dst: zeros for 0, the identity of tasks
// that did no exec since they are modeled, as TSEM has it for tasks from before its
// activation; all f if it is not known.
func (t *Table) TaskID(dst []byte, identity uint64) []byte {
	if identity == 0 {
		return append(dst, t.zeros...)
	}
	if id, ok := t.ids[identity]; ok {
		return append(dst, id...)
	}
	return append(dst, t.unknown...)
}

// Known says whether the TASK_ID of an identity is known.
func (t *Table) Known(identity uint64) bool {
	_, known := t.ids[identity]
	return known || identity == 0
}

// Learn computes the TASK_ID of the identity that an exec record introduces, if it is
// not known. d is the digest of the executed file; the TASK_IDs of the parent and of
// the creator of the file are taken as they are known now. The error is ErrTableFull or
// one of event.Mapper.Map; the TASK_ID then stays unknown.
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
	return nil
}
