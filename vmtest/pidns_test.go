// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// TestPIDNamespace: in a pid namespace getpid() and gettid() say other numbers than the
// programs see, as in any container without the host's pids.
func TestPIDNamespace(t *testing.T) {
	needFile(t, "/proc/self/ns/pid", "CONFIG_PID_NS")
	inside := func(args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		cmd := exec.Command("unshare", append([]string{"--pid", "--fork", "--mount-proc", "tsem-bpf"}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Errorf("%v: %v: %s%s", args, err, &out, &errs)
		}
		return out.String(), errs.String()
	}
	if out, _ := inside("check"); !strings.Contains(out, "usable") || strings.Contains(out, "bpf,bpf") {
		t.Error(out)
	}
	records, totals := inside("run", "cat", "/etc/hostname")
	if !strings.Contains(records, `"process": "cat"`) || !strings.Contains(totals, " 0 refused") {
		t.Errorf("%s%s", records, totals)
	}
	// It knows itself, too.
	records, totals = inside("export", "--root", "--duration", "2s")
	if strings.Contains(records, `"process": "tsem-bpf"`) || !strings.Contains(totals, " 0 refused") {
		t.Errorf("%s%s", records, totals)
	}
}
