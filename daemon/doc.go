// SPDX-License-Identifier: Apache-2.0

// Package daemon keeps the namespaces that orchestrators make through TSEM's control plane: a
// Plane is what the files of package tsemfs stand for.
//
//	write to control ── Command ──> Create: a namespace, and the thread that writes is in it
//	                                  │
//	                                  v
//	             event ── tma.Waits   namespace.Export ──> Queue ──> read of external_tma/N
//	                          ^
//	write to control ── Release
//
// Section numbers are those of docs/spec/semantics.md.
//
// # Whose namespace it is
//
// The orchestrator of a namespace is the process that is the parent of the thread that made it,
// as in TSEM (4.4). It alone releases tasks of the namespace, by the key that the namespace was
// made with, or without one by task number. What it writes besides, and what it reads in id, is about
// that namespace, and for a thread in the namespace about its own.
//
// When it has ended another process takes its place, which is in no namespace, has CAP_MAC_ADMIN and shows the key (takeover).
// The records that it gets may be of events that were decided before, so it says of each release which event it is about.
//
// A release of a task that is gone, or that does not wait any more, has no effect, is counted
// as late, and succeeds: orchestrators take every failed write for the end (0.1).
//
// # What is there before it is asked for
//
// An external namespace takes long to make: its gate is a process. So one is kept ready (Plane.Ready).
// It is nobody's, and no status shows it; the command that takes it chooses its digest and whose ids it has. One that
// names the size of its magazine gets another one, and so does one that finds the spare one taken.
//
// # What ends
//
// When the orchestrator has ended, nobody can judge until there is another one: what waits, and whatever comes, is
// decided Closed, which refuses it in a namespace that enforces and nowhere else. When the last task
// of a namespace has exited, and its records are read or there is nobody to read them, the
// namespace is gone.
//
// When its magazine cannot be read any more, nobody will ever judge. A namespace that enforces stays until its last task has exited;
// another one ends, and its tasks run on, no longer modeled.
//
// When the daemon ends, by whatever, a namespace that enforces is left with its tasks (namespace.Config), and what has to
// be judged does not happen there. The next daemon takes it over (Plane.Inherit): then events wait again, for half of a deadline at
// most, for an orchestrator to take it over. What was decided when the former daemon ended stays decided.
//
// A namespace whose tasks wait is one of these:
//
//	orchestrated     its orchestrator ends        nobody judges
//	nobody judges    takeover                     orchestrated
//	any of these     the daemon ends              left
//	left             the next daemon begins       inherited: its events wait
//	inherited        takeover                     orchestrated
//	inherited        half of a deadline passes    nobody judges
//	any of these     its magazine is not read     nobody judges, for ever, if it enforces; else gone
//	any of these     its last task ends           gone
package daemon
