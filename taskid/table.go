// SPDX-License-Identifier: Apache-2.0

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

// What keeps a TASK_ID from being known, for errors.Is, beside ErrNoDirectory.
var (
	// ErrNoDigest: the content of the executed file is not known.
	ErrNoDigest = errors.New("no digest of the executed file")
	// ErrTableFull: a million TASK_IDs are known.
	ErrTableFull = errors.New("too many TASK_IDs")
)

// Table knows the TASK_IDs that stand behind the identities of the kernel half. It
// implements event.TaskIDs. One goroutine at a time; make it with NewTable.
type Table struct {
	hash    crypto.Hash
	zeros   []byte
	unknown []byte // all f: a TASK_ID that there is, but that nobody can know
	ids     map[uint64][]byte
}

// NewTable returns an empty table for a namespace with the given digest function.
func NewTable(hash crypto.Hash) *Table {
	return &Table{
		hash:    hash,
		zeros:   make([]byte, hash.Size()),
		unknown: bytes.Repeat([]byte{0xff}, hash.Size()),
		ids:     make(map[uint64][]byte),
	}
}

// TaskID appends the TASK_ID of an identity to dst: zeros for 0, the identity of tasks
// that did no exec since they are modeled, as TSEM has it for tasks from before its
// activation; all f if it is not known.
func (t *Table) TaskID(dst []byte, identity uint64) []byte {
	return append(dst, t.taskID(identity)...)
}

func (t *Table) taskID(identity uint64) []byte {
	if identity == 0 {
		return t.zeros
	}
	if id, ok := t.ids[identity]; ok {
		return id
	}
	return t.unknown
}

// Known says whether the TASK_ID of an identity is known.
func (t *Table) Known(identity uint64) bool {
	_, known := t.ids[identity]
	return known || identity == 0
}

// Learn computes the TASK_ID of the identity that an exec record introduces, if it is
// not known. d is the digest of the executed file; the TASK_IDs of the parent and of
// the creator of the file are taken as they are known now. The error is ErrNoDigest,
// ErrTableFull or ErrNoDirectory; the TASK_ID then stays unknown.
func (t *Table) Learn(r *event.Record, d event.Digest) error {
	if t.Known(r.Identity()) {
		return nil
	}
	if d.State != event.DigestExact {
		return ErrNoDigest
	}
	if len(t.ids) >= maxTaskIDs {
		return fmt.Errorf("%w: %d", ErrTableFull, len(t.ids))
	}
	c, f := r.Creds(), r.File()
	id, err := TaskID(t.hash, t.taskID(r.ParentIdentity()), &Exec{
		Creds: Creds{
			UID: c.UID, EUID: c.EUID, SUID: c.SUID, GID: c.GID, EGID: c.EGID, SGID: c.SGID,
			FSUID: c.FSUID, FSGID: c.FSGID, CapEff: c.CapEff,
		},
		File: File{
			Flags: f.Flags,
			Inode: Inode{
				UID: f.Inode.UID, GID: f.Inode.GID, Mode: f.Inode.Mode, SMagic: f.Inode.SMagic,
				SID: f.Inode.SID, UUID: f.Inode.UUID,
			},
			Path: Path{
				Name: string(f.Path.Text), HasDevice: f.Path.HasDevice, Major: f.Path.Major, Minor: f.Path.Minor,
				Created: f.Path.Created, Instance: f.Path.Instance, Owner: t.taskID(f.Path.Owner),
			},
			Digest: d.Sum,
		},
	})
	if err != nil {
		return err
	}
	t.ids[r.Identity()] = id
	return nil
}
