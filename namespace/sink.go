// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/tsem-bpf/tsem-bpf/event"
)

// flushAt bounds what is held back of a batch, and so what one write carries.
const flushAt = 64 << 10

// Sink takes the events of a namespace. It is called by one goroutine; an error ends
// the reading. While it is in a call nothing is read, and the tasks of the namespace
// wait for room once the magazine is full.
type Sink interface {
	// Event takes one event. d is the digest of its file, if it is about one; its
	// TASK_IDs are known as far as they ever can be. The record is valid until Event
	// returns.
	Event(r *event.Record, d event.Digest) error
	// Flush says that no more events are there at the moment.
	Flush() error
}

// lines is the sink that writes JSON, one line for each event.
type lines struct {
	encoder *event.Encoder
	w       io.Writer
	written *atomic.Uint64 // lines that w took
	cut     *atomic.Uint64 // events that the dialect could not mark as cut
	buffer  []byte
	count   uint64 // of lines in it
}

// Event implements Sink.
func (l *lines) Event(r *event.Record, d event.Digest) (err error) {
	l.buffer, err = l.encoder.Append(l.buffer, r, d)
	if errors.Is(err, event.ErrCut) {
		l.cut.Add(1)
		return nil
	}
	if err != nil {
		return err
	}
	l.count++
	if len(l.buffer) < flushAt {
		return nil
	}
	return l.Flush()
}

// Flush implements Sink.
func (l *lines) Flush() error {
	if len(l.buffer) == 0 {
		return nil
	}
	_, err := l.w.Write(l.buffer)
	if err == nil {
		l.written.Add(l.count)
	}
	l.buffer, l.count = l.buffer[:0], 0
	return err
}
