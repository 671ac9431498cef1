// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// later are members that the current dialect has beyond TSEM v3.
var later = []string{".type", ".digest_state"}

// specification returns a check of records against the specification: every member of the
// event's object is one of its parameters, and none without a condition is missing.
func specification(t *testing.T) func(object) error {
	t.Helper()
	all := eventtest.Specification(t)
	return func(r object) error {
		name, _ := at(r, "event.type").(string)
		specified, known := all[name]
		body, isObject := r[name].(object)
		if !known || !isObject {
			return fmt.Errorf("no event of the specification: %q", name)
		}
		got := make(map[string]bool)
		flatten(body, "", got)
		for _, p := range specified.Params {
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
