// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/loader"
)

type checkCommand struct {
	JSON bool `name:"json" help:"Print JSON instead of text."`
}

// Help is shown below the flags.
func (checkCommand) Help() string {
	return `Loads small BPF programs, attaches one for a moment to see it run, and leaves
nothing behind. docs/kernels.md tells what the tiers are. Needs root.

Exit status: 0: tsem-bpf can be used here; 1: it cannot, and the last line says what
to change; 125: that cannot be known.`
}

// A checkReport is what check --json prints.
type checkReport struct {
	*loader.Support
	Usable  bool     `json:"usable"`
	Missing []string `json:"missing"`
	Problem string   `json:"problem,omitempty"`
	Remedy  string   `json:"remedy,omitempty"`
}

// Run implements the command.
func (c *checkCommand) Run(std *streams) error {
	support, err := loader.Probe()
	return c.tell(std, support, err)
}

// tell tells what Probe has returned.
func (c *checkCommand) tell(std *streams, support *loader.Support, err error) error {
	var problem *loader.SupportError
	if err != nil && !errors.As(err, &problem) {
		return err
	}
	report := reportOn(support, problem)
	if c.JSON {
		encoder := json.NewEncoder(std.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.print(std)
	}
	if err == nil && !report.Usable {
		err = &exitError{status: exitUnusable}
	}
	return err
}

// reportOn returns the report of what Probe has found. problem is nil if tsem-bpf can be used.
func reportOn(support *loader.Support, problem *loader.SupportError) *checkReport {
	r := &checkReport{Support: support, Usable: problem == nil, Missing: []string{}}
	if support != nil {
		r.Missing = append(r.Missing, support.Missing()...)
		// Not null in JSON.
		support.LSMs = append([]string{}, support.LSMs...)
		support.Hooks = append([]loader.HookSupport{}, support.Hooks...)
	}
	if problem != nil {
		r.Problem = fmt.Sprintf("%v: %s", problem.Err, problem.Detail)
		r.Remedy = problem.Remedy
	}
	return r
}

func (r *checkReport) print(std *streams) error {
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	row := func(name string, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("kernel", "%s", r.Kernel)
	if len(r.LSMs) > 0 {
		row("active LSMs", "%s", strings.Join(r.LSMs, ","))
	}
	if r.Usable {
		present, sleepable := 0, 0
		for _, h := range r.Hooks {
			if h.Present {
				present++
			}
			if h.Sleepable {
				sleepable++
			}
		}
		row("tier", "%s: %s", r.Tier, r.TierReason)
		waits := "cannot wait for an agent: run --external needs tier sleep or poll"
		switch r.Tier {
		case loader.TierSleep:
			waits = "can wait for an agent (run --external)"
		case loader.TierPoll:
			waits = "can wait for an agent (run --external), and keep their CPU busy meanwhile"
		}
		row("events", "%s", waits)
		row("digests", "%s", r.Digests)
		row("hooks", "%d of %d present, %d of them sleepable", present, len(r.Hooks), sleepable)
		fmt.Fprintln(t)
		for _, h := range r.Hooks {
			purpose, state := "event", "atomic"
			if !h.Event {
				purpose = "bookkeeping"
			} else if int(h.Ordinal) >= bpf.HookLater {
				purpose = "event, if asked for"
			}
			if h.Sleepable {
				state = "sleepable"
			}
			if !h.Present {
				state = "missing"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", h.Name, purpose, state)
		}
		fmt.Fprintln(t)
		row("usable", "yes")
	} else {
		row("usable", "no: %s", r.Problem)
		row("to change", "%s", r.Remedy)
	}
	return t.Flush()
}
