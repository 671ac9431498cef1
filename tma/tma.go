// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"errors"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// What can be wrong with an agent, for errors.Is; the text names the agent and the rule.
var (
	// ErrReply: the agent wrote a line that is no reply, or one that cannot be true.
	ErrReply = errors.New("not a reply")
	// ErrFlood: it wrote more than any agent has to.
	ErrFlood = errors.New("writes too much")
	// ErrStuck: it takes no records.
	ErrStuck = errors.New("reads no records")
	// ErrEnded: it is gone, while there is something left to judge.
	ErrEnded = errors.New("ended too early")
)

// Decide decides about the event that a task waits with, and wakes it:
// namespace.Namespace.Decide.
type Decide func(slot uint32, ticket uint64, v verdict.Verdict) (verdict.Outcome, error)

// DecideAsync decides about an event that nobody waits with: namespace.Namespace.DecideAsync.
type DecideAsync func(slot uint32, ticket, tnum uint64, v verdict.Verdict) (outcome verdict.Outcome, distrusted bool, err error)

// Trust is the agent that trusts everything: a namespace.Judge.
func Trust(*event.Record) verdict.Verdict { return verdict.Trusted }
