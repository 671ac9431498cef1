// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/metrics"
)

// monitorFlags are the flags with which operators look at a tsem-bpf that keeps a namespace.
type monitorFlags struct {
	Metrics       string `placeholder:"ADDRESS" help:"Answer HTTP requests for /metrics (Prometheus), /healthz and /readyz at this address: HOST:PORT, for example localhost:9560 or :9560, or the word systemd for the socket that systemd hands over. docs/monitoring.md."`
	MetricsConfig string `name:"metrics-config" placeholder:"FILE" help:"TLS and passwords for --metrics: a web configuration of the Prometheus exporter toolkit."`
}

// checkAddress says what is wrong with --metrics alone.
func (f *monitorFlags) checkAddress() error {
	if f.Metrics == "" {
		return nil
	}
	if err := metrics.CheckAddress(f.Metrics); err != nil {
		return fmt.Errorf("--metrics=%s: %w", f.Metrics, err)
	}
	return nil
}

// check says what is wrong with the flags, without opening the address or the file.
func (f *monitorFlags) check() error {
	if f.Metrics == "" && f.MetricsConfig != "" {
		return &exitError{exitUsage, errors.New("--metrics-config needs --metrics: without it nothing is shown")}
	}
	if err := f.checkAddress(); err != nil {
		return &exitError{exitUsage, err}
	}
	return nil
}

// checkFile says what is wrong with the file of --metrics-config.
func (f *monitorFlags) checkFile() error {
	if err := metrics.CheckConfig(f.MetricsConfig); err != nil {
		return fmt.Errorf("--metrics-config=%s: %w", f.MetricsConfig, err)
	}
	return nil
}

// listen opens the address, before anything is loaded; nil if there is none.
func (f *monitorFlags) listen() (*metrics.Server, error) {
	if err := f.check(); err != nil || f.Metrics == "" {
		return nil, err
	}
	server, err := metrics.Listen(f.Metrics, f.MetricsConfig)
	if err != nil {
		return nil, cmp.Or(f.checkFile(), fmt.Errorf("--metrics=%s: %w", f.Metrics, err))
	}
	return server, nil
}

// monitor shows this process, and the host, to operators.
type monitor struct {
	server *metrics.Server
	reader *metrics.Reader // nil: it does not answer yet
}

// serve begins to answer. wrong returns what is wrong with this process, a sentence each; with lasting
// only what does not become right without a new start.
func (m *monitor) serve(engine *loader.Engine, wrong func(lasting bool) []string, stderr io.Writer, own ...prometheus.Collector) (err error) {
	if m.server == nil {
		return nil
	}
	if m.reader, err = metrics.NewReader(engine); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewBuildInfoCollector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(metrics.NewEngineCollector(m.reader.Read))
	registry.MustRegister(own...)
	check := func(lasting bool) metrics.Check {
		return func() (all []string) {
			snapshot, err := m.reader.Read()
			if err != nil {
				return []string{err.Error()}
			}
			for _, p := range snapshot.Problems() {
				if p.Namespace == 0 || !lasting && p.Keeper == engine.Keeper() {
					all = append(all, p.Text)
				}
			}
			return append(all, wrong(lasting)...)
		}
	}
	m.server.Serve(registry, check(true), check(false), stderr)
	return nil
}

// close ends the answering. What is read of the kernel half is not read any more.
func (m *monitor) close() error {
	var err error
	if m.server != nil {
		err = m.server.Close()
	}
	if m.reader != nil {
		err = errors.Join(err, m.reader.Close())
	}
	return err
}

// own returns what only this process knows of its namespace.
func (s *session) own() metrics.Own {
	own := metrics.Own{Totals: s.namespace.Totals(), Stuck: s.output.stuckFor(), OutputFailed: !s.output.fine()}
	own.Totals.Written = s.eventsWritten()
	if s.external.External {
		own.Gate, own.Gates = s.namespace.GateStats()
		own.Decisions = s.namespace.DecisionTimes()
	}
	if s.agent != nil {
		own.Agent, own.AgentFailed = s.agent.Stats(), s.agent.Err() != nil
	}
	return own
}

// monitored begins to show the session to operators.
func (s *session) monitored() error {
	id, err := s.engine.ID()
	if err != nil {
		return err
	}
	return s.monitor.serve(s.engine, s.wrong, s.streams.err, metrics.NewKeeperCollector(id, s.namespace.ID(), s.own))
}

// wrong returns what is wrong with this session, for monitor.serve.
func (s *session) wrong(lasting bool) (all []string) {
	if s.agent != nil && s.agent.Err() != nil {
		all = append(all, s.agent.Err().Error())
	}
	if !s.output.fine() {
		all = append(all, "the records can be written no longer: "+s.output.err.Error())
	}
	if !lasting && !s.describing.Load() {
		all = append(all, "no event is described: it has not begun yet, or is over")
	}
	return all
}
