// SPDX-License-Identifier: Apache-2.0

// Package digest computes the digests of files that the kernel half left to the
// daemon (TSEM_DIGEST_WANTED in bpf/record.h). It finds the file of a record
// again, makes sure that it is the same one, and hashes its content.
//
// # What a digest is worth
//
// A record identifies its file by device, inode number, size and change time.
// Exact means that a file with this identity was read, and still had it
// afterwards. It is exact as long as the file rests from the hook until it is
// read, as it does for the sleeping task itself. Two things do not show in the
// change time: a second write within one tick of the kernel's clock (before Linux
// 6.13, and on filesystems with coarse times), and stores to a page that is mapped
// and already dirty. A server behind a FUSE filesystem may tell anything. Changed
// and Unavailable say openly that the digest is another one or that there is none.
//
// # Which way leads to the file
//
// Paths in records begin at the root of the mount namespace of the task, whatever
// its root directory is. The executed file is looked for at /proc/TID/exe first.
// Then, and for other files, the path is followed from the root of the task's mount
// namespace, and, in case that the task is gone, from that of the daemon. What
// stands there is first opened in a way that has no effect on it (O_PATH); only a
// regular file with the right device and inode number is ever opened for reading. A
// file without a name can not be found, unless it is the one executed.
//
// # Concurrency
//
// A Cache may be used from any number of goroutines. Files are read by its own
// ones alone; who asks never waits, and may give up whatever filesystem hangs.
// Requests for the same file are computed once.
//
// # Privileges
//
// /proc/TID/exe and /proc/TID/root take CAP_SYS_PTRACE, reading any file takes
// CAP_DAC_READ_SEARCH, and /proc has to show the initial pid namespace. The files
// opened here raise events like others, so the daemon must not be modeled itself.
//
// # Who closes
//
// New starts goroutines, Close ends them. Descriptors do not outlive a computation.
package digest
