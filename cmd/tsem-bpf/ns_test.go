// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/metrics"
)

// TestNsShowTimes: a time is shown as it was given.
func TestNsShowTimes(t *testing.T) {
	state := bpf.Namespace{
		Id: 3, Flags: bpf.NamespaceExternal, Digest: 32, Magazine: 1 << 20, Reserve: 1 << 19, Share: 32 << 10,
		Deadline: uint64(1001 * time.Millisecond), Wait: uint64(1003 * time.Millisecond),
	}
	var out bytes.Buffer
	if err := reportOf(new(metrics.Snapshot), &state).print(&streams{&out, &out}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" 1.001s\n", " 1.003s for room in it\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
