// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// later are members that the current dialect has beyond TSEM v3.
var later = []string{".type", ".digest_state"}

// specification returns a check of records against events.json: every member of the
// event's object is one of its parameters, and none without a condition is missing.
func specification(t *testing.T) func(object) error {
	t.Helper()
	data, err := os.ReadFile("../../shared/spec/events.json")
	if err != nil {
		t.Fatal(err)
	}
	type param struct{ Path, When string }
	var all []struct {
		Name   string
		Params []param
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	params := make(map[string][]param)
	for _, e := range all {
		params[e.Name] = e.Params
	}
	return func(r object) error {
		name, _ := at(r, "event.type").(string)
		allowed, known := params[name]
		body, isObject := r[name].(object)
		if !known || !isObject {
			return fmt.Errorf("no event of the specification: %q", name)
		}
		got := make(map[string]bool)
		flatten(body, "", got)
		for _, p := range allowed {
			// What stands in an optional object depends on that object.
			if p.When == "" && !got[p.Path] && !strings.Contains(p.Path, ".") {
				return fmt.Errorf("%s lacks %s", name, p.Path)
			}
			delete(got, p.Path)
		}
		for path := range got {
			if !slices.ContainsFunc(later, func(name string) bool { return strings.HasSuffix(path, name) }) {
				return fmt.Errorf("%s has %s, which the specification does not", name, path)
			}
		}
		return nil
	}
}

// flatten collects the paths of the values in an object.
func flatten(o object, prefix string, into map[string]bool) {
	for key, value := range o {
		if inner, ok := value.(object); ok {
			flatten(inner, prefix+key+".", into)
		} else {
			into[prefix+key] = true
		}
	}
}

func credential(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}
