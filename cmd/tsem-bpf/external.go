// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/tma"
)

// externalFlags are the flags of a namespace whose tasks wait for an agent.
type externalFlags struct {
	External  bool           `help:"Let CMD wait in each hook that can sleep until an agent has judged the event. Needs a kernel of tier sleep or poll (tsem-bpf check)."`
	TMA       string         `name:"tma" placeholder:"AGENT" words:"trust exec:" help:"The trusted modeling agent of --external. trust: it trusts everything. exec:COMMAND: it is a program that reads a record from each line and answers each one of type event with \"trusted pid=P tnum=T\" or \"untrusted pid=P tnum=T\"; COMMAND is split at blanks (default trust)."`
	Deadline  *time.Duration `placeholder:"D" help:"How long an event of --external waits for its verdict, at most ${maxwait} (default ${deadline})."`
	Enforce   bool           `help:"With --external: an event that is judged untrusted fails with EPERM, and so does each later one of that task and of the children that it has from then on. Without this flag the task only becomes untrusted, and nothing is refused."`
	Deny      string         `placeholder:"TYPE,..." list:"events" help:"With --external, in place of --enforce: only events of these types are refused; all others happen, whatever the agent says of them or of their task. The list is like that of --events."`
	Takeover  uint64         `placeholder:"N" help:"In place of CMD: become the tsem-bpf of namespace N until it has no tasks any more. It enforces, and its own tsem-bpf was killed (tsem-bpf ns list calls it orphaned)."`
	OnFailure string         `placeholder:"POLICY" enum:"open,closed," default:"" help:"With --external: what becomes of an event that nobody has judged by the deadline, or that nobody can judge because the agent has failed. open: it happens. closed: it does not (default closed with --enforce or --deny, else open)."`
}

const execPrefix = "exec:"

// settled are the flags that say what a namespace is. One that is taken over is so already.
var settled = []string{"digest", "nsref", "cache", "wait", "events", "enforce", "deny", "on-failure"}

// checkTakeover says what is wrong with the flags of --takeover.
func (f *externalFlags) checkTakeover(given []*kong.Path) error {
	for _, path := range given {
		if path.Flag != nil && slices.Contains(settled, path.Flag.Name) {
			return fmt.Errorf("--%s is settled in a namespace that is there: leave it out with --takeover", path.Flag.Name)
		}
	}
	f.External = true
	return nil
}

// check says what is wrong with the combination of the flags.
func (f *externalFlags) check(dialect, events string) error {
	for _, flag := range []struct {
		name  string
		given bool
	}{{"tma", f.TMA != ""}, {"deadline", f.Deadline != nil}, {"enforce", f.Enforce}, {"deny", f.Deny != ""}, {"on-failure", f.OnFailure != ""}} {
		if flag.given && !f.External {
			return fmt.Errorf("--%s needs --external: without it no event waits for a verdict", flag.name)
		}
	}
	command := f.command()
	switch {
	case f.TMA == "" || f.TMA == "trust":
	case command == nil:
		return fmt.Errorf("--tma=%s: trust, or exec: and a command, for example exec:./agent.py", f.TMA)
	case dialect != "current":
		return fmt.Errorf("--dialect=%s: has no task number, by which an agent of --tma=exec: names who it judges; leave it out", dialect)
	}
	if err := checkDeadline(f.Deadline); err != nil {
		return err
	}
	if f.Enforce && f.Deny != "" {
		return errors.New("--deny is part of --enforce, which refuses events of all types: leave one of them out")
	}
	if err := f.checkDenied(events); err != nil {
		return err
	}
	if f.OnFailure == "closed" && !f.Enforce && f.Deny == "" {
		return errors.New("--on-failure=closed needs --enforce or --deny: without them nothing is refused")
	}
	return nil
}

