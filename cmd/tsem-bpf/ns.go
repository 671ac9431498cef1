// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

type nsCommand struct {
	End nsEnd `cmd:"" help:"End a namespace whose tsem-bpf is gone."`
}

type nsEnd struct {
	ID uint64 `arg:"" name:"namespace" help:"Its id, as \"tsem-bpf engine status\" shows it."`
}

// Help is shown below the flags.
func (nsEnd) Help() string {
	return `An enforcing namespace outlives a tsem-bpf that was killed: what nobody can judge any
more does not happen there. This sets its tasks free; they run on, no longer modeled,
and may then do what nobody has trusted. "tsem-bpf run --takeover" goes on judging them.

Exit status: 0; 1: there is no such namespace, or a tsem-bpf keeps it; 125 if it
cannot be ended.`
}

// Run implements the command.
func (c *nsEnd) Run(*streams) error {
	err := loader.EndNamespace(c.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &exitError{exitUnusable, errors.New("no kernel half is installed")}
	case errors.Is(err, loader.ErrKept):
		return &exitError{exitUnusable, fmt.Errorf("%w; end that process", err)}
	case errors.Is(err, loader.ErrNoNamespace):
		return &exitError{exitUnusable, err}
	}
	return err
}
