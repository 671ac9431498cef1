// SPDX-License-Identifier: Apache-2.0

// Command tsem-bpf describes the security events of a workload as TSEM does, on a
// stock kernel. tsem-bpf --help tells how to use it.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// Exit statuses of tsem-bpf itself, as env(1) and timeout(1) have them.
const (
	exitUnusable    = 1   // check: this kernel cannot be used as it is; release: no such event waits; status: something is wrong
	exitUsage       = 2   // wrong flag or argument
	exitFailed      = 125 // tsem-bpf failed
	exitNotRunnable = 126 // CMD is there and cannot be run
	exitNotFound    = 127 // CMD is not there
)

type commands struct {
	Check  checkCommand  `cmd:"" help:"Tell what this kernel offers, and what has to change if tsem-bpf cannot be used."`
	Run    runCommand    `cmd:"" help:"Run a command, and write its security events and those of all that it starts."`
	Export exportCommand `cmd:"" help:"Write the security events of the whole host."`

	Daemon      daemonCommand      `cmd:"" help:"Serve the control plane of TSEM for orchestrators."`
	Orchestrate orchestrateCommand `cmd:"" help:"Run an orchestrator that looks for the control plane where TSEM has it."`

	Pending pendingCommand `cmd:"" help:"Show which events wait for a verdict."`
	Release releaseCommand `cmd:"" help:"Decide about an event that waits."`

	Status statusCommand `cmd:"" help:"Tell whether all is well with tsem-bpf on this host, and if not, what to do."`
	Top    topCommand    `cmd:"" help:"Show what tsem-bpf does on this host, live."`

	Engine engineCommand `cmd:"" help:"The kernel half of this host: show, install, remove it."`

	Ns nsCommand `cmd:"" help:"Namespaces of this host."`

	Completion completionCommand `cmd:"" help:"Print what a shell needs to complete commands and flags."`
	Complete   completeCommand   `cmd:"" name:"__complete" hidden:""`

	Version kong.VersionFlag `short:"V" help:"Print the version and exit."`
}

const description = `Describes the security events of a workload in the JSON of TSEM (Trusted
Security Event Modeling), on an unpatched kernel from 6.1 on: BPF LSM programs
capture the events, and tsem-bpf writes one line for each.

Needs root, and a kernel with an active BPF LSM: "tsem-bpf check" tells whether
this one has it.`

// An exitError carries the exit status; without text there is nothing more to say.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// errNotInstalled: there is no kernel half to look at or to change.
var errNotInstalled = &exitError{exitUnusable, errors.New("no kernel half is installed")}

// needInstalled returns an error of package loader, errNotInstalled for fs.ErrNotExist.
func needInstalled(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errNotInstalled
	}
	return err
}

func main() {
	namespace.Main()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run parses the arguments, runs the command and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	exited := -1
	parser, err := newParser(stdout, stderr, func(status int) { exited = status })
	if err != nil {
		fmt.Fprintln(stderr, "tsem-bpf:", err)
		return exitFailed
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	context, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err == nil {
		err = checkValues(context.Path)
	}
	if err != nil {
		fmt.Fprintf(stderr, "tsem-bpf: %v\ntsem-bpf --help tells more\n", err)
		return exitUsage
	}
	return ended(context.Run(&streams{stdout, stderr}), stderr)
}

// ended says what a command has failed with, and returns the exit status.
func ended(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	// One without text has no line, beside others either.
	if text := strings.Trim(err.Error(), "\n"); text != "" {
		fmt.Fprintln(stderr, "tsem-bpf:", text)
	}
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		return exit.status
	}
	return exitFailed
}

// checkValues refuses a flag that is given with nothing: the variable of a script may be empty, and the default is not what its
// author wants. What is named by a number, such as a task, never has 0.
func checkValues(given []*kong.Path) error {
	for _, path := range given {
		if path.Flag == nil {
			continue
		}
		switch value := path.Flag.Target; {
		case value.Kind() == reflect.String && value.String() == "":
			return fmt.Errorf("--%s has no value: leave it out for the default", path.Flag.Name)
		case value.CanUint() && value.Uint() == 0:
			return fmt.Errorf("--%s=0: more than 0", path.Flag.Name)
		}
	}
	return nil
}

// newParser returns the parser of the command line. exit is called by flags that end tsem-bpf.
func newParser(stdout, stderr io.Writer, exit func(status int)) (*kong.Kong, error) {
	return kong.New(&commands{},
		kong.Name("tsem-bpf"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.Vars{"version": version(), "cache": strconv.Itoa(namespace.DefaultCache), "wait": namespace.DefaultWait.String(), "maxwait": namespace.MaxWait.String(),
			"deadline": namespace.DefaultDeadline.String(), "config": defaultConfig, "rootwait": rootWait.String()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 90}),
		kong.UsageOnError(),
		kong.KindMapper(reflect.String, kong.MapperFunc(decodeText)),
	)
}

// decodeText takes the bytes of a word as they are. The library's own takes them through JSON, which has no bytes that are not
// UTF-8: CMD would work on another file than the one that was named.
func decodeText(ctx *kong.DecodeContext, target reflect.Value) error {
	word, err := ctx.Scan.PopValue("string")
	if err == nil {
		target.SetString(word.String())
	}
	return err
}

// streams are where a command writes to.
type streams struct {
	out, err io.Writer
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "tsem-bpf (unknown version)"
	}
	revision := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = " " + s.Value
		}
	}
	return "tsem-bpf " + info.Main.Version + revision
}
