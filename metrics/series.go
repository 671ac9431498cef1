// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// A family is all series of one name.
type family struct {
	name   string
	kind   prometheus.ValueType
	help   string
	labels []label
	desc   *prometheus.Desc
}

// A label is one whose values are known, or else said in words.
type label struct {
	name   string
	values []string
	words  string
}

var (
	engineLabel    = label{name: "engine", words: "id of the kernel half"}
	namespaceLabel = label{name: "namespace", words: "id of the namespace"}

	hookLabel    = label{name: "hook", words: "name of a hook"}
	programLabel = label{name: "program", words: "name of a program, that of its hook"}
	reasonLabel  = label{name: "reason", values: bpf.Refusals[:]}
	verdictLabel = label{name: "verdict", values: verdictNames()}
	stateLabel   = label{name: "state", values: []string{stateKept, stateOrphaned, stateClosed}}
	problemLabel = label{name: "problem", values: names(problemKinds)}
	sourceLabel  = label{name: "source", values: []string{"ima", "known", "keeper", "none"}}
	answerLabel  = label{name: "answer", values: []string{"exact", "known", "changed", "unsettled", "unavailable", "overloaded", "cancelled"}}
	whyLabel     = label{name: "reason", values: []string{"late", "crowded"}}
	wokenLabel   = label{name: "woken", values: []string{"at_once", "later"}}
	endedLabel   = label{name: "reason", values: []string{"deadline", "killed"}}
	typeLabel    = label{name: "type", values: typeNames()}
	effectLabel  = label{name: "effect", values: []string{"decided", "late"}}
)

// The states of a namespace.
const (
	stateKept     = "kept"     // a process keeps it
	stateOrphaned = "orphaned" // it enforces, and its keeper was killed
	stateClosed   = "closed"   // it raises no more events
)

func names[T ~string](values []T) (all []string) {
	for _, v := range values {
		all = append(all, string(v))
	}
	return all
}

// verdictNames returns the names of the verdicts, None left out, by their value less one.
func verdictNames() (all []string) {
	for v := verdict.Trusted; int(v) < bpf.VerdictMax; v++ {
		all = append(all, v.String())
	}
	return all
}

// typeNames returns the types of events, in the order of event.Hooks.
func typeNames() (all []string) {
	for _, hook := range event.Hooks() {
		all = append(all, hook.String())
	}
	return all
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
	// A histogram has no value of its own (emitter.histogram).
	histogram prometheus.ValueType = 0
)

// families are all that there are, in the order of docs/metrics.md.
var families []*family

// newFamily declares a family. Each has the label of the engine, those of namespaces that of the
// namespace too.
func newFamily(name string, kind prometheus.ValueType, help string, labels ...label) *family {
	f := &family{name: name, kind: kind, help: help, labels: append([]label{engineLabel}, labels...)}
	var words []string
	for _, l := range f.labels {
		words = append(words, l.name)
	}
	f.desc = prometheus.NewDesc(name, help, words, nil)
	families = append(families, f)
	return f
}

// ofNamespace declares a family of which each namespace has its series.
func ofNamespace(name string, kind prometheus.ValueType, help string, labels ...label) *family {
	return newFamily(name, kind, help, append([]label{namespaceLabel}, labels...)...)
}

