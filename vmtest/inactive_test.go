// SPDX-License-Identifier: Apache-2.0

//go:build vmtest_runner

package vmtest

import (
	"os/exec"
	"strings"
	"testing"
)

// TestInactiveLSM: a kernel whose boot line leaves bpf out. Programs load and attach
// there, and are never called.
func TestInactiveLSM(t *testing.T) {
	script := `tsem-bpf check; echo "check $?"; tsem-bpf run true; echo "run $?"; bpftool prog show | grep -c lsm; bpftool map show | wc -l`
	out, err := exec.Command("./run", "-k", "6.12", "-a", "lsm=lockdown,capability,landlock", "--", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"usable       no: the BPF LSM is not active: a probe program was attached and never called",
		"to change    boot with lsm=lockdown,capability,landlock,", ",bpf\n",
		"check 1\n", "run 125\n",
		"\n0\n0\n", // nothing stays
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}
