// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/metrics"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

type nsCommand struct {
	List    nsList    `cmd:"" help:"Show the namespaces of this host."`
	Show    nsShow    `cmd:"" help:"Show all that is known of a namespace."`
	Enforce nsEnforce `cmd:"" help:"Refuse what is not trusted in a namespace, from now on."`
	Seal    nsSeal    `cmd:"" help:"Forbid further changes of what is refused in a namespace."`
	End     nsEnd     `cmd:"" help:"End a namespace whose tsem-bpf or orchestrator is gone."`
}

// A nsID is the argument that names a namespace.
type nsID struct {
	ID uint64 `arg:"" name:"namespace" list:"namespaces" help:"Its id, as \"tsem-bpf ns list\" shows it."`
}

// unusable makes the error of a command about a namespace one with the exit status for what
// cannot be done.
func unusable(err error) error {
	switch {
	case errors.Is(err, loader.ErrKept):
		return &exitError{exitUnusable, fmt.Errorf("%w; end that process", err)}
	case errors.Is(err, loader.ErrNoNamespace), errors.Is(err, namespace.ErrSealed):
		return &exitError{exitUnusable, err}
	}
	return needInstalled(err)
}

// A nsReport is what ns list --json prints of a namespace, and ns show --json.
type nsReport struct {
	loader.NamespaceStatus
	Command     string             `json:"command"`      // of the keeper
	Waiting     uint64             `json:"waiting"`      // tasks that wait for a verdict
	LongestWait float64            `json:"longest_wait"` // s, of the first of them
	Events      []string           `json:"events"`       // types that are raised
	Deny        []string           `json:"deny"`         // types whose action is DENY, not LOG
	FailOpen    bool               `json:"fail_open"`    // what nobody could judge happens although its action is DENY
	Digest      string             `json:"digest"`       // the function
	NSRef       string             `json:"nsref"`        // initial or current
	Deadline    float64            `json:"deadline"`     // s that an event waits for its verdict
	Wait        float64            `json:"wait"`         // s that an event waits for room
	Cache       int                `json:"cache"`        // KiB that each hook that cannot sleep has to itself
	Magazine    uint32             `json:"magazine"`     // bytes
	Series      map[string]float64 `json:"series,omitempty"`
}

func reportOf(snapshot *metrics.Snapshot, state *bpf.Namespace) *nsReport {
	config := namespace.ConfigOf(state)
	r := &nsReport{
		NamespaceStatus: loader.StatusOf(state), Command: commandOf(state.Keeper),
		Events: names(config.Events), Deny: names(config.Deny), FailOpen: config.FailOpen,
		Digest: strings.ToLower(strings.ReplaceAll(config.Digest.String(), "-", "")), NSRef: "initial",
		Deadline: config.Deadline.Seconds(), Wait: config.Wait.Seconds(), Cache: config.Cache, Magazine: state.Magazine,
	}
	if config.Enforce {
		r.Deny = names(event.Hooks())
	}
	if config.NSRefCurrent {
		r.NSRef = "current"
	}
	waiting, longest := snapshot.WaitingIn(state.Id)
	r.Waiting, r.LongestWait = waiting, longest.Seconds()
	return r
}

func names(hooks []event.Hook) []string {
	all := []string{}
	for _, hook := range hooks {
		all = append(all, hook.String())
	}
	return all
}

// commandOf returns the command line of a process, "" if it is gone or in no pid namespace that
// this one sees.
func commandOf(pid uint32) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte(" ")))
}

// processOf returns a process id for a table; 0 is none.
func processOf(pid uint32) string {
	if pid == 0 {
		return "-"
	}
	return strconv.FormatUint(uint64(pid), 10)
}

// actions says which events are refused.
func (r *nsReport) actions() string {
	switch len(r.Deny) {
	case 0:
		return "LOG"
	case len(event.Hooks()):
		return "DENY"
	}
	return "DENY " + strings.Join(r.Deny, ",")
}

// events says which events are raised.
func (r *nsReport) events() string {
	switch {
	case len(r.Events) == len(event.Hooks()):
		return "all"
	case slices.Equal(r.Events, names(event.V3Hooks())):
		return "v3"
	}
	return strings.Join(r.Events, ",")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

type nsList struct {
	JSON bool `name:"json" help:"Print a line of JSON for each namespace instead of a table."`
}

// Help is shown below the flags.
func (nsList) Help() string {
	return `Shows every namespace of this host, a line each:

  KIND     external: its events wait for verdicts; export: they do not
  KEEPER   the process that keeps it
  TASKS    how many are in it
  WAITING  how many of them wait
  RAISED   how many events there were
  ACTION   for what is not trusted. LOG: it happens; DENY: it does not, or only
           not if it is of the types that follow
  SEALED   whether the action cannot be changed any more
  COMMAND  that of the keeper

Needs root.

Exit status: 0, also if there is none; 125: that cannot be known.`
}

// Run implements the command.
func (c *nsList) Run(std *streams) error {
	snapshot, err := takeSnapshot()
	if errors.Is(err, errNotInstalled) {
		snapshot, err = new(metrics.Snapshot), nil
	}
	if err != nil {
		return err
	}
	var all []*nsReport
	for i := range snapshot.States {
		all = append(all, reportOf(snapshot, &snapshot.States[i]))
	}
	if c.JSON {
		encoder := json.NewEncoder(std.out)
		for _, r := range all {
			err = errors.Join(err, encoder.Encode(r))
		}
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(std.err, "tsem-bpf: there is no namespace")
		return nil
	}
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tKIND\tKEEPER\tTASKS\tWAITING\tRAISED\tACTION\tSEALED\tCOMMAND")
	for _, r := range all {
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", r.ID, r.Kind(), processOf(r.Keeper),
			r.Tasks, r.Waiting, r.Raised, r.actions(), yes(r.Sealed), printable(r.Command))
	}
	return t.Flush()
}