// The whole engine.
var (
	problems = newFamily("tsem_problems", gauge,
		"What is wrong on this host at the moment and needs somebody to act: 0 is healthy. tsem-bpf status says it in words.", problemLabel)
	engineInfo = newFamily("tsem_engine_info", gauge,
		"Always 1; the kernel half: its version, the tier of the kernel (sleep, poll: events can wait for verdicts) and the release of the kernel.",
		label{name: "version", words: "digest of the BPF object"}, label{name: "tier", values: []string{"sleep", "poll", "export"}}, label{name: "kernel", words: "release"})
	engineMemory = newFamily("tsem_engine_memory_bytes", gauge,
		"Memory of the maps that all namespaces share. A namespace takes its magazine and about 1 MiB more.")
	keepers = newFamily("tsem_keepers", gauge,
		"Processes that use the kernel half.")
	namespaces = newFamily("tsem_namespaces", gauge,
		"Modeling namespaces that exist, at most 1023.")
	hookAttached = newFamily("tsem_hook_attached", gauge,
		"1 if the program of the hook is attached; 0 if the kernel does not have the hook, or somebody removed its link: then its events do not come.", hookLabel)
	programRuns = newFamily("tsem_program_runs_total", counter,
		"Runs of the program, for all tasks of the host, while the sysctl kernel.bpf_stats_enabled is 1; else it stands still.", programLabel)
	programSeconds = newFamily("tsem_program_run_seconds_total", counter,
		"Time that these runs took, waits for a verdict included.", programLabel)
	programSkipped = newFamily("tsem_program_skipped_total", counter,
		"Runs that the kernel left out because the program was already running on that CPU: events that nobody saw. Only on kernels of tier export; or of task_exit since 7.0, which raises no events, and nothing is lost.", programLabel)
)

// Each namespace, as the kernel half counts it.
var (
	namespaceInfo = ofNamespace("tsem_namespace_info", gauge,
		"Always 1; what the namespace is: the process that keeps it (0: none), whether its tasks wait for verdicts, whether what nobody can judge is refused, and whether it is sealed, so that what is refused does not change any more.",
		label{name: "keeper", words: "process id"}, label{name: "external", values: []string{"true", "false"}}, label{name: "enforcing", values: []string{"true", "false"}},
		label{name: "sealed", values: []string{"true", "false"}})
	namespaceState = ofNamespace("tsem_namespace_state", gauge,
		"1 for the state in which the namespace is, 0 for the others: kept by a process; orphaned: enforcing, and its keeper was killed; closed: raises no more events.", stateLabel)
	heartbeatAge = ofNamespace("tsem_heartbeat_age_seconds", gauge,
		"How long ago the keeper of a namespace whose tasks wait last showed a sign of life; less than a second is normal. 0 where nobody waits, and on kernels of tier poll.")
	tasks = ofNamespace("tsem_tasks", gauge,
		"Tasks that live in the namespace.")
	tasksWaiting = ofNamespace("tsem_tasks_waiting", gauge,
		"Tasks that wait for a verdict now.")
	longestWait = ofNamespace("tsem_longest_wait_seconds", gauge,
		"How long the first of them has waited; 0 if none does.")

	eventsRaised = ofNamespace("tsem_events_raised_total", counter,
		"Events that hooks began to describe. Each is delivered or refused.")
	eventsDelivered = ofNamespace("tsem_events_delivered_total", counter,
		"Events whose records came into the magazine.")
	eventsRefused = ofNamespace("tsem_events_refused_total", counter,
		"Events without a record: no room in the magazine, no buffer to describe in, not describable, or nobody to judge in an orphaned namespace.", reasonLabel)
	eventsRefusedTypes = ofNamespace("tsem_events_refused_types_total", counter,
		"The same events by type. A type is there once one of its events was refused.", typeLabel)
	eventsCut = ofNamespace("tsem_events_cut_total", counter,
		"Delivered events with a text that is not complete.")
	eventsDelayed = ofNamespace("tsem_events_delayed_total", counter,
		"Events that waited for room in the magazine.")
	eventsLogged = ofNamespace("tsem_events_untrusted_total", counter,
		"Events of untrusted tasks, about which nobody was asked.")
	eventsDenied = ofNamespace("tsem_events_denied_total", counter,
		"Events that did not happen for want of trust.")
	innerCalls = ofNamespace("tsem_inner_calls_total", counter,
		"Calls of hooks for what filesystems such as overlayfs do for themselves, which are no events.")
	verdicts = ofNamespace("tsem_verdicts_total", counter,
		"Events that were judged, by what their tasks found: trusted or untrusted by the agent; late: the deadline passed; killed: the task was about to die; closed: the namespace ended or its agent failed; unasked: there was no gate to wait in, or no slot; unwaited: the hook cannot sleep, and no verdict was there in time.", verdictLabel)
	lateReleases = ofNamespace("tsem_late_releases_total", counter,
		"Verdicts of tsem-bpf release for events that were over.")
	tasksLost = ofNamespace("tsem_tasks_lost_total", counter,
		"Tasks that should be in the namespace and are not, for lack of memory for their state: their events are not described.")
	execsLost = ofNamespace("tsem_execs_lost_total", counter,
		"Programs whose TASK_ID cannot be known, since there was no room for the record of their exec.")
	creationsLost = ofNamespace("tsem_creations_lost_total", counter,
		"Created files without instance number, since the table of them is full.")
	digests = ofNamespace("tsem_digests_total", counter,
		"Digests of files that events needed, by where they came from: ima: taken in the hook; known: taken there earlier; keeper: left to the keeper, who reads the file; none: content that changes without a trace has none.", sourceLabel)

	magazineSize = ofNamespace("tsem_magazine_size_bytes", gauge,
		"Size of the magazine.")
	magazineReserve = ofNamespace("tsem_magazine_reserve_bytes", gauge,
		"The part of it that is reserved for hooks that cannot wait for room.")
	magazineUnread = ofNamespace("tsem_magazine_unread_bytes", gauge,
		"Bytes of records that the keeper has not read. When they come near the size without the reserve, events begin to wait.")
	magazineShare = ofNamespace("tsem_magazine_share_bytes", gauge,
		"The part of the reserve that each hook has to itself which cannot wait.")
	magazineFullest = ofNamespace("tsem_magazine_fullest_share_bytes", gauge,
		"The most bytes that are unread of any one of these hooks. From a share on, events of that hook may be refused.")
)

