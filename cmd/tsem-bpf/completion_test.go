// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestCompletion: a shell asks by a variable, and gets words only; none for what it
// completes itself.
func TestCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"tsem-bpf":                                   "",
		"tsem-bpf ":                                  "check run export daemon orchestrate pending release status top engine ns completion",
		"tsem-bpf  e":                                "export engine",
		"tsem-bpf --v":                               "--version",
		"tsem-bpf wrong ":                            "",
		"tsem-bpf check --":                          "--help --version --json",
		"tsem-bpf top --":                            "--help --version --interval --once",
		"tsem-bpf run --di":                          "--dialect --digest",
		"tsem-bpf run --dialect ":                    "current v3",
		"tsem-bpf run --dialect v":                   "v3",
		"tsem-bpf run --dialect=":                    "current v3",
		"tsem-bpf run --wrong=":                      "",
		"tsem-bpf run --cache=1":                     "",
		"tsem-bpf run -o ":                           "",
		"tsem-bpf run -o --di":                       "",
		"tsem-bpf run -q -o FILE --dialect v3 --dig": "--digest",
		"tsem-bpf run ":                              "",
		"tsem-bpf run -- ":                           "",
		"tsem-bpf run -q -- ls --di":                 "",
		"tsem-bpf run -q ls --di":                    "",
		"tsem-bpf run --tma ":                        "trust exec:",
		"tsem-bpf run --events inode_c":              "inode_create",
		"tsem-bpf run --events=all,!capab":           "all,!capable",
		"tsem-bpf run --external --deny=capable,al":  "capable,all",
		"tsem-bpf run --events=all,!v":               "",
		"tsem-bpf run --events=all,!al":              "",
		"tsem-bpf run --on-failure=":                 "open closed",
		"tsem-bpf export --r":                        "--root",
		"tsem-bpf daemon --root-d":                   "--root-dialect --root-digest",
		"tsem-bpf daemon --root-events=!inode_c":     "!inode_create",
		"tsem-bpf ns ":                               "list show enforce seal end",
		"tsem-bpf completion ":                       "bash zsh fish",
		"tsem-bpf completion f":                      "fish",
	} {
		t.Setenv("COMP_LINE", line)
		t.Setenv("COMP_POINT", strconv.Itoa(len(line)))
		var out, errs bytes.Buffer
		status := run([]string{"__complete"}, &out, &errs)
		if got := strings.Join(strings.Fields(out.String()), " "); status != 0 || got != want || errs.Len() != 0 {
			t.Errorf("[%s] status %d: %q %q, want %q", line, status, got, errs.String(), want)
		}
	}
	// What is behind the cursor does not matter.
	t.Setenv("COMP_LINE", "tsem-bpf ex --root")
	t.Setenv("COMP_POINT", "11")
	var out bytes.Buffer
	if run([]string{"__complete"}, &out, &out); out.String() != "export\n" {
		t.Errorf("in the middle: %q", out.String())
	}
}

// TestCompletionVariables: that a shell completes something does not change what a command is, which a completion may start.
func TestCompletionVariables(t *testing.T) {
	t.Setenv("COMP_LINE", "tsem-bpf ex")
	t.Setenv("COMP_POINT", "11")
	var out bytes.Buffer
	if status := run([]string{"run", "no-such-command"}, &out, &out); status != exitNotFound {
		t.Errorf("status %d, %s", status, out.String())
	}
}

// TestCompletionScript: what is printed is for the shell that is named, else that of the
// user, and says where tsem-bpf is.
func TestCompletionScript(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, words string
		status      int
		says        string
	}{
		{"/bin/sh", "completion bash", 0, "_tsem_bpf() { '" + self + "' __complete; }\ncomplete -o default -C _tsem_bpf tsem-bpf\n"},
		{"/bin/zsh", "completion", 0, "bashcompinit"},
		{"/usr/bin/fish", "completion", 0, "set -l words ('" + self + "' __complete)"},
		{"/usr/bin/fish", "completion zsh", 0, "bashcompinit"},
		{"/bin/tcsh", "completion", exitUsage, `no completion for the shell "tcsh": name bash, zsh or fish`},
	} {
		t.Setenv("SHELL", test.user)
		var out bytes.Buffer
		if status := run(strings.Fields(test.words), &out, &out); status != test.status || !strings.Contains(out.String(), test.says) {
			t.Errorf("%s with %s: status %d, %q; want %d, %q in it", test.words, test.user, status, out.String(), test.status, test.says)
		}
	}
}

// TestCompletionShells: each shell that is here takes its script, wherever tsem-bpf lies, and calls it with the line.
func TestCompletionShells(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "it's  a\\\\ \\'`$(false)$0\"")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(folder, "tsem-bpf")
	if err := os.WriteFile(self, []byte("#!/bin/sh\necho \"$*:$COMP_LINE\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for shell, asks := range map[string]string{
		"bash": `COMP_LINE="tsem-bpf ex" _tsem_bpf tsem-bpf ex tsem-bpf`,
		"zsh":  `COMP_LINE="tsem-bpf ex" _tsem_bpf`,
		"fish": `complete -C "tsem-bpf ex"`,
	} {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		text, _ := script(shell, self)
		cmd := exec.Command(shell, "-c", text+asks)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "__complete:tsem-bpf ex\n" {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}
