// SPDX-License-Identifier: Apache-2.0

package event

import (
	"encoding/hex"
	"testing"
)

// TestAppendAggregate: the record is that of the specification.
func TestAppendAggregate(t *testing.T) {
	const value = "407ba70e3a53e2fc9e5c6aab7628158ced9161461e122d03213f6da072ac61b3"
	const want = `{"export": {"type": "aggregate"}, "aggregate": {"value": "` + value + `"}}` + "\n"
	bytes, err := hex.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(AppendAggregate([]byte("x"), bytes)); got != "x"+want {
		t.Errorf("%q, want %q", got, want)
	}
}
