// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// TestLaterRefused: events of later versions are judged and refused as those of v3 are. What is executed
// waits for its verdict; the thread that is untrusted then makes no task any more, which leaves no trace
// in the books that the same hook keeps.
func TestLaterRefused(t *testing.T) {
	needVerdicts(t)
	needHook(t, "bprm_check_security")
	needSleep(t, "bprm_check_security")
	prepare(t, "refused")
	hooks, err := event.ParseHooks("bprm_check_security,task_alloc")
	check(t, err)
	judge := func(r *event.Record) verdict.Verdict {
		if r.Hook().String() == "bprm_check_security" && bytes.HasSuffix(r.File().Path.Text, []byte("/program")) {
			return verdict.Untrusted
		}
		return verdict.Trusted
	}
	cmd := actorCommand("refused")
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stdout
	o := runIn(t, namespace.Config{Events: hooks, Judge: judge, Enforce: true}, cmd)
	var f facts
	if err := json.Unmarshal(stdout.Bytes(), &f); o.exit != nil || err != nil {
		t.Fatalf("%v, %v: %s", o.exit, err, stdout.String())
	}
	var denied []any
	for _, r := range o.all {
		if at(r, "log.action") == "DENY" {
			denied = append(denied, at(r, "log.event"))
		}
	}
	if len(denied) != 1 || denied[0] != "task_alloc" || o.totals.Denied != 2 {
		t.Errorf("denied: %v, and %d in all", denied, o.totals.Denied)
	}
}
