// SPDX-License-Identifier: Apache-2.0

package tsemfs

import "github.com/tsem-bpf/tsem-bpf/control"

// Plane is what the files stand for. A thread is named by its id in the pid namespace of
// whoever mounted the file system, 0 if it is not visible there. It sleeps until the method
// has returned and cannot even be killed meanwhile, so it can be asked of the kernel who that
// is.
//
// An error is what the thread gets: the unix.Errno that it wraps. All methods but Command
// are called from one goroutine and must return at once, since all who use the file system
// wait meanwhile; none may wait for a modeled task, which may be one of them.
type Plane interface {
	// Admit says whether a thread may open control and external_tma/N: EACCES without
	// CAP_MAC_ADMIN (4.1).
	Admit(tid uint32) error
	// Command does what a thread wrote to control (4.3 to 4.6). It is called from any
	// goroutine, and may take its time.
	Command(tid uint32, command control.Command) error
	// Refused is told of what a thread wrote to control that is no command, or that Command
	// failed with: nobody else learns the sentence. It is called from any goroutine.
	Refused(tid uint32, err error)
	// ID returns the namespace of a thread, or the one that it is the orchestrator of (6.3).
	// ENOENT: there is none. EACCES: it is sealed (4.1).
	ID(tid uint32) (uint64, error)
	// Aggregate returns the measurement of the platform. EACCES: the thread is in a
	// namespace that is not Internal (4.1).
	Aggregate(tid uint32) ([]byte, error)
	// Records returns the records of a namespace, nil if it has no file.
	Records(namespace uint64) *Queue
	// Namespaces returns the namespaces that have files.
	Namespaces() []uint64
}
