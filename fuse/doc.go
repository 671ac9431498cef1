// SPDX-License-Identifier: Apache-2.0

// Package fuse speaks the FUSE protocol (include/uapi/linux/fuse.h) with the kernel, as far as
// this project needs it.
//
//	/dev/fuse ── ReadDevice ──> ParseRequest ──> Server ──> Dir, File, Handle
//	          <─ WriteDevice ── Append... <────────┘
//
// A Server serves a tree of nodes to programs that read, write and poll: the control plane.
// The gate (package verdict) has a loop of its own, which is short, and takes from here only
// what requests and answers look like, and how such a file system is mounted.
//
// # What a Server relies on
//
// A request that was read cannot be given up: whoever asks sleeps until the answer, and not
// even SIGKILL ends that. So nothing here waits. A read finds what is there, whoever has to
// wait polls, and only writes take as long as they need, each on a goroutine of its own.
//
// The kernel sends FUSE_POLL whenever somebody polls, and asks to be told when that has
// changed something; being told, it wakes all who poll that open file, and each asks again. So
// poll(2), select(2) and epoll(7) are level-triggered, and being woken in vain is harmless.
//
// The kernel holds the lock of a file while somebody writes to it, unless the write ends
// below the size that the file has. A file with many writers therefore says to be large.
//
// # A process that is killed
//
// Who waits for an answer is let go when the connection ends, and that ends with the last
// descriptor of the device. A process that is killed closes its descriptors when the last thread
// that shares them is gone. One of them may be in an uninterruptible wait: for a disk, for the
// answer of another file system, or for that of this very one, which would never come. So
// the device is open in a table of descriptors that the thread which serves has for itself
// (unshare(2), CLONE_FILES). That thread waits for requests only, and ends at once. The table begins as a
// copy of what was open when the thread began. What others could notice is closed in it: the end of a pipe
// or of a file is that for everybody as soon as the process closes it.
package fuse
