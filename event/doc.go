// SPDX-License-Identifier: Apache-2.0

// Package event knows what the events of TSEM are called, which cells describe
// them, how they are written as JSON, and which point of a security model each is. It
// does no I/O and knows nothing of BPF or namespaces.
//
// A record is a header and cells (bpf/record.h is the contract). Parse checks one
// completely; an Encoder then walks the row of its hook in the event table, member
// by member, and every member takes its cells from the record in turn. There is no
// structure per event, no reflection and no allocation.
//
//	record ── Parse ──> Record ── Encoder.Append ──> one line of JSON
//	                                  │  │
//	                                  │  TaskIDs: what stands behind the identities
//	                                  Digest: that of the file, which only user space knows
//
// A Mapper walks the same row, and hashes the cells to the COE, the CELL and the coefficient
// of the event: what a trust orchestrator compares. The TASK_ID of a program is the
// coefficient of its exec.
//
// What is written is specified in docs/spec/json-events.md; the section numbers and
// quirks (Q1 and up) in the comments are those of that text. What is hashed is specified in
// docs/spec/semantics.md, which the comments of the Mapper and its layouts refer to.
package event
