// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"crypto"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// learner knows no TASK_ID at first, as a table does when the exec record of an identity
// could not be used.
type learner struct{ id []byte }

func (l *learner) TaskID(dst []byte, _ uint64) []byte { return append(dst, l.id...) }

// TestLateTaskID: a TASK_ID that becomes known is written from then on.
func TestLateTaskID(t *testing.T) {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 85, Kind: 2, Identity: 5, Parent: 5}}
	b.Cell(eventtest.Scalar, uint64(21)).Cell(eventtest.Scalar, uint64(0))
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	j := &learner{}
	e := NewEncoder(V3, crypto.SHA256, j)
	for _, digit := range []string{"f", "a"} {
		j.id = bytes.Repeat([]byte{0x11 * byte(strings.Index("0123456789abcdef", digit))}, 32)
		line, err := e.Append(nil, &r, Digest{})
		if want := `"task_id": "` + strings.Repeat(digit, 64); err != nil || !bytes.Contains(line, []byte(want)) {
			t.Errorf("no %s in %s, %v", want, line, err)
		}
	}
}
