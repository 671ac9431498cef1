// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"sync"
)

// counter passes bytes on and tells when a number of them went through.
type counter struct {
	mu   sync.Mutex
	to   io.Writer
	n    int64
	err  error
	more chan struct{}
}

func newCounter(to io.Writer) *counter {
	return &counter{to: to, more: make(chan struct{}, 1)}
}

// Write never fails: the command is not held up by a reader of ours that is gone.
func (c *counter) Write(p []byte) (int, error) {
	_, err := c.to.Write(p)
	c.mu.Lock()
	c.n += int64(len(p))
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// wait returns when n bytes went through, with the first error in passing them on.
func (c *counter) wait(ctx context.Context, n int64) error {
	for {
		c.mu.Lock()
		got, err := c.n, c.err
		c.mu.Unlock()
		if got >= n {
			return err
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			return errTimeout
		}
	}
}