// checkDeadline says what is wrong with a --deadline; nil if it is not given.
func checkDeadline(deadline *time.Duration) error {
	if deadline == nil {
		return nil
	}
	if err := namespace.CheckDeadline(*deadline); err != nil {
		return fmt.Errorf("--deadline=%v: %w", *deadline, err)
	}
	return nil
}

// denied returns the event types of --deny.
func (f *externalFlags) denied() ([]event.Hook, error) { return hooksOf("deny", f.Deny) }

// checkDenied says what is wrong with --deny, also beside --events: what is no event is not refused.
func (f *externalFlags) checkDenied(events string) error {
	denied, err := f.denied()
	if denied == nil {
		return err
	}
	raised, err := hooksOf("events", events)
	switch {
	case err != nil:
		return err
	case raised == nil:
		raised = event.V3Hooks()
	}
	for name := range strings.SplitSeq(f.Deny, ",") {
		if hook, ok := event.Lookup(name); ok && !slices.Contains(raised, hook) {
			return fmt.Errorf("--deny=%s: no event of type %s is raised, and so none is refused: --events has to have it too", f.Deny, name)
		}
	}
	if !slices.ContainsFunc(denied, func(hook event.Hook) bool { return slices.Contains(raised, hook) }) {
		return fmt.Errorf("--deny=%s: none of these events is raised, and so none is refused: --events has to have them too", f.Deny)
	}
	return nil
}

// hooksOf returns the event types that a flag lists, nil if it is not given.
func hooksOf(flag, list string) ([]event.Hook, error) {
	if list == "" {
		return nil, nil
	}
	hooks, err := event.ParseHooks(list)
	if err != nil {
		return nil, fmt.Errorf("--%s=%s: %w", flag, list, err)
	}
	return hooks, nil
}

// command returns the words of --tma=exec:, nil if it is another one or has none.
func (f *externalFlags) command() []string {
	command, ok := strings.CutPrefix(f.TMA, execPrefix)
	if !ok || len(strings.Fields(command)) == 0 {
		return nil
	}
	return strings.Fields(command)
}

// configure completes the settings of the namespace. The agent, nil if it is no process,
// has to be started when the namespace is there.
func (f *externalFlags) configure(config *namespace.Config, stderr io.Writer) (*tma.Exec, error) {
	if !f.External {
		return nil, nil
	}
	config.Judge, config.Deadline = tma.Trust, namespace.DefaultDeadline
	config.Enforce, config.FailOpen = f.Enforce, f.OnFailure == "open"
	config.Deny, _ = f.denied() // check has seen them
	if f.Deadline != nil {
		config.Deadline = *f.Deadline
	}
	command := f.command()
	if command == nil {
		return nil, nil
	}
	agent, err := tma.New(command, config.Deadline, stderr)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--tma=%s: %w", f.TMA, err)}
	}
	config.Judge = agent.Judge
	return agent, nil
}

// watchAgent returns a channel that is closed when the agent has failed; nil: it cannot.
func (s *session) watchAgent() <-chan struct{} {
	if s.agent == nil {
		return nil
	}
	return s.agent.Failed()
}

// agentFailed says, once, that the agent has failed, and what that means.
func (s *session) agentFailed() {
	if s.agent == nil || s.agent.Err() == nil || s.agentTold {
		return
	}
	s.agentTold = true
	means := "happens without a verdict"
	if config := s.namespace.Config(); config.Denies() && !config.FailOpen {
		means = "is refused"
	}
	fmt.Fprintf(s.streams.err, "tsem-bpf: %v; every event that would wait for it %s\n", s.agent.Err(), means)
}

// endAgent ends the agent, when all records have gone to it, and says if it has failed.
func (s *session) endAgent() {
	if s.agent != nil {
		_ = s.agent.Close() // again in close, which returns the error
		s.agentFailed()
	}
}

// lateReplies returns how many replies of the agent had no effect.
func (s *session) lateReplies() uint64 {
	if s.agent == nil {
		return 0
	}
	return s.agent.Stats().Late
}
