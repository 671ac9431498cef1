// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/tsemfs"
)

type orchestrateCommand struct {
	Mount   string   `placeholder:"DIR" default:"/run/tsem" help:"Where \"tsem-bpf daemon\" has mounted the files (default ${default})."`
	Command []string `arg:"" optional:"" passthrough:"partial" name:"cmd" help:"The orchestrator and its arguments; -- before it is allowed."`
}

// Help is shown below the flags.
func (orchestrateCommand) Help() string {
	return `Runs an orchestrator that was written for TSEM: CMD, and what it starts, sees the files
of the control plane also at ` + tsemfs.BuiltIn + `. They have a mount
namespace of their own for that; nobody else sees a difference. "tsem-bpf daemon" has
to run already. Needs root.

Exit status: that of CMD, for this process becomes CMD; 127 if there is no CMD, 126 if it
cannot be run, 125 if tsem-bpf failed, 2 for a wrong flag.

Example:
  tsem-bpf orchestrate -- ./orchestrator`
}

// Validate is called by kong.
func (c *orchestrateCommand) Validate() error {
	if len(commandWords(c.Command)) == 0 {
		return errors.New("which command? For example: tsem-bpf orchestrate -- ./orchestrator")
	}
	return nil
}

// Run implements the command.
func (c *orchestrateCommand) Run(*streams) error {
	words := commandWords(c.Command)
	cmd, err := command(words)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // and the exec keeps the thread
	if err := tsemfs.AttachBuiltIn(c.Mount); err != nil {
		return err
	}
	return &exitError{exitNotRunnable, fmt.Errorf("%s: %w", words[0], unix.Exec(cmd.Path, words, os.Environ()))}
}