// The namespace of the process that is scraped, as that counts it.
var (
	keeperRead = ofNamespace("tsem_keeper_events_read_total", counter,
		"Events that the keeper has read from the magazine, those of earlier keepers of the namespace included.")
	keeperEarlier = ofNamespace("tsem_keeper_events_earlier", gauge,
		"Of these, read by earlier keepers, which were killed.")
	keeperTypes = ofNamespace("tsem_keeper_event_types_total", counter,
		"Events that this keeper has read, by type.", typeLabel)
	keeperWritten = ofNamespace("tsem_keeper_events_written_total", counter,
		"Events whose lines the output took.")
	keeperOmitted = ofNamespace("tsem_keeper_events_omitted_total", counter,
		"Events that were not written because the dialect v3 has no mark for a text that is not complete.")
	keeperLost = ofNamespace("tsem_keeper_events_lost", gauge,
		"Numbers of events that did not come: a defect.")
	keeperNameless = ofNamespace("tsem_keeper_records_nameless_total", counter,
		"Records whose number could not be read: a defect, or a foreign kernel half.")
	keeperUnreadable = ofNamespace("tsem_keeper_records_unreadable_total", counter,
		"Records that could not be decoded or had the number of another one: a defect, or a foreign kernel half.")
	keeperHeld = ofNamespace("tsem_keeper_holds_tasks", gauge,
		"1 while the tasks are held back, before the keeper that took the namespace over lets them go on.")
	keeperTaskIDsLost = ofNamespace("tsem_keeper_task_ids_lost_total", counter,
		"Programs whose TASK_ID cannot be known, by any cause; shown as all f.")
	keeperTaskIDsUnshared = ofNamespace("tsem_keeper_task_ids_unshared_total", counter,
		"TASK_IDs that no other keeper can know, since the table of them is full.")
	keeperOutputStuck = ofNamespace("tsem_keeper_output_stuck_seconds", gauge,
		"How long the write to the output that is under way has taken; 0: none is.")
	keeperOutputFailed = ofNamespace("tsem_keeper_output_failed", gauge,
		"1 while records cannot be written, as to a full disk or a FIFO without reader: daemon goes on when they can, run and export write no more; 0 else.")
	keeperDigests = ofNamespace("tsem_keeper_digests_total", counter,
		"Digests that the keeper was asked for: exact after reading the file; known from an earlier time; changed since the event, or unsettled: so shortly before it that nobody can know; unavailable: not found or not readable; overloaded: too many files were to be read; cancelled: not waited for any longer.", answerLabel)
	keeperDigestFiles = ofNamespace("tsem_keeper_digest_files_total", counter,
		"Files that were read to the end for their digest.")
	keeperDigestBytes = ofNamespace("tsem_keeper_digest_read_bytes_total", counter,
		"Bytes read from files for their digest.")
	keeperUndigested = ofNamespace("tsem_keeper_records_undigested_total", counter,
		"Records that went without the digest of their file: late: it took too long; crowded: too many others waited.", whyLabel)
	keeperGates = ofNamespace("tsem_keeper_gates_total", counter,
		"Gates that were made for waiting tasks. More than one: a gate process was killed, or the keeper was stopped for long.")
	keeperAsked = ofNamespace("tsem_keeper_gate_requests_total", counter,
		"Tasks that came to the gate, by whether their verdict was there before the next one was looked at.", wokenLabel)
	keeperEnded = ofNamespace("tsem_keeper_gate_waits_ended_total", counter,
		"Waits that ended without the agent: deadline: it passed; killed: the task was about to die.", endedLabel)
	keeperSignals = ofNamespace("tsem_keeper_gate_signals_total", counter,
		"Signals to tasks that slept in the gate, at most one for each sleep.")
	keeperGone = ofNamespace("tsem_keeper_gate_answers_unwanted_total", counter,
		"Answers of the gate for tasks that no longer waited for one.")
	keeperBad = ofNamespace("tsem_keeper_gate_requests_bad_total", counter,
		"Requests to the gate that no task of the namespace makes: somebody tries to misuse it.")
	keeperDecisions = ofNamespace("tsem_keeper_decision_seconds", histogram,
		"How long events waited until the agent, or tsem-bpf for it, had decided about them, from the event in its hook on. Powers of two, from a microsecond to 512 s; native too, of schema 0.")
	keeperAgentFailed = ofNamespace("tsem_keeper_agent_failed", gauge,
		"1 if the agent has failed, so that nobody judges; 0 else, also if there is none.")
	keeperReplies = ofNamespace("tsem_keeper_agent_replies_total", counter,
		"Replies of an agent that is a process: decided about an event; late: the event was over.", effectLabel)
)

