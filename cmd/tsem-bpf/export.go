// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

type exportCommand struct {
	exportFlags

	Root     bool           `required:"" help:"Describe the whole host: every task but kernel threads, tsem-bpf itself and those in namespaces of their own."`
	Duration *time.Duration `placeholder:"D" help:"End after this time, for example 30s; without it at SIGINT or SIGTERM."`
}

// Help is shown below the flags.
func (exportCommand) Help() string {
	return `Tasks that were there before have a TASK_ID of zeros until their next exec. The
totals go to standard error at the end. Whoever reads the records on the same
host raises events by reading, which are described in turn: write to a file.

For a host that is described all the time there is "tsem-bpf daemon
--root-export": it appends to its file, and lets it be rotated.

Exit status: 0, or 125 if tsem-bpf failed, 2 for a wrong flag.

Examples:
  tsem-bpf export --root -o events.json --duration 1m
  tsem-bpf export --root --dialect v3 -o events.json`
}

// Validate is called by kong.
func (c *exportCommand) Validate() error {
	if c.Duration != nil && *c.Duration <= 0 {
		return fmt.Errorf("--duration=%v: more than 0; without it export ends at SIGINT or SIGTERM", *c.Duration)
	}
	return nil
}

// Run implements the command.
func (c *exportCommand) Run(std *streams) error {
	if !c.Root {
		return &exitError{exitUsage, errors.New("--root=false: only the whole host can be exported; tsem-bpf run describes a command")}
	}
	signals := make(chan os.Signal, 4)
	notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	defer signal.Stop(signals)

	host, err := loader.ClaimHost()
	if err != nil {
		return err
	}
	defer host.Close()
	s, err := begin(&c.exportFlags, &externalFlags{}, std, signals)
	if err != nil {
		return err
	}
	if err := s.namespace.AdoptHost(); err != nil {
		return errors.Join(err, s.close())
	}
	s.export()
	var over <-chan time.Time
	if c.Duration != nil {
		over = time.After(*c.Duration)
	}
	for {
		select {
		case sent := <-signals:
			if ends(sent) {
				return s.end(true)
			}
		case <-over:
			return s.end(false)
		case <-s.output.failed:
			return s.end(false)
		case <-s.exported:
			return s.end(false)
		}
	}
}
