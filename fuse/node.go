// SPDX-License-Identifier: Apache-2.0

package fuse

import "golang.org/x/sys/unix"

// Node is a Dir or a File. Nodes are compared: one that is looked up again is equal to what it
// was, unless it is Passing, and unequal to all others. All methods of nodes and handles are called from one
// goroutine, unless something else is said, and must answer at once: every request of every
// process waits meanwhile.
//
// An error is answered with the unix.Errno that it wraps, EIO if it wraps none. The requests
// of a thread are numbered by its id in the pid namespace of whoever mounted; it waits for the
// answer, so meanwhile it is what it is, and cannot even be killed.
type Node interface {
	Info() Info
}

// Info is what there is to know of a node, which never changes.
type Info struct {
	Mode uint32 // permissions, without the type
	Size uint64 // in bytes
	// Passing: the name may come to mean nothing or something else. The kernel looks such a
	// name up each time, others once.
	Passing bool
}

// Dir is a directory.
type Dir interface {
	Node
	// Lookup returns what has a name, nil if there is nothing. That there is nothing is
	// asked again each time.
	Lookup(name string) Node
	// Names returns the names of all that can be looked up.
	Names() []string
}

// File is anything else.
type File interface {
	Node
	// Open opens the file for a thread. flags are those of open(2).
	Open(tid uint32, flags uint32) (Handle, error)
}

// Handle is an open file. What it is a Reader, a Writer or a Poller for can be done with it.
type Handle interface {
	// Close is called when the last descriptor is closed or the connection has ended, and
	// nothing is under way. Whoever closes a descriptor does not wait for it.
	Close()
}

// Reader is a Handle that can be read.
type Reader interface {
	Handle
	// Read returns at most size bytes from offset; none means the end. They stay as they
	// are until the next call.
	Read(offset uint64, size uint32) ([]byte, error)
	// Unread is called if what the last Read returned reached nobody.
	Unread()
}

// Writer is a Handle that can be written.
type Writer interface {
	Handle
	// Write takes all the data that a thread writes, or fails. It has a goroutine of its own,
	// beside those of other writes, and may take its time.
	Write(tid uint32, data []byte) error
}

// Poller is a Handle that is not always ready. Others are.
type Poller interface {
	Handle
	// Poll returns what can be done now, of POLLIN, POLLOUT, POLLHUP and so on. wake, unless
	// it is nil, is to be called once when that has changed, from any goroutine, but neither
	// from Poll nor where a lock is held that Poll takes: whoever polls asks again then.
	// It takes the place of the wake of an earlier Poll.
	Poll(wake func()) (events uint32)
}

// What Poll tells besides the events of package unix, which has no names for these two.
const (
	PollReadNormal  = 0x40  // POLLRDNORM, which goes with POLLIN
	PollWriteNormal = 0x100 // POLLWRNORM, which goes with POLLOUT
)

// always is what can be done with a Handle that is no Poller.
const always = unix.POLLIN | unix.POLLOUT | PollReadNormal | PollWriteNormal

// Content is an open file with these bytes in it.
type Content []byte

// Read returns a piece of the bytes.
func (c Content) Read(offset uint64, size uint32) ([]byte, error) {
	c = c[min(offset, uint64(len(c))):]
	return c[:min(uint64(size), uint64(len(c)))], nil
}

// Unread does nothing: the bytes are still there.
func (Content) Unread() {}

// Close does nothing.
func (Content) Close() {}
