// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

// TestWaitTable: docs/waits.md says what tsem-bpf check says on this kernel.
func TestWaitTable(t *testing.T) {
	name := os.Getenv("TSEM_LISTED_KERNEL")
	if name == "" {
		t.Skip("no kernel of vmtest/kernels.list")
	}
	out, err := exec.Command("tsem-bpf", "check", "--json").Output()
	check(t, err)
	var support loader.Support
	check(t, json.Unmarshal(out, &support))
	want := map[string]string{"hook": name + " (" + string(support.Tier) + ")"}
	for _, h := range support.Hooks {
		switch {
		case !h.Event:
		case h.Waits:
			want[h.Name] = "waits"
		case h.Present:
			want[h.Name] = "no"
		default:
			want[h.Name] = "–"
		}
	}
	text, err := os.ReadFile("../docs/waits.md")
	check(t, err)
	column := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		hook, ok := strings.CutPrefix(cells[0], "| ")
		if !ok {
			continue
		}
		cells[len(cells)-1] = strings.TrimSuffix(cells[len(cells)-1], " |")
		for i, cell := range cells {
			if hook == "hook" && strings.HasPrefix(cell, name+" (") {
				column = i
			}
		}
		if column == 0 || column >= len(cells) || cells[column] != want[hook] {
			t.Errorf("%s: the table says %q, tsem-bpf check %q", hook, cells[column], want[hook])
		}
		delete(want, hook)
	}
	if len(want) > 0 {
		t.Errorf("not in the table: %v", want)
	}
	if t.Failed() {
		t.Log("make wait-table makes it anew")
	}
}
