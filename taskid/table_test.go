// SPDX-License-Identifier: Apache-2.0

package taskid

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// The TASK_ID in section 2.10 of docs/spec/semantics.md; SHA-256, little endian.
const vectorTaskID = "d9fb388a563b405b3fa80d9b3d32e4e9c0013dca0e96e0dd6f7ffd0dfaab6017"

// execOf is the record of the exec that the vector is of.
func execOf(t *testing.T, identity, parent uint64) event.Record {
	t.Helper()
	b := &eventtest.Builder{Header: eventtest.Header{
		Hook: uint16(event.HookExec), Kind: uint8(event.KindExec), Identity: identity, Parent: parent, CapEff: 0x1ffffffffff,
	}}
	b.File(0x8020, 1, [32]byte{}) // TSEM_DIGEST_WANTED
	b.Inode(eventtest.InodeCell{Mode: 0o100755, SMagic: 0xef53, SID: "sda1", UUID: [16]byte{
		0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
	}})
	b.Path(eventtest.PathCell{Flags: eventtest.PathDev, DevMajor: 8, DevMinor: 1, Text: "/usr/bin/bash"})
	r, err := event.Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func bashDigest(state event.DigestState) event.Digest {
	sum := sha256.Sum256([]byte("hello\n"))
	return event.Digest{Sum: sum[:], State: state}
}

// TestLearn: a TASK_ID is known when its exec was learned, once and for all; that of a
// parent is a part of it.
func TestLearn(t *testing.T) {
	table := NewTable(crypto.SHA256, newShelf(9))
	want := func(identity uint64, known bool, id string) {
		t.Helper()
		if got := hex.EncodeToString(table.TaskID(nil, identity)); got != id || table.Known(identity) != known {
			t.Errorf("TASK_ID of %d is %s, known: %t; want %s, %t", identity, got, table.Known(identity), id, known)
		}
	}
	unknown := hex.EncodeToString(bytes.Repeat([]byte{0xff}, 32))
	want(0, true, hex.EncodeToString(make([]byte, 32)))
	want(1, false, unknown)

	r := execOf(t, 1, 0)
	if err := table.Learn(&r, bashDigest(event.DigestChanged)); !errors.Is(err, event.ErrNoDigest) {
		t.Errorf("%v, want %v", err, event.ErrNoDigest)
	}
	want(1, false, unknown)
	if err := table.Learn(&r, bashDigest(event.DigestExact)); err != nil {
		t.Fatal(err)
	}
	want(1, true, vectorTaskID)

	child, orphan := execOf(t, 2, 1), execOf(t, 3, 99)
	for _, r := range []*event.Record{&child, &orphan} {
		if err := table.Learn(r, bashDigest(event.DigestExact)); err != nil {
			t.Fatal(err)
		}
	}
	want(1, true, vectorTaskID)
	ids := map[string]bool{}
	for identity := range uint64(4) {
		ids[hex.EncodeToString(table.TaskID(nil, identity))] = true
	}
	if len(ids) != 4 {
		t.Errorf("four tasks with %d TASK_IDs", len(ids))
	}

	// What is known stays, whatever a later record says.
	if err := table.Learn(&r, bashDigest(event.DigestChanged)); err != nil {
		t.Error(err)
	}
	want(1, true, vectorTaskID)
}