// Markdown returns docs/metrics.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(docHead)
	b.WriteString("| series | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		b.WriteString("| " + f.name + " | " + map[prometheus.ValueType]string{gauge: "gauge", counter: "counter", histogram: "histogram"}[f.kind] + " | ")
		separator := ""
		for _, l := range f.labels {
			if l.name == engineLabel.name || l.name == namespaceLabel.name {
				b.WriteString(separator + l.name)
			} else if l.values != nil {
				b.WriteString(separator + l.name + " (" + strings.Join(l.values, ", ") + ")")
			} else {
				b.WriteString(separator + l.name + " (" + l.words + ")")
			}
			separator = "; "
		}
		b.WriteString(" | " + f.help + " |\n")
	}
	return b.String()
}

const docHead = `<!-- SPDX-License-Identifier: Apache-2.0 -->
# Metrics

Made by ` + "`go generate ./metrics`" + ` from ` + "`metrics/series.go`" + `.

Every series has the label *engine*, the id of the kernel half of the host (` + "`tsem-bpf engine status`" + `). A kernel half that is
installed anew has another id, and its counters begin at 0.

**Nothing is counted twice.** What the kernel half counts is in maps that all tsem-bpf of the host share, so each of them shows it, for
all namespaces, with the same labels and values. If you scrape several, take one of each, for example
` + "`max by (engine, namespace) (tsem_events_raised_total)`" + `. What only the keeper of a namespace knows begins with
` + "`tsem_keeper_`" + `; that keeper shows it, and no other process.

The series of a namespace end with it; there are at most 1023 namespaces at a time. A label that has a list has these values and no others, and each
is there from the beginning, with 0. ` + "`go_`" + ` and ` + "`process_`" + ` series, of the process that is scraped, are those of every Go program.

`
