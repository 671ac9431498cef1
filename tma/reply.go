// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"fmt"
	"strconv"

	"github.com/tsem-bpf/tsem-bpf/control"
)

// replyForm is the form of a reply, as it stands in messages.
const replyForm = "trusted|untrusted pid=P tnum=T [number=N]"

// wrongPid is the error of a reply about a task that has another pid.
func wrongPid(r control.Release, pid uint32) error {
	return fmt.Errorf("%w: \"%v pid=%d tnum=%d\", but task %d has pid %d", ErrReply, r.Verdict, r.PID, r.TNum, r.TNum, pid)
}

// parseReply parses a line without its line feed: what an orchestrator writes to a control
// file to release a task by its number. The error is ErrReply.
func parseReply(line []byte) (control.Release, error) {
	r, err := control.ParseRelease(line)
	switch {
	case err != nil:
		return control.Release{}, fmt.Errorf("%w: %s; %s is one: %w", ErrReply, quote(line), replyForm, err)
	case r.TNum == 0 || r.Key != nil:
		return control.Release{}, fmt.Errorf("%w: %s; %s is one, without a key", ErrReply, quote(line), replyForm)
	}
	return r, nil
}

// quoteMax is how much of a line a message shows.
const quoteMax = 100

// quote makes a line fit for a message, whatever is in it.
func quote(line []byte) string {
	if len(line) > quoteMax {
		return strconv.Quote(string(line[:quoteMax])) + "..."
	}
	return strconv.Quote(string(line))
}
