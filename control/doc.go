// SPDX-License-Identifier: Apache-2.0

// Package control has the language of TSEM's control file, in which orchestrators make
// modeling namespaces and release tasks, and the keys by which they prove that a release is
// theirs. It is the text of what is asked for; what becomes of it is up to whoever keeps
// the namespaces.
//
//	write(2) ── Parse ──> Create, Release, Enforce, Seal, Takeover, Load
//	                        │        │
//	                       Pair ── Pairing.Check: is it the orchestrator's?
//	                           └── Pairing.TakeOver: is it that of a successor?
//
// Section numbers are those of docs/spec/semantics.md. What is read is what TSEM v3 reads
// and what its later versions added, which orchestrators of 2024 and 2025 write, and takeover, except
// for two defects of TSEM v3 (4.2, 7.2): an argument that is unknown or does not belong to the
// command is refused, where v3 ignores it; and a command without the arguments that it needs
// is refused, where v3 dereferences NULL.
//
// # Errors
//
// Every error wraps the unix.Errno with which the write fails, and says in a sentence what
// was wrong with which word. No error has a key in it, nor part of one, since errors are logged.
package control
