// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/metrics"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// rootWait is how long in a daemon an event of the host waits for room: orchestrators, too, are tasks of the host, and each
// event of theirs that waits takes that from the deadline of whom they judge. A magazine is read every millisecond.
const rootWait = 100 * time.Millisecond

const rootPrefix = "root-"

// rootFlags are the flags of a daemon that describes the host.
type rootFlags struct {
	RootExport string      `name:"root-export" placeholder:"FILE" help:"Append the security events of the whole host, except those of tasks in other namespaces and of tsem-bpf itself, to this file; - is standard output. SIGHUP opens the file anew. docs/service.md."`
	Root       recordFlags `embed:"" prefix:"root-" set:"wait=${rootwait}"`
}

// unused says whether a flag has no effect, for want of --root-export.
func (f *rootFlags) unused(flag string) bool {
	return f.RootExport == "" && strings.HasPrefix(flag, rootPrefix)
}

// checkRoot says what is wrong with the values of the flags.
func (f *rootFlags) checkRoot() error {
	_, _, err := f.Root.config(rootPrefix)
	return err
}

// checkGiven says what is wrong with their combination.
func (f *rootFlags) checkGiven(given []*kong.Path) error {
	for _, path := range given {
		if path.Flag != nil && f.unused(path.Flag.Name) {
			return &exitError{exitUsage, fmt.Errorf("--%s needs --root-export: without it the host is not described", path.Flag.Name)}
		}
	}
	return nil
}

// rootExport describes the host beside other work, which it never holds up. Its methods do nothing for nil.
type rootExport struct {
	engine    *loader.Engine
	host      io.Closer
	namespace *namespace.Namespace
	output    *lasting
	exported  chan struct{} // closed when Export has returned
	err       error         // what it returned
}

// begin begins to describe the host, if it is to be described, and to write to an output of newLasting.
func (f *rootFlags) begin(engine *loader.Engine, output *lasting) (r *rootExport, err error) {
	if f.RootExport == "" {
		return nil, nil
	}
	config, dialect, err := f.Root.config(rootPrefix)
	if err != nil {
		return nil, err
	}
	r = &rootExport{engine: engine, output: output, exported: make(chan struct{})}
	if r.host, err = loader.ClaimHost(); err != nil {
		return nil, err
	}
	if r.namespace, err = namespace.New(engine, config); err != nil {
		return nil, errors.Join(loader.Explain(err), r.host.Close())
	}
	output.stalled = func(holds bool) {
		wait := config.Wait
		if holds {
			wait = 0
		}
		r.namespace.SetWait(wait)
	}
	if err = output.open(); err == nil {
		err = r.namespace.AdoptHost()
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	go func() {
		defer close(r.exported)
		if r.err = r.namespace.Export(context.Background(), dialect, output); r.err != nil {
			output.say("the host is described no longer: %v", r.err)
		}
	}()
	return r, nil
}

// again opens the file anew. It returns at once.
func (r *rootExport) again() {
	if r != nil {
		go r.output.again()
	}
}

// totals returns the account of the host.
func (r *rootExport) totals() namespace.Totals {
	totals := r.namespace.Totals()
	totals.Written = r.output.written.Load()
	return totals
}

// collectors returns what shows that to operators.
func (r *rootExport) collectors() ([]prometheus.Collector, error) {
	if r == nil {
		return nil, nil
	}
	id, err := r.engine.ID()
	if err != nil {
		return nil, err
	}
	own := func() metrics.Own {
		return metrics.Own{Totals: r.totals(), Stuck: r.output.stuckFor(), OutputFailed: r.output.wrong.Load() != nil}
	}
	return []prometheus.Collector{metrics.NewKeeperCollector(id, r.namespace.ID(), own)}, nil
}

// wrong returns what is wrong, for monitor.serve.
func (r *rootExport) wrong(lasting bool) (all []string) {
	if r == nil {
		return nil
	}
	select {
	case <-r.exported:
		return []string{"the host is described no longer"}
	default:
	}
	if err := r.output.wrong.Load(); err != nil && !lasting {
		all = append(all, "records of the host are not written: "+(*err).Error())
	}
	return all
}

// end ends the description, writes what is left of it, for as long as patience, and prints the account.
func (r *rootExport) end() error {
	if r == nil {
		return nil
	}
	r.namespace.Shut()
	drain(r.exported, nil, true, r.output.stuckFor, r.output.giveUp)
	totals := r.totals()
	skipped, err := r.engine.Skipped()
	r.output.say("the host: %s", account(&totals, skipped, 0))
	return errors.Join(r.err, wrongAccount(&totals), err, r.close())
}

func (r *rootExport) close() error {
	return errors.Join(r.namespace.Close(), r.output.close(), r.host.Close())
}
