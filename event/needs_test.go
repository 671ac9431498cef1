// SPDX-License-Identifier: Apache-2.0

package event

import (
	"slices"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// TestIdentities: each identity that a record has a TASK_ID of is named, no other.
func TestIdentities(t *testing.T) {
	task := func(hook uint16, kind Kind) *eventtest.Builder {
		return &eventtest.Builder{Header: eventtest.Header{Hook: hook, Kind: uint8(kind), Identity: 10, Parent: 11}}
	}
	created := eventtest.PathCell{Owner: 12, Flags: eventtest.PathCreated, Text: "/x"}
	notCreated := eventtest.PathCell{Owner: 12, Text: "/x"}
	for name, test := range map[string]struct {
		record *eventtest.Builder
		want   []uint64
	}{
		"signal":       {task(2, KindAsync).Task(13).Scalar(15).Scalar(0), []uint64{10, 11, 13}},
		"own file":     {goldenFile(task(14, KindEvent), created), []uint64{10, 11, 12}},
		"other file":   {goldenFile(task(14, KindEvent), notCreated), []uint64{10, 11}},
		"exec":         {goldenFile(task(1, KindExec), created), []uint64{11, 12}},
		"sockets":      {task(20, KindAsync).Sock(1, 1, 0, 14).Sock(1, 1, 0, 15), []uint64{10, 11, 14, 15}},
		"shared mem":   {task(46, KindAsync).IPC(0, 0, 0, 0, 0, 16).Scalar(0), []uint64{10, 11, 16}},
		"capability":   {task(85, KindAsync).Scalar(21).Scalar(0), []uint64{10, 11}},
		"created file": {task(64, KindEvent).Inode(eventtest.InodeCell{}).Absent().Path(created), []uint64{10, 11, 12}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse(test.record.Record())
			if err != nil {
				t.Fatal(err)
			}
			got := slices.Sorted(r.Identities)
			if !slices.Equal(got, test.want) {
				t.Errorf("identities %d, want %d", got, test.want)
			}
			for id := range r.Identities {
				if id == test.want[0] {
					break // and nothing more is asked for
				}
			}
		})
	}
}

// TestFileComesFirst: what HasFile and Digest rely on.
func TestFileComesFirst(t *testing.T) {
	for _, row := range table {
		for i, m := range row.members {
			if (m.shape == file || m.shape == optionalFile) && i > 0 {
				t.Errorf("%s has a file as member %d", row.name, i)
			}
		}
	}
}
