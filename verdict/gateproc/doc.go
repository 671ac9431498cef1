// SPDX-License-Identifier: Apache-2.0

// Package gateproc makes the gate process of a keeper.
//
// A task that waits for a verdict sleeps in a request to a FUSE filesystem that the
// keeper serves. The kernel half comes by a file there through a process that was
// executed from it: the gate process, whose executable file it asks for an extended
// attribute. The gate process has one more purpose: it watches the keeper, and ends the
// FUSE connection, which wakes everybody who waits, when the keeper has died, or was
// stopped, or hangs. Once the keeper has read a request, not even SIGKILL wakes the task
// that waits for its answer (fs/fuse/dev.c, request_wait_answer); ending the connection does.
package gateproc
