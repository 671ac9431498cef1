// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tsem-bpf/tsem-bpf/metrics"
)

// monitorFlags are the flags with which operators look at a tsem-bpf that keeps a namespace.
type monitorFlags struct {
	Metrics       string `placeholder:"ADDRESS" help:"Answer HTTP requests for /metrics (Prometheus), /healthz and /readyz there: HOST:PORT, for example localhost:9560 or :9560, or systemd: at the socket that systemd hands over. docs/monitoring.md."`
	MetricsConfig string `name:"metrics-config" placeholder:"FILE" help:"TLS and passwords for --metrics: a web configuration of the Prometheus exporter toolkit."`
}

// listen opens the address, before anything is loaded; nil if there is none.
func (f *monitorFlags) listen() (*metrics.Server, error) {
	if f.Metrics == "" {
		if f.MetricsConfig != "" {
			return nil, &exitError{exitUsage, errors.New("--metrics-config needs --metrics: without it nothing is shown")}
		}
		return nil, nil
	}
	if err := metrics.CheckAddress(f.Metrics); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--metrics=%s: %w", f.Metrics, err)}
	}
	server, err := metrics.Listen(f.Metrics, f.MetricsConfig)
	if err != nil {
		return nil, fmt.Errorf("--metrics=%s: %w", f.Metrics, err)
	}
	return server, nil
}

// monitor shows a session to operators.
type monitor struct {
	server     *metrics.Server
	reader     *metrics.Reader // nil: it does not answer yet
	describing atomic.Bool     // from the first event on, until the namespace ends
}

// serve begins to answer for a session whose namespace is made.
func (m *monitor) serve(s *session, stderr io.Writer) error {
	if m.server == nil {
		return nil
	}
	id, err := s.engine.ID()
	if err != nil {
		return err
	}
	if m.reader, err = metrics.NewReader(s.engine); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewBuildInfoCollector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		metrics.NewEngineCollector(m.reader.Read), metrics.NewKeeperCollector(id, s.namespace.ID(), s.own),
	)
	m.server.Serve(registry, func() []string { return m.wrong(s, true) }, func() []string { return m.wrong(s, false) }, stderr)
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
	own := metrics.Own{Totals: s.namespace.Totals(), Stuck: s.output.stuckFor()}
	own.Totals.Written = s.eventsWritten()
	if s.external.External {
		own.Gate, own.Gates = s.namespace.GateStats()
	}
	if s.agent != nil {
		own.Agent, own.AgentFailed = s.agent.Stats(), s.agent.Err() != nil
	}
	return own
}

// wrong returns what is wrong with this process, its namespace and the kernel half, a sentence
// each; with lasting only what does not become right without a new start.
func (m *monitor) wrong(s *session, lasting bool) (all []string) {
	if s.agent != nil && s.agent.Err() != nil {
		all = append(all, s.agent.Err().Error())
	}
	if !s.output.fine() {
		all = append(all, "the records can be written no longer: "+s.output.err.Error())
	}
	snapshot, err := m.reader.Read()
	if err != nil {
		return append(all, err.Error())
	}
	for _, p := range snapshot.Problems() {
		if p.Namespace == 0 || !lasting && p.Namespace == s.namespace.ID() {
			all = append(all, p.Text)
		}
	}
	if !lasting && !m.describing.Load() {
		all = append(all, "no event is described: it has not begun yet, or is over")
	}
	return all
}
