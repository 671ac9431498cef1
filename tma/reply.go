// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// replyForm is the form of a reply, as it stands in messages.
const replyForm = "trusted|untrusted pid=P tnum=T [number=N]"

// reply is what an agent says about an event.
type reply struct {
	verdict verdict.Verdict // Trusted or Untrusted
	pid     uint32
	tnum    uint64
	number  uint64 // of the event; 0: the oldest of the task that has no reply yet
}

// wrongPid is the error of a reply about a task that has another pid.
func (r *reply) wrongPid(pid uint32) error {
	return fmt.Errorf("%w: \"%v pid=%d tnum=%d\", but task %d has pid %d", ErrReply, r.verdict, r.pid, r.tnum, r.tnum, pid)
}

// parseReply parses a line without its line feed: a verdict, then pid, tnum and perhaps
// number in this order, one blank between them. The error is ErrReply.
func parseReply(line []byte) (reply, error) {
	word, rest, _ := bytes.Cut(line, []byte(" "))
	var r reply
	switch string(word) {
	case "trusted":
		r.verdict = verdict.Trusted
	case "untrusted":
		r.verdict = verdict.Untrusted
	default:
		return reply{}, fmt.Errorf("%w: %s; %s is one", ErrReply, quote(line), replyForm)
	}
	pid, rest, okPid := value(rest, "pid=", 32)
	tnum, rest, okTnum := value(rest, "tnum=", 64)
	okNumber := true
	if rest != nil {
		r.number, rest, okNumber = value(rest, "number=", 64)
	}
	if !okPid || !okTnum || !okNumber || rest != nil {
		return reply{}, fmt.Errorf("%w: %s; %s is one, with numbers above 0", ErrReply, quote(line), replyForm)
	}
	r.pid, r.tnum = uint32(pid), tnum
	return r, nil
}

// value takes a number behind its key from the start of text. rest is nil at the end of it.
func value(text []byte, key string, bits int) (v uint64, rest []byte, ok bool) {
	word, rest, more := bytes.Cut(text, []byte(" "))
	if !more {
		rest = nil
	}
	digits, ok := bytes.CutPrefix(word, []byte(key))
	v, err := strconv.ParseUint(string(digits), 10, bits)
	return v, rest, ok && err == nil && v != 0
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
