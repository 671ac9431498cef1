// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"bytes"
	"crypto"
	"sync/atomic"
	"time"

	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/event"
)

const (
	// maxTaskIDs bounds the memory for identities to some 150 MB. A host reaches
	// it with a million different programs, parents and credentials.
	maxTaskIDs = 1 << 20
	// digestWait is how long a record waits for the digest of its file.
	digestWait = 5 * time.Second
)

// joiner knows what a record only points at. It belongs to the goroutine that reads;
// the counters may be read from anywhere.
type joiner struct {
	hash    crypto.Hash
	zeros   []byte
	unknown []byte // all f: a TASK_ID that there is, but that nobody can know
	taskIDs map[uint64][]byte
	digests *digest.Cache
	lost    atomic.Uint64 // TASK_IDs that cannot be known
}

func newJoiner(hash crypto.Hash) *joiner {
	return &joiner{
		hash:    hash,
		zeros:   make([]byte, hash.Size()),
		unknown: bytes.Repeat([]byte{0xff}, hash.Size()),
		taskIDs: make(map[uint64][]byte),
		digests: digest.New(),
	}
}

func (j *joiner) close() { j.digests.Close() }

// taskID returns the TASK_ID of an identity. The identity 0 is that of tasks which
// did no exec since they are modeled: zeros, as TSEM has it for tasks from before
// its activation.
func (j *joiner) taskID(identity uint64) []byte {
	if identity == 0 {
		return j.zeros
	}
	if id, ok := j.taskIDs[identity]; ok {
		return id
	}
	return j.unknown
}

// TaskID implements event.Joiner.
func (j *joiner) TaskID(dst []byte, identity uint64) []byte {
	return append(dst, j.taskID(identity)...)
}

// FileDigest implements event.Joiner.
func (j *joiner) FileDigest(r *event.Record, f *event.FileView) ([]byte, event.DigestState) {
	sum, state := j.digests.Get(digest.Request{
		Hash:      j.hash,
		TID:       r.TID(),
		Exec:      r.Kind() == event.KindExec,
		Path:      string(f.Path.Text),
		DevMajor:  f.Inode.DevMajor,
		DevMinor:  f.Inode.DevMinor,
		SMagic:    f.Inode.SMagic,
		Ino:       f.Inode.Ino,
		Size:      f.Inode.Size,
		CtimeSec:  f.Inode.CtimeSec,
		CtimeNsec: f.Inode.CtimeNsec,
	}, digestWait)
	switch state {
	case digest.Exact:
		return sum, event.DigestExact
	case digest.Changed:
		return nil, event.DigestChanged
	}
	return nil, event.DigestUnavailable
}

// exec learns the TASK_ID of an identity from an exec record.
func (j *joiner) exec(r *event.Record) {
	if _, known := j.taskIDs[r.Identity()]; known {
		return
	}
	f := r.File()
	sum, state := event.FileDigest(r, &f, j.hash, j)
	if state != event.DigestExact || len(j.taskIDs) >= maxTaskIDs {
		j.lost.Add(1)
		return
	}
	c := r.Creds()
	id, err := TaskID(j.hash, j.taskID(r.ParentIdentity()), &Exec{
		Creds: Creds{c.UID, c.EUID, c.SUID, c.GID, c.EGID, c.SGID, c.FSUID, c.FSGID, c.CapEff},
		File: File{
			Flags:  f.Flags,
			Inode:  Inode{f.Inode.UID, f.Inode.GID, f.Inode.Mode, f.Inode.SMagic, f.Inode.SID, f.Inode.UUID},
			Path:   Path{string(f.Path.Text), f.Path.HasDevice, f.Path.Major, f.Path.Minor, f.Path.Created, f.Path.Instance, j.taskID(f.Path.Owner)},
			Digest: sum,
		},
	})
	if err != nil {
		j.lost.Add(1)
		return
	}
	j.taskIDs[r.Identity()] = id
}
