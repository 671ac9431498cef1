// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

type engineCommand struct {
	Status  engineStatus  `cmd:"" help:"Show the kernel half of this host: who uses it, and for what."`
	Install engineInstall `cmd:"" help:"Install the kernel half, to stay until a reboot: then every tsem-bpf starts at once."`
	Remove  engineRemove  `cmd:"" help:"Remove the kernel half."`
}

type engineStatus struct {
	JSON bool `name:"json" help:"Print JSON instead of text."`
}

// Help is shown below the flags.
func (engineStatus) Help() string {
	return `The kernel half, the BPF programs and maps of tsem-bpf, is pinned below /sys/fs/bpf.
The first tsem-bpf installs it and the last one removes it, unless it is there to stay
(engine install). Needs root.

Exit status: 0; 1: no kernel half is installed; 125: that cannot be known.`
}

// Run implements the command.
func (c *engineStatus) Run(std *streams) error {
	e, err := loader.Peek()
	if err != nil {
		return needInstalled(err)
	}
	s, err := e.Status()
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(std.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(s)
	}
	return printEngine(std.out, s)
}

// printEngine prints what the kernel half says of itself.
func printEngine(w io.Writer, s *loader.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("id", "%s", s.ID)
	row("version", "%s", s.Version)
	row("folder", "%s", s.Folder)
	row("stays", "%s", map[bool]string{true: "until it is removed", false: "as long as a tsem-bpf runs"}[s.Stays])
	row("tier", "%s", s.Tier)
	row("programs", "%d", s.Programs)
	if len(s.Detached) > 0 {
		row("detached", "%s", strings.Join(s.Detached, " "))
	}
	if len(s.Missing) > 0 {
		row("missing hooks", "%s", strings.Join(s.Missing, " "))
	}
	row("memory", "%.1f MiB", float64(s.Memory)/(1<<20))
	row("TASK_IDs", "%d", s.TaskIDs)
	row("keepers", "%s", strings.Trim(fmt.Sprint(s.Keepers), "[]"))
	row("namespaces", "%d", len(s.Namespaces))
	if err := t.Flush(); err != nil || len(s.Namespaces) == 0 {
		return err
	}
	fmt.Fprintln(t, "\nNAMESPACE\tKEEPER\tKIND\tTASKS\tRAISED\tDELIVERED\tREFUSED")
	for _, n := range s.Namespaces {
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%d\t%d\t%d\n", n.ID, processOf(n.Keeper), n.Kind(), n.Tasks, n.Raised, n.Delivered, n.Refused)
	}
	return t.Flush()
}

type engineInstall struct{}

// Help is shown below the flags.
func (engineInstall) Help() string {
	return `Takes seconds, once; after a reboot it has to be done again. What the kernel half costs
tasks that are not modeled, some instructions for each hook, is in README.md.

Exit status: 0, also if it was there; 125 if it cannot be installed.`
}

// Run implements the command.
func (engineInstall) Run(*streams) error {
	e, err := loader.Open()
	if err != nil {
		return err
	}
	return errors.Join(e.Stay(true), e.Close())
}

type engineRemove struct {
	Force bool `help:"Remove it also if it is in use: its namespaces end, and their tasks run on, no longer modeled."`
}

// Help is shown below the flags.
func (engineRemove) Help() string {
	return `The kernel detaches the programs in its own time, some seconds later. Needs root.

Exit status: 0; 1: the kernel half is in use, or none is installed; 125: it cannot be
removed.`
}

// Run implements the command.
func (c *engineRemove) Run(*streams) error {
	err := loader.Remove(c.Force)
	if errors.Is(err, loader.ErrInUse) {
		return &exitError{exitUnusable, fmt.Errorf("%w by %s; end them first, or give --force", err, users())}
	}
	return needInstalled(err)
}

// users says who uses the kernel half.
func users() string {
	e, err := loader.Peek()
	if err != nil {
		return "a tsem-bpf of another version"
	}
	s, err := e.Status()
	switch {
	case err != nil:
		return "somebody"
	case len(s.Keepers) > 0:
		return "the processes " + strings.Trim(fmt.Sprint(s.Keepers), "[]")
	}
	var held []uint64
	for _, ns := range s.Namespaces {
		held = append(held, ns.ID)
	}
	return "the namespaces " + strings.Trim(fmt.Sprint(held), "[]") + ", which hold tasks back though nobody keeps them (tsem-bpf ns end)"
}