type nsShow struct {
	nsID
	JSON bool `name:"json" help:"Print JSON instead of text."`
}

// Help is shown below the flags.
func (nsShow) Help() string {
	return `Shows what a namespace is, how it was made, and what the kernel half has counted of it,
by the names of docs/metrics.md; the text leaves out what is 0. Needs root.

Exit status: 0; 1: there is no such namespace; 125: that cannot be known.`
}

// Run implements the command.
func (c *nsShow) Run(std *streams) error {
	snapshot, err := takeSnapshot()
	if err != nil {
		return unusable(err)
	}
	i := slices.IndexFunc(snapshot.States, func(ns bpf.Namespace) bool { return ns.Id == c.ID })
	if i < 0 {
		return unusable(fmt.Errorf("%w: %d", loader.ErrNoNamespace, c.ID))
	}
	r := reportOf(snapshot, &snapshot.States[i])
	if r.Series, err = snapshot.SeriesOf(c.ID); err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(std.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	return r.print(std)
}

func (r *nsReport) print(std *streams) error {
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	seconds := func(s float64) time.Duration { return time.Duration(math.Round(s * float64(time.Second))) }
	row("namespace", "%d", r.ID)
	row("kind", "%s", r.Kind())
	row("keeper", "%s %s", processOf(r.Keeper), printable(r.Command))
	if r.Orchestrated {
		row("orchestrator", "%s %s", processOf(r.Orchestrator), printable(commandOf(r.Orchestrator)))
	}
	row("tasks", "%d", r.Tasks)
	row("events", "%s", r.events())
	row("action", "%s", r.actions())
	row("sealed", "%s", yes(r.Sealed))
	if r.External {
		row("waiting", "%d", r.Waiting)
		if r.Waiting > 0 {
			row("the first for", "%.1f s", r.LongestWait)
		}
		row("deadline", "%v", seconds(r.Deadline))
		row("not judged", "%s", map[bool]string{true: "happens", false: "as the action says"}[r.FailOpen])
	}
	row("digest", "%s", r.Digest)
	row("nsref", "%s", r.NSRef)
	row("magazine", "%d KiB, of these %d for each hook that cannot sleep", r.Magazine>>10, r.Cache)
	row("wait", "%v for room in it", seconds(r.Wait))
	fmt.Fprintln(t)
	for _, name := range slices.Sorted(maps.Keys(r.Series)) {
		if value := r.Series[name]; value != 0 {
			row(name, "%s", strconv.FormatFloat(value, 'f', -1, 64))
		}
	}
	return t.Flush()
}

type nsEnforce struct{ nsID }

// Help is shown below the flags.
func (nsEnforce) Help() string {
	return `Makes DENY the action of all events of the namespace, whoever keeps it, as "enforce" in the
control file and --enforce of "tsem-bpf run" do: an event that is judged untrusted does not
happen, and neither does what an untrusted task does. This cannot be undone. In a namespace
of the kind export nobody judges, so that nothing is ever refused. Needs root.

Exit status: 0, also if it enforced already; 1: there is no such namespace, or it is
sealed; 125: that failed.`
}

// Run implements the command.
func (c *nsEnforce) Run(*streams) error { return unusable(namespace.Enforce(c.ID)) }

type nsSeal struct{ nsID }

// Help is shown below the flags.
func (nsSeal) Help() string {
	return `Forbids all further changes of the actions of its events, whoever keeps it, as "seal" in
the control file does. This cannot be undone. Needs root.

Exit status: 0; 1: there is no such namespace, or it is sealed already; 125: that failed.`
}

// Run implements the command.
func (c *nsSeal) Run(*streams) error { return unusable(namespace.Seal(c.ID)) }

type nsEnd struct{ nsID }

// Help is shown below the flags.
func (nsEnd) Help() string {
	return `An enforcing namespace outlives a tsem-bpf that was killed, and one of "tsem-bpf daemon"
also outlives its orchestrator and the daemon. What nobody can judge any more does not
happen there. This command sets its tasks free: they run on, no longer modeled, and may
then do what nobody has trusted. To go on judging them instead there is "tsem-bpf run
--takeover", or "takeover" in the control file. Needs root.

Exit status: 0; 1: there is no such namespace, or a tsem-bpf keeps it and its events can
be judged; 125: it cannot be ended.`
}

// Run implements the command.
func (c *nsEnd) Run(*streams) error { return unusable(loader.EndNamespace(c.ID)) }
