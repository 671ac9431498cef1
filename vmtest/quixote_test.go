// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestQuixote: orchestrators that were written for TSEM, those of Quixote, learn the model of a workload, let it do the same again, refuse
// what is not in the model, beside each other too, and export events. TSEM_QUIXOTE is the folder where they were built.
func TestQuixote(t *testing.T) {
	folder := os.Getenv("TSEM_QUIXOTE")
	if folder == "" {
		t.Skip("make quixote-test QUIXOTE=FOLDER runs this")
	}
	needExternal(t)
	_, lines := startDaemon(t, "/run/tsem")
	check(t, os.MkdirAll("/var/lib/Quixote/mgmt", 0o755)) // where quixote-us has its sockets
	name, err := os.ReadFile("/etc/hostname")
	check(t, err)
	dir := t.TempDir()

	const known, more = "cat /etc/hostname; ls -d /etc", "cat /etc/hostname; cat /etc/issue; ls -d /etc"
	// A name that is not cached is an event more, where overlayfs looks it up: a check for CAP_SYS_ADMIN. Quixote ends the
	// workload for one that is not in the model, since nobody can wait there.
	check(t, exec.Command("sh", "-c", more).Run())
	// The exit status of quixote-us is 1 whatever happens, so that what the workload says has to tell.
	orchestrate := func(workload, want, script, program string, options ...string) {
		t.Helper()
		words := append([]string{"orchestrate", "--", filepath.Join(folder, program), "-X", "-w", workload}, options...)
		said, _ := exec.Command("tsem-bpf", append(words, "--", "sh", "-c", script)...).CombinedOutput()
		if string(said) != want {
			t.Errorf("%s %v %q said %q, want %q", program, options, script, said, want)
		}
	}
	inTime := func() {
		t.Helper()
		if end := expectLine(t, lines, " releases late"); !strings.Contains(end, ", 0 not in time, 0 releases late") {
			t.Error(end)
		}
	}

	all := string(name) + "/etc\n"
	learn := func(workload string) string {
		t.Helper()
		model := filepath.Join(dir, workload)
		orchestrate(workload, all+"Wrote security map to: "+model+"\n", known, "quixote-us", "-o", model)
		return model
	}
	model := learn("learned")
	inTime()
	if text, err := os.ReadFile(model); err != nil || !bytes.Contains(text, []byte("\nstate ")) || !bytes.Contains(text, []byte("\nseal\n")) {
		t.Fatalf("%v: not the model of a workload: %q", err, text)
	}
	orchestrate("same", all, known, "quixote-us", "-m", model, "-e")
	inTime()
	orchestrate("more", string(name)+"cat: /etc/issue: Operation not permitted\n/etc\n", more, "quixote-us", "-m", model, "-e")
	inTime()

	var both sync.WaitGroup
	both.Go(func() { learn("beside") })
	both.Go(func() { orchestrate("enforced", all, known, "quixote-us", "-m", model, "-e") })
	both.Wait()
	inTime()
	inTime()

	records := filepath.Join(dir, "records")
	orchestrate("exported", all, known, "quixote-export", "-o", records)
	text, err := os.ReadFile(records)
	check(t, err)
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		var record struct {
			Event struct{ Process, Type string }
		}
		check(t, json.Unmarshal([]byte(line), &record))
		seen[fmt.Sprint(record.Event)] = true
	}
	if !seen["{cat file_open}"] || !seen["{ls file_open}"] {
		t.Errorf("quixote-export wrote %v", seen)
	}
}
