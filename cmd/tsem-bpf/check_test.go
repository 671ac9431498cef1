// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

// TestCheckCounts: the number of hooks that are present is that of the table below it, also where
// a hook is not there of which nothing is missing.
func TestCheckCounts(t *testing.T) {
	support := &loader.Support{Hooks: []loader.HookSupport{
		{Name: "capable", Present: true}, {Name: "file_open", Present: true, Sleepable: true}, {Name: "file_truncate"}, {Name: "mmap_file"},
	}}
	report := reportOn(support, nil)
	var out bytes.Buffer
	if err := report.print(&streams{&out, &out}); err != nil {
		t.Fatal(err)
	}
	if want := "2 of 4 present, 1 of them sleepable\n"; !strings.Contains(out.String(), want) || strings.Count(out.String(), "missing\n") != 2 {
		t.Errorf("no %q in\n%s", want, out.String())
	}
}

// TestCheckLists: what there is none of is an empty list, which who reads the JSON can go through.
func TestCheckLists(t *testing.T) {
	text, err := json.Marshal(reportOn(new(loader.Support), &loader.SupportError{Err: loader.ErrKernel, Detail: "no BTF", Remedy: "another one"}))
	if err != nil || bytes.Contains(text, []byte("null")) || !bytes.Contains(text, []byte(`"problem":"the kernel is not supported: no BTF","remedy":"another one"`)) {
		t.Errorf("%s, %v", text, err)
	}
}

// TestCheckStatus: a kernel that cannot be used is one thing, and not to know whether it can another.
func TestCheckStatus(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
		says   string
	}{
		{nil, 0, "usable"},
		{&loader.SupportError{Err: loader.ErrKernel, Detail: "no BTF", Remedy: "another one"}, exitUnusable, "to change"},
		{errors.New("the probe was interrupted"), exitFailed, "tsem-bpf: the probe was interrupted\n"},
	} {
		var out bytes.Buffer
		err := new(checkCommand).tell(&streams{&out, &out}, new(loader.Support), test.err)
		if status := ended(err, &out); status != test.status || !strings.Contains(out.String(), test.says) {
			t.Errorf("%v: status %d, %s; want %d, %q", test.err, status, out.String(), test.status, test.says)
		}
	}
}
