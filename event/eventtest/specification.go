// SPDX-License-Identifier: Apache-2.0

package eventtest

import (
	_ "embed"
	"encoding/json"
	"testing"
)

// The machine-readable twin of docs/spec/json-events.md, section 5.
//
//go:embed events.json
var specification []byte

// Specified is what the specification says of one event; section 9 of
// docs/spec/json-events.md explains every member.
type Specified struct {
	Name       string
	Ordinal    uint16 // index in TSEM's table of names
	ExportType string `json:"export_type"` // "event", "async_event", or empty: never exported
	Params     []struct{ Path, Format, When string }
	Example    string // one record, without the line feed
	Variants   []struct{ Label, Example string }
}

// Specification returns every event of TSEM v3 by its name.
func Specification(t testing.TB) map[string]Specified {
	t.Helper()
	var all []Specified
	if err := json.Unmarshal(specification, &all); err != nil {
		t.Fatalf("read events.json: %v", err)
	}
	byName := make(map[string]Specified)
	for _, s := range all {
		byName[s.Name] = s
	}
	return byName
}
