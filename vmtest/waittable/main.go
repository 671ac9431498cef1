// SPDX-License-Identifier: Apache-2.0

// Command waittable writes docs/waits.md: what the events of each hook do on each kernel of
// vmtest/kernels.list while an agent judges them, as tsem-bpf check --json says it there.
// make wait-table runs it at the top of the checkout.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const (
	list  = "vmtest/kernels.list"
	table = "docs/waits.md"
)

const head = `<!-- SPDX-License-Identifier: Apache-2.0 -->
# Which event can wait on which kernel

Made by ` + "`make wait-table`" + ` from what ` + "`tsem-bpf check --json`" + ` says on each kernel of the tests, whose [tier](kernels.md#tiers) stands in its
column; ` + "`TestWaitTable`" + ` compares. *waits*: an event of this hook waits until an agent has judged it ([how](blocking.md)). *no*: it does not
wait, because the hook cannot sleep there, so that it is an ` + "`async_event`" + `, or because no event of this kernel can. *–*: the kernel does not
have the hook. POSIX ACLs have a hook of their own, whose event does not wait ([events](events.md#posix-acls)).

`

// A report is what is needed of check --json.
type report struct {
	Tier  string
	Hooks []struct {
		Name                  string
		Event, Present, Waits bool
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "waittable:", err)
		os.Exit(1)
	}
}

func run() error {
	kernels, err := kernels()
	if err != nil {
		return err
	}
	reports := make([]report, len(kernels))
	for i, kernel := range kernels {
		if reports[i], err = check(kernel); err != nil {
			return fmt.Errorf("kernel %s: %w", kernel, err)
		}
	}
	var text strings.Builder
	text.WriteString(head)
	write(&text, kernels, reports)
	return os.WriteFile(table, []byte(text.String()), 0o644)
}

// kernels returns the names in the list, the oldest kernel first.
func kernels() (names []string, err error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "#" {
			names = append(names, fields[0])
		}
	}
	slices.Reverse(names)
	return names, nil
}

// check runs tsem-bpf check on a kernel.
func check(kernel string) (r report, err error) {
	cmd := exec.Command("vmtest/run", "-r", "-k", kernel, "-t", "280", "--", "tsem-bpf", "check", "--json")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, err
	}
	if len(r.Hooks) == 0 {
		return r, errors.New("no hooks")
	}
	return r, nil
}

func write(w io.Writer, kernels []string, reports []report) {
	fmt.Fprint(w, "| hook |")
	for i, kernel := range kernels {
		fmt.Fprintf(w, " %s (%s) |", kernel, reports[i].Tier)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(kernels)))
	// The hooks are those of the object, the same on all kernels.
	for i, hook := range reports[0].Hooks {
		if !hook.Event {
			continue
		}
		fmt.Fprintf(w, "| %s |", hook.Name)
		for _, r := range reports {
			cell := "no"
			if h := r.Hooks[i]; h.Waits {
				cell = "waits"
			} else if !h.Present {
				cell = "–"
			}
			fmt.Fprintf(w, " %s |", cell)
		}
		fmt.Fprintln(w)
	}
}
