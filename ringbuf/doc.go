// SPDX-License-Identifier: Apache-2.0

// Package ringbuf reads magazines: BPF ring buffers (BPF_MAP_TYPE_RINGBUF), one
// for each modeling namespace. It reads them straight from their mapping; there
// is no system call for each record, only one when the reader goes to sleep.
//
// # Order
//
// ReadBatch hands out records in ring order, which is the order in which the
// kernel half reserved them. A record that is reserved and not yet committed
// holds up all records behind it; nothing is overtaken. Numbers are given after
// the reservation, by several CPUs at once, so the numbers of records in ring
// order are unique and complete but not necessarily rising.
//
// # Loss
//
// The ring itself loses nothing: a record that does not fit is refused in the
// kernel, where it is counted with a reason and gets no number. Committed
// records stay in the ring until they were read, also when the reader dies; the
// consumer position lives in the map. It moves on after every single record, so
// a reader that takes over from a dead one gets at most one record again. The
// Ledger proves completeness: every number is delivered once, or it is declared
// lost, by name ("gap") and counted. Nothing is dropped silently.
//
// # Concurrency
//
// A Magazine has one reading goroutine at a time. Another goroutine may be in
// Wait meanwhile; Wake, Used, Drained, Size and Close may be called from
// anywhere, Close alone not from inside the function given to ReadBatch. A
// Ledger is booked by the reader, and may be asked from anywhere.
//
// # Waking
//
// The kernel signals a commit only if the reader had caught up with that very
// record, and never if the record was submitted with BPF_RB_NO_WAKEUP
// (kernel/bpf/ringbuf.c, bpf_ringbuf_commit). Hence, whoever learns in another
// way that such a record was submitted calls ReadBatch, or Wake.
//
// # Who closes
//
// Open borrows the map: its caller closes it, before or after the Magazine.
// The Magazine owns its mapping, its epoll instance and its eventfd, and Close
// gives them back. No goroutine is started here.
//
// Only 64-bit machines are supported: the positions are unsigned long in the
// kernel, and BPF LSM programs exist only there.
package ringbuf
