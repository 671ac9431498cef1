// SPDX-License-Identifier: Apache-2.0

// Package digest computes the digests of files that the kernel half left to the
// daemon (TSEM_DIGEST_WANTED in bpf/record.h). It finds the file of a record
// again, makes sure that it is the same one, and hashes its content.
//
// # What a digest is worth
//
// A record identifies its file by device, inode number, size and change time. Exact
// means: a file with this identity was read, and still had it afterwards; and when the
// event happened, and when the reading began, the file had rested for longer than a
// change time may be late (1 s; 3 s where it is a whole second). Whatever changed the
// file after the event has therefore left another change time, and what was read is what
// the file contained at the event. Unsettled means that all was the same but that the
// file had not rested so long: two writes within one tick of the kernel's clock leave one
// change time.
//
// The times of events and of files are those of two clocks. Their distance is taken at
// the beginning and at the end of the reading; the smaller one counts, so that a clock
// that is set back makes a file younger.
//
// Three things do not show in the change time. Stores to a page that is mapped shared
// and writable, and dirty already: the kernel half says so, and nobody asks for such a
// digest here (TSEM_DIGEST_VOLATILE). A filesystem whose times come from elsewhere, a server
// (NFS, SMB, Ceph, 9P) or a program (FUSE), may tell anything. And who may set the clock
// (CAP_SYS_TIME) can have a time come twice. Changed and Unavailable say openly that the
// digest is another one or that there is none.
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
// ones alone, of which there are as many as there is work for; who asks never waits, and
// may give up whatever filesystem hangs. Requests for the same file are computed once.
//
// Every namespace has a Cache. The digests that are known belong to the process, because
// a file has the same one for everybody; reading is done by each for itself, because a
// workload whose files hang must not take the digests of others.
//
// # Privileges
//
// /proc/TID/exe and /proc/TID/root take CAP_SYS_PTRACE, reading any file takes
// CAP_DAC_READ_SEARCH, and /proc has to show the initial pid namespace. The files
// opened here raise events like others, so the daemon must not be modeled itself.
//
// # Who closes
//
// Close ends the goroutines of a Cache. Descriptors do not outlive a computation.
package digest
