// SPDX-License-Identifier: Apache-2.0

package ringbuf

import "errors"

// What can go wrong, for errors.Is. A Wait that ends because its time is over
// returns os.ErrDeadlineExceeded.
var (
	// ErrClosed: the Magazine was closed, before or during the call.
	ErrClosed = errors.New("magazine is closed")
	// ErrMap: the map is no ring that this package can read.
	ErrMap = errors.New("not a magazine")
	// ErrCorrupt: the positions or a header in the ring contradict each other.
	// Nothing behind that place can be read any more.
	ErrCorrupt = errors.New("magazine is corrupt")

	// ErrNumber: zero is no record number.
	ErrNumber = errors.New("not a record number")
	// ErrDuplicate: the number was delivered before.
	ErrDuplicate = errors.New("number was delivered before")
	// ErrGap: numbers were declared lost.
	ErrGap = errors.New("numbers are lost")
	// ErrLate: the number had been declared lost, and came after all.
	ErrLate = errors.New("number had been declared lost")
	// ErrUnbalanced: the events raised are not the events accounted for.
	ErrUnbalanced = errors.New("ledger does not balance")
)
