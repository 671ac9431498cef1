// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/tma"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// A sample is the value of a series. Each scrape makes hundreds of them, which as metrics of prometheus.NewConstMetric took half
// of its instructions.
type sample struct {
	family *family
	labels []*dto.LabelPair
	value  float64
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.family.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	out.Label = s.labels
	if s.family.kind == counter {
		out.Counter = &dto.Counter{Value: &s.value}
	} else {
		out.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}

// An emitter sends series with the same first labels.
type emitter struct {
	out    chan<- prometheus.Metric
	labels []*dto.LabelPair
}

// of returns an emitter of series with one label more.
func (e emitter) of(l *label, value string) emitter {
	return emitter{e.out, append(slices.Clip(e.labels), &dto.LabelPair{Name: &l.name, Value: &value})}
}

// put sends a series of a family, with the values of the labels that are not the first ones.
func (e emitter) put(f *family, value float64, labels ...string) {
	s := &sample{f, append(make([]*dto.LabelPair, 0, len(f.labels)), e.labels...), value}
	for i := range labels {
		s.labels = append(s.labels, &dto.LabelPair{Name: &f.labels[len(e.labels)+i].name, Value: &labels[i]})
	}
	slices.SortFunc(s.labels, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	e.out <- s
}

func (e emitter) count(f *family, count uint64, labels ...string) {
	e.put(f, float64(count), labels...)
}

// counts sends one series for each value of the last label of a family.
func (e emitter) counts(f *family, counts ...uint64) {
	for i, value := range f.labels[len(f.labels)-1].values {
		e.count(f, counts[i], value)
	}
}

func (e emitter) is(f *family, yes bool, labels ...string) {
	value := 0.0
	if yes {
		value = 1
	}
	e.put(f, value, labels...)
}

// histogram sends decision times, once with classic buckets and once with native ones: both end at the
// powers of two.
func (e emitter) histogram(f *family, d *namespace.DecisionTimes) {
	classic, native := make(map[float64]uint64), make(map[int]int64)
	var count uint64
	for i, n := range d.Buckets {
		count += n
		classic[math.Ldexp(1, namespace.LeastDecision+i)] = count
		if n > 0 {
			native[namespace.LeastDecision+i] = int64(n)
		}
	}
	var labels []string
	for _, l := range e.labels {
		labels = append(labels, l.GetValue())
	}
	sum := d.Sum.Seconds()
	e.out <- bothHistograms{
		prometheus.MustNewConstHistogram(f.desc, count, sum, classic, labels...),
		prometheus.MustNewConstNativeHistogram(f.desc, count, sum, native, nil, 0, 0, 0, time.Time{}, labels...),
	}
}

// bothHistograms is a histogram that has classic and native buckets: who scrapes takes its choice.
type bothHistograms struct {
	prometheus.Metric // the classic one
	native            prometheus.Metric
}

// Write implements prometheus.Metric.
func (b bothHistograms) Write(out *dto.Metric) error {
	var native dto.Metric
	if err := errors.Join(b.native.Write(&native), b.Metric.Write(out)); err != nil {
		return err
	}
	h, n := out.Histogram, native.Histogram
	h.Schema, h.ZeroThreshold, h.ZeroCount, h.PositiveSpan, h.PositiveDelta = n.Schema, n.ZeroThreshold, n.ZeroCount, n.PositiveSpan, n.PositiveDelta
	return nil
}

// engineCollector shows what the kernel half counts.
type engineCollector struct {
	read func() (*Snapshot, error)
}

// NewEngineCollector returns the collector of a whole engine, of which it reads a Snapshot at
// each scrape: Reader.Read. Where that fails the scrape does.
func NewEngineCollector(read func() (*Snapshot, error)) prometheus.Collector {
	return &engineCollector{read}
}

// Describe sends nothing: which namespaces there are nobody knows before.
func (*engineCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends all series of the engine.
func (c *engineCollector) Collect(out chan<- prometheus.Metric) {
	s, err := c.read()
	if err != nil {
		out <- prometheus.NewInvalidMetric(engineInfo.desc, err)
		return
	}
	e := emitter{out: out}.of(&engineLabel, s.Status.ID)
	found := make(map[ProblemKind]uint64)
	for _, p := range s.Problems() {
		found[p.Kind]++
	}
	for _, kind := range problemKinds {
		e.count(problems, found[kind], string(kind))
	}
	e.put(engineInfo, 1, s.Status.Version, string(s.Status.Tier), s.Support.Kernel)
	e.count(engineMemory, s.Status.Memory)
	e.count(keepers, uint64(len(s.Status.Keepers)))
	e.count(namespaces, uint64(len(s.States)))
	for _, hook := range s.Support.Hooks {
		if hook.Present || slices.Contains(s.Status.Missing, hook.Name) {
			e.is(hookAttached, hook.Present && !slices.Contains(s.Status.Detached, hook.Name), hook.Name)
		}
	}
	for _, p := range s.Runs {
		e.count(programRuns, p.Runs, p.Name)
		e.put(programSeconds, p.Time.Seconds(), p.Name)
		e.count(programSkipped, p.Skipped, p.Name)
	}
	waiting := s.waiting()
	for i := range s.States {
		ns := &s.States[i]
		s.collect(e.of(&namespaceLabel, id(ns.Id)), ns, waiting[ns.Id])
	}
}

// Series returns the values of all series of the engine, by name and labels as Prometheus writes
// them: tsem_tasks{engine="0123456789abcdef",namespace="3"}.
func (s *Snapshot) Series() (map[string]float64, error) { return s.series(nil) }

// SeriesOf returns those of a namespace, without the labels that all of them have:
// tsem_events_refused_total{reason="describe"}, tsem_tasks.
func (s *Snapshot) SeriesOf(namespace uint64) (map[string]float64, error) {
	return s.series(map[string]string{"engine": s.Status.ID, "namespace": id(namespace)})
}

// series returns the values of the series that have certain labels, without these.
func (s *Snapshot) series(common map[string]string) (map[string]float64, error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(NewEngineCollector(func() (*Snapshot, error) { return s, nil })); err != nil {
		return nil, err
	}
	found, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	all := make(map[string]float64)
	for _, f := range found {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if value, ok := common[l.GetName()]; !ok || value != l.GetValue() {
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if len(labels)+len(common) == len(m.GetLabel()) {
				all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // one is nil
			}
		}
	}
	return all, nil
}

func id(n uint64) string { return strconv.FormatUint(n, 10) }

// collect sends the series of a namespace.
func (s *Snapshot) collect(e emitter, ns *bpf.Namespace, waiting waits) {
	status := loader.StatusOf(ns)
	e.put(namespaceInfo, 1, id(uint64(status.Keeper)), strconv.FormatBool(status.External), strconv.FormatBool(status.Enforcing),
		strconv.FormatBool(status.Sealed))
	e.is(namespaceState, !status.Orphaned && !status.Closed, stateKept)
	e.is(namespaceState, status.Orphaned && !status.Closed, stateOrphaned)
	e.is(namespaceState, status.Closed, stateClosed)
	e.put(heartbeatAge, s.silence(ns).Seconds())
	e.count(tasks, ns.Tasks)
	e.count(tasksWaiting, waiting.tasks)
	e.put(longestWait, waiting.longest.Seconds())

	e.count(eventsRaised, ns.Raised)
	e.count(eventsDelivered, ns.Delivered)
	e.counts(eventsRefused, ns.Refused[:]...)
	for _, hook := range event.Hooks() {
		if count := ns.RefusedTypes[hook]; count > 0 {
			e.count(eventsRefusedTypes, count, hook.String())
		}
	}
	e.count(eventsCut, ns.Cut)
	e.count(eventsDelayed, ns.Waited)
	e.count(eventsLogged, ns.Logged)
	e.count(eventsDenied, ns.Denied)
	e.count(innerCalls, ns.Inner)
	e.counts(verdicts, ns.Verdicts[verdict.Trusted:]...)
	e.count(lateReleases, ns.Late)
	e.count(tasksLost, ns.TasksLost)
	e.count(execsLost, ns.ExecsLost)
	e.count(creationsLost, ns.CreationsLost)
	e.counts(digests, ns.DigestsIma, ns.DigestsCached, ns.DigestsWanted, ns.DigestsVolatile)

	all, fullest := unread(ns)
	e.count(magazineSize, uint64(ns.Magazine))
	e.count(magazineReserve, uint64(ns.Reserve))
	e.count(magazineUnread, all)
	e.count(magazineShare, uint64(ns.Share))
	e.count(magazineFullest, fullest)
}

// Own is what the keeper of a namespace alone knows of it.
type Own struct {
	Totals       namespace.Totals // Written: lines that the output took
	Gate         verdict.Stats    // zero where nobody waits for verdicts
	Gates        uint64
	Decisions    namespace.DecisionTimes // the same
	Agent        tma.Stats               // zero if the agent is no process
	AgentFailed  bool
	Stuck        time.Duration // how long the write under way has taken
	OutputFailed bool          // nothing can be written to the output
}

// keeperCollector shows what the keeper of a namespace counts.
type keeperCollector struct {
	engine    string
	namespace uint64
	read      func() Own
}

// NewKeeperCollector returns the collector of the keeper of a namespace of an engine, both
// with their ids. read may be called from any goroutine.
func NewKeeperCollector(engine string, namespace uint64, read func() Own) prometheus.Collector {
	return &keeperCollector{engine, namespace, read}
}

// Describe sends nothing, as that of the engine.
func (*keeperCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends all series of the keeper.
func (c *keeperCollector) Collect(out chan<- prometheus.Metric) {
	own := c.read()
	e := emitter{out: out}.of(&engineLabel, c.engine).of(&namespaceLabel, id(c.namespace))
	t, d := &own.Totals, &own.Totals.Digests
	e.count(keeperRead, t.Balance.Delivered)
	e.count(keeperEarlier, t.Earlier)
	for _, hook := range event.Hooks() {
		e.count(keeperTypes, t.Types[hook], hook.String())
	}
	e.count(keeperWritten, t.Written)
	e.count(keeperOmitted, t.Omitted)
	e.count(keeperLost, t.Balance.Lost)
	e.count(keeperNameless, t.Balance.Nameless)
	e.count(keeperUnreadable, t.Unreadable)
	e.is(keeperHeld, t.Held)
	e.count(keeperTaskIDsLost, t.TaskIDsLost)
	e.count(keeperTaskIDsUnshared, t.Unshared)
	e.put(keeperOutputStuck, own.Stuck.Seconds())
	e.is(keeperOutputFailed, own.OutputFailed)
	e.counts(keeperDigests, d.Exact, d.Cached, d.Changed, d.Unsettled, d.Unavailable, d.Overloaded, d.Cancelled)
	e.count(keeperDigestFiles, d.Computed)
	e.count(keeperDigestBytes, d.Bytes)
	e.counts(keeperUndigested, t.Late, t.Crowded)
	e.count(keeperGates, own.Gates)
	e.counts(keeperAsked, own.Gate.Immediate, own.Gate.Slept)
	e.counts(keeperEnded, own.Gate.Late, own.Gate.Killed)
	e.count(keeperSignals, own.Gate.Interrupted)
	e.count(keeperGone, own.Gate.Gone)
	e.count(keeperBad, own.Gate.Bad)
	e.histogram(keeperDecisions, &own.Decisions)
	e.is(keeperAgentFailed, own.AgentFailed)
	e.counts(keeperReplies, own.Agent.Decided, own.Agent.Late)
}
