// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// console keeps the end of what the kernel said, and passes it on if asked to.
type console struct {
	mu   sync.Mutex
	text []byte
	to   io.Writer // may be nil
	more chan struct{}
}

func newConsole(to io.Writer) *console {
	return &console{to: to, more: make(chan struct{}, 1)}
}

// consoleMax is enough for the report of a crash on every CPU.
const consoleMax = 256 << 10

// Write never fails: a reader of ours that is gone does not hold up the kernel.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.to != nil {
		_, _ = c.to.Write(p)
	}
	c.text = append(c.text, bytes.ReplaceAll(p, []byte("\r"), nil)...)
	if over := len(c.text) - consoleMax; over > 0 {
		c.text = append(c.text[:0], c.text[over:]...)
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (c *console) lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Split(strings.TrimSpace(string(c.text)), "\n")
}

// consoleLines are a screen of context, enough for the report of one crash.
const consoleLines = 40

// last gives the last lines; all from the panic on, if that is more: it says why the kernel
// died, and the trace behind it may be long.
func (c *console) last() string {
	all := c.lines()
	from := max(0, len(all)-consoleLines)
	for i, line := range all[:from] {
		if strings.Contains(line, "Kernel panic - not syncing") {
			from = i
			break
		}
	}
	return strings.Join(all[from:], "\n")
}

// waitEnd returns when everything from before the end of the command is there,
// or after the time: the command may have silenced the console.
func (c *console) waitEnd(limit time.Duration) {
	late := time.After(limit)
	for {
		c.mu.Lock()
		ended := bytes.Contains(c.text, []byte(consoleEnd))
		c.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-c.more:
		case <-late:
			return
		}
	}
}

// Marks of a kernel that found something wrong with itself.
var warningMarks = []string{
	"WARNING: ", "BUG: ", "kernel BUG at", "Oops: ", "int3: ", "UBSAN: ",
	"INFO: task ", "rcu: INFO:", "soft lockup", "Call Trace:",
}

// warned is the place of the first line that bears such a mark, -1 if there is none.
func warned(lines []string) int {
	return slices.IndexFunc(lines, func(line string) bool {
		return slices.ContainsFunc(warningMarks, func(mark string) bool { return strings.Contains(line, mark) })
	})
}

// warnings gives the lines from the first that bears such a mark on; none if there is none.
func (c *console) warnings() string {
	all := c.lines()
	first := warned(all)
	if first < 0 {
		return ""
	}
	return strings.Join(all[first:min(len(all), first+consoleLines)], "\n")
}

// staleInt3 tells whether the first thing that the kernel found wrong was a breakpoint
// of nobody's. A kernel that patches its code puts an int3 there for a moment. QEMU drops
// the translation of what is written before it writes (accel/tcg/cputlb.c, notdirty_write),
// so that a CPU may translate the old bytes in between, and keep them.
func (c *console) staleInt3() bool {
	all := c.lines()
	first := warned(all)
	return first >= 0 && strings.Contains(all[first], "int3: ")
}
