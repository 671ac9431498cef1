// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/metrics"
)

type statusCommand struct {
	JSON bool `name:"json" help:"Print JSON instead of text, with all that Prometheus gets to see of the host."`
}

// Help is shown below the flags.
func (statusCommand) Help() string {
	return `All is well if the kernel half is attached, no task is held back for want of a tsem-bpf,
and every tsem-bpf is at work and keeps up with its events. What was lost earlier is in
the account of its namespace. docs/monitoring.md explains each problem. Needs root.

Exit status: 0: all is well; 1: it is not, or no kernel half is installed; 125: that
cannot be known.`
}

// A statusReport is what status --json prints.
type statusReport struct {
	Healthy  bool               `json:"healthy"`
	Problems []metrics.Problem  `json:"problems"`
	Engine   *loader.Status     `json:"engine"`
	Series   map[string]float64 `json:"series"` // as in docs/metrics.md
}

// Run implements the command.
func (c *statusCommand) Run(std *streams) error {
	snapshot, err := takeSnapshot()
	if err != nil {
		return err
	}
	report := statusReport{Problems: append([]metrics.Problem{}, snapshot.Problems()...), Engine: snapshot.Status}
	report.Healthy = len(report.Problems) == 0
	if c.JSON {
		if report.Series, err = snapshot.Series(); err != nil {
			return err
		}
		encoder := json.NewEncoder(std.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.print(std.out, snapshot)
	}
	if err == nil && !report.Healthy {
		err = &exitError{status: exitUnusable}
	}
	return err
}

// takeSnapshot reads the kernel half of this host. The error is errNotInstalled if there is none.
func takeSnapshot() (*metrics.Snapshot, error) {
	engine, err := loader.Peek()
	if err != nil {
		return nil, needInstalled(err)
	}
	defer engine.Close()
	reader, err := metrics.NewReader(engine)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return reader.Read()
}

func (r *statusReport) print(w io.Writer, snapshot *metrics.Snapshot) error {
	if r.Healthy {
		fmt.Fprintln(w, "healthy")
	} else {
		fmt.Fprintln(w, "not healthy:")
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, "  "+p.Text)
	}
	fmt.Fprintln(w)
	if err := printEngine(w, r.Engine); err != nil {
		return err
	}
	tasks, longest := snapshot.Waiting()
	if tasks > 0 {
		fmt.Fprintf(w, "\n%d tasks wait for a verdict, the first of them for %.1f s (tsem-bpf pending)\n", tasks, longest.Seconds())
	}
	return nil
}
