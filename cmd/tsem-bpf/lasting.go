// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// stallAfter is how long a write may take before whoever raises events does not wait for it any more. A disk that is
	// busy takes less.
	stallAfter = 100 * time.Millisecond
	// retryEvery is the time between two attempts to write after one has failed.
	retryEvery = time.Second
)

// lasting is where the records of a service go: an output that what was there stays in, and that goes on after an error, when what was
// wrong is mended. It is Export's writer, and as such called from one goroutine; the other methods from any.
type lasting struct {
	streams *streams
	name    string           // as the flag has it
	stalled func(holds bool) // is told when a write takes long, and when that is over

	mu      sync.Mutex // held while something is written, or the output is opened anew
	output  atomic.Pointer[output]
	written atomic.Uint64         // whole lines that outputs took
	wrong   atomic.Pointer[error] // why nothing is written; nil: it is
	tried   time.Time             // when it was opened last
	ending  atomic.Bool           // it is not opened any more
}

// newLasting looks at what a flag names, as newOutput does.
func newLasting(name string, std *streams) (*lasting, error) {
	l := &lasting{streams: std, name: name, stalled: func(bool) {}}
	o, err := newOutput(name, std.out)
	l.output.Store(o)
	return l, err
}

// open opens the output. A FIFO without reader is an error for later.
func (l *lasting) open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.reopen()
	if errors.Is(err, errNobody) {
		l.output.Load().fail(err)
		l.fails(err)
		return nil
	}
	return err
}

// reopen opens the output anew, which after an error is what it was. With mu held.
func (l *lasting) reopen() error {
	l.tried = time.Now()
	fresh, err := newOutput(l.name, l.streams.out)
	fresh.stays = true
	if err == nil {
		err = fresh.open(nil)
	}
	if err == nil {
		err = fresh.commit()
	}
	if err == nil && fresh.path == "" && l.output.Load().cut {
		_, err = io.WriteString(fresh.w, "\n") // commit does that to files
	}
	if err != nil {
		return errors.Join(err, fresh.close())
	}
	return l.output.Swap(fresh).close()
}

// fails notes why nothing is written, and says so when it begins. With mu held.
func (l *lasting) fails(err error) {
	if l.wrong.Swap(&err) == nil && !l.ending.Load() {
		l.say("%v; records are not written until that is mended", err)
	}
}

func (l *lasting) say(format string, args ...any) {
	fmt.Fprintf(l.streams.err, "tsem-bpf: "+format+"\n", args...)
}

// Write implements io.Writer. It returns no error: what cannot be written is not counted as written.
func (l *lasting) Write(lines []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrong.Load() != nil && !l.ending.Load() && time.Since(l.tried) >= retryEvery {
		if err := l.reopen(); err != nil {
			l.fails(err)
		}
	}
	o := l.output.Load()
	before := o.written.Load()
	told := make(chan struct{})
	stall := time.AfterFunc(stallAfter, func() { l.stalled(true); close(told) })
	o.Write(lines)
	if !stall.Stop() {
		<-told
		l.stalled(false)
	}
	l.written.Add(o.written.Load() - before)
	if !o.fine() {
		l.fails(o.err)
	} else if l.wrong.Swap(nil) != nil {
		l.say("records are written to %s again", o.name)
	}
	return len(lines), nil
}

// again opens the output anew, when the write under way has ended: the file may have got another name.
func (l *lasting) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.reopen(); err != nil {
		l.say("not opened anew: %v", err)
	}
}

// giveUp ends the writing, that under way too.
func (l *lasting) giveUp() {
	l.ending.Store(true)
	l.output.Load().giveUp()
}

// stuckFor returns how long the write under way has been so.
func (l *lasting) stuckFor() time.Duration { return l.output.Load().stuckFor() }

// close closes the output, when nobody writes any more.
func (l *lasting) close() error { return l.output.Load().close() }
