// SPDX-License-Identifier: Apache-2.0

package eventtest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"testing"
)

// The machine-readable twin of docs/spec/json-events.md, sections 5 and 7.1.
//
//go:embed events.json
var specification []byte

// Specified is what the specification says of one event; section 9 of
// docs/spec/json-events.md explains every member.
type Specified struct {
	Name        string
	Ordinal     uint16 // index in TSEM's table of names
	Later       bool   // not in TSEM v3
	ExportType  string `json:"export_type"` // "event", "async_event", or empty: never exported
	Description string
	Shape       string // the layout of its object
	Params      []Param
	Example     string // one record, without the line feed
	Variants    []struct{ Label, Example string }
}

// Param is a value in the object of an event.
type Param struct{ Path, Format, Encoding, Meaning, When string }

// All returns every event, those of TSEM v3 first, in the order of the ordinals.
func All() ([]Specified, error) {
	var all []Specified
	if err := json.Unmarshal(specification, &all); err != nil {
		return nil, fmt.Errorf("read events.json: %w", err)
	}
	return all, nil
}

// Specification returns every event by its name.
func Specification(t testing.TB) map[string]Specified {
	t.Helper()
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]Specified)
	for _, s := range all {
		byName[s.Name] = s
	}
	return byName
}
