// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"fmt"
	"os"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// TestChosenEvents: what is not chosen is no event, but books are kept of it all the same: a
// file is known to be created by whom, though its creation is none.
func TestChosenEvents(t *testing.T) {
	dir := work + "/chosen"
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	needCreators(t)
	hooks, err := event.ParseHooks("file_open,task_kill")
	if err != nil {
		t.Fatal(err)
	}
	out, o := shell(t, namespace.Config{Events: hooks}, fmt.Sprintf("echo >%s/new; kill -0 $$; cat %[1]s/new; rm %[1]s/new", dir))
	if out != "\n" {
		t.Errorf("%q", out)
	}
	kinds := make(map[any]int)
	created := 0
	for _, r := range o.all {
		kinds[at(r, "event.type")]++
		if path, _ := at(r, "file_open.file.path").(object); path["pathname"] == dir+"/new" && path["instance"] == "1" {
			created++
		}
	}
	if len(kinds) != 2 || kinds["task_kill"] != 1 {
		t.Errorf("types of events: %v", kinds)
	}
	if created != 2 { // the shell and cat open it
		t.Errorf("%d opens of the file that was created", created)
	}
}
