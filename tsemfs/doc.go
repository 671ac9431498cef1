// SPDX-License-Identifier: Apache-2.0

// Package tsemfs is TSEM's control plane as a FUSE file system: the files that orchestrators
// written for TSEM find below /sys/kernel/security/tsem (AttachBuiltIn). What the files stand for is a Plane.
//
//	control            0200  a write is a command             Plane.Command
//	id                 0400  the namespace of who opens it    Plane.ID
//	aggregate          0400  the measurement of the platform  Plane.Aggregate
//	external_tma/N     0400  the records of namespace N       Plane.Records: a Queue
//	README             0444
//
// Section numbers are those of docs/spec/semantics.md. The files behave as in TSEM, with the
// corrections of section 0.1 and without the defects of TSEM v3:
//
//   - A command is that of the thread that writes, whoever opened the file, at any offset. Any
//     number of commands go through one descriptor. One that takes long holds up nobody but those who
//     write to the same descriptor. That is why the file has another inode each time it is looked up.
//   - A file external_tma/N has the records of namespace N, whoever reads.
//   - A read at offset 0 takes the next record; what is left of one that is longer than the read
//     stands behind, then the file ends. Without a record a read fails with ENODATA; nobody ever
//     waits in one. poll(2) tells of records as long as there are any, and of a hang-up when there
//     are none and never will be.
//   - A record that reaches nobody, because the connection was aborted, is still there. One that was
//     read by a thread that is killed meanwhile is gone with it.
//   - open(2) of id fails with ENOENT until whoever opens it has a namespace, which is found out
//     each time.
package tsemfs
