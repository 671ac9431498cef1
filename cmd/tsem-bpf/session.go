// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// exportFlags are the flags of every command that writes records.
type exportFlags struct {
	Output  string        `short:"o" placeholder:"FILE" default:"-" help:"Where to write the records; - is standard output. The file is made anew, readable by its owner only."`
	Dialect string        `enum:"current,v3" default:"current" help:"current: with tnum, number and context, as later TSEM versions have them. v3: byte for byte as TSEM v3 (${enum})."`
	Digest  string        `enum:"sha256,sha384,sha512" default:"sha256" help:"Digest function of files and TASK_IDs (${enum}). Only sha256 can come from IMA."`
	NSRef   string        `name:"nsref" enum:"initial,current" default:"initial" help:"User namespace in which uids and gids are shown: the initial one, or the current one of the task (${enum})."`
	Cache   int           `placeholder:"N" default:"${cache}" help:"Events of hooks that cannot sleep for which room is kept in the magazine, 1 KiB each (default ${default})."`
	Wait    time.Duration `placeholder:"D" default:"${wait}" help:"How long a hook that can sleep waits for room in the magazine before its event is refused, at most ${maxwait} (default ${default})."`
	Quiet   bool          `short:"q" help:"No totals on standard error if nothing was lost."`
}

func (f *exportFlags) config() (namespace.Config, event.Dialect, error) {
	dialect, err := event.ParseDialect(f.Dialect)
	if err != nil {
		return namespace.Config{}, 0, err
	}
	hash, err := event.ParseDigest(f.Digest)
	if err != nil {
		return namespace.Config{}, 0, err
	}
	if f.Cache < 1 || f.Cache > namespace.MaxCache {
		return namespace.Config{}, 0, fmt.Errorf("--cache=%d: 1 to %d entries", f.Cache, namespace.MaxCache)
	}
	if f.Wait <= 0 || f.Wait > namespace.MaxWait {
		return namespace.Config{}, 0, fmt.Errorf("--wait=%v: more than 0, at most %v", f.Wait, namespace.MaxWait)
	}
	return namespace.Config{Digest: hash, NSRefCurrent: f.NSRef == "current", Cache: f.Cache, Wait: f.Wait}, dialect, nil
}

// session is a namespace that is being exported: engine, namespace, output.
type session struct {
	flags     *exportFlags
	streams   *streams
	engine    *loader.Engine
	namespace *namespace.Namespace
	output    io.Writer
	name      string
	file      *os.File
	cancel    context.CancelFunc
	exported  chan error // the end of Export
}

// begin opens the output, loads the kernel half and starts to export an empty
// namespace. What fails leaves nothing behind.
func begin(flags *exportFlags, s *streams) (*session, error) {
	config, dialect, err := flags.config()
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	n := &session{flags: flags, streams: s, output: s.out, name: "standard output", exported: make(chan error, 1)}
	if flags.Output != "-" {
		n.name = flags.Output
		n.file, err = os.OpenFile(flags.Output, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		n.output = n.file
	}
	if n.engine, err = loader.Load(); err == nil {
		n.namespace, err = namespace.New(n.engine, config)
	}
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	if missing := n.engine.Missing(); len(missing) > 0 {
		fmt.Fprintf(s.err, "tsem-bpf: this kernel has no hook %s\n", strings.Join(missing, ", "))
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	go func() { n.exported <- n.namespace.Export(ctx, dialect, n.output) }()
	return n, nil
}

// failed is readable when the export has ended before its time.
func (n *session) failed() <-chan error { return n.exported }

// end shuts the namespace, waits for its last record, prints the account and gives
// everything back. early is what failed() gave, if it did.
func (n *session) end(early error) error {
	// The state of a task goes a grace period of the kernel after the task: what is
	// left after this time is running.
	for range 20 {
		if early != nil || n.namespace.Tasks() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.namespace.Shut()
	err := early
	if err == nil {
		err = <-n.exported
	}
	if n.file != nil && err == nil {
		// A full disk may show only now.
		err = n.file.Close()
		n.file = nil
	}
	totals := n.namespace.Totals()
	if err != nil {
		err = fmt.Errorf("write to %s: %w; %d records are written", n.name, cause(err), totals.Written)
	}
	skipped, skippedErr := n.engine.Skipped()
	complete := totals.Complete() && len(skipped) == 0
	if !n.flags.Quiet || !complete || err != nil {
		fmt.Fprintf(n.streams.err, "tsem-bpf: %s%s\n", totals, describeSkipped(skipped))
	}
	return errors.Join(err, skippedErr, n.close())
}

// cause leaves out the operation and path that os puts before an errno.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func describeSkipped(skipped map[string]uint64) string {
	if len(skipped) == 0 {
		return ""
	}
	var hooks []string
	for name, count := range skipped {
		hooks = append(hooks, fmt.Sprintf("%s %d", name, count))
	}
	slices.Sort(hooks)
	return "; skipped by the kernel (" + strings.Join(hooks, ", ") + ")"
}

func (n *session) close() error {
	var errs []error
	if n.cancel != nil {
		n.cancel()
	}
	if n.namespace != nil {
		errs = append(errs, n.namespace.Close())
	}
	if n.engine != nil {
		errs = append(errs, n.engine.Close())
	}
	if n.file != nil {
		errs = append(errs, n.file.Close())
	}
	return errors.Join(errs...)
}
