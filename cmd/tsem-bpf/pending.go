// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

type pendingCommand struct {
	JSON bool `name:"json" help:"Print a line of JSON for each event instead of a table."`
}

// Help is shown below the flags.
func (pendingCommand) Help() string {
	return `Shows every event of this host that waits for a verdict: the thread that waits, its
task number, its namespace, the type of the event, for how long it has waited, its
ticket, and the command. A ticket names one wait and never another. Needs root.

Exit status: 0, also if nothing waits; 125: that cannot be known.`
}

// waiters returns the events that wait on this host, by slot, and the verdicts where they do;
// nil if no kernel half is there.
func waiters() (*loader.Engine, *verdict.Slots, []pendingEvent, error) {
	engine, err := loader.Peek()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, nil
	}
	if err != nil {
		return nil, nil, nil, err
	}
	slots, err := verdict.MapSlots(engine.Map("slots"))
	if err != nil {
		return nil, nil, nil, errors.Join(err, engine.Close())
	}
	all, err := pending(slots)
	return engine, slots, all, err
}

// A pendingEvent is what pending --json prints of one.
type pendingEvent struct {
	PID       uint32  `json:"pid"`
	Tnum      uint64  `json:"tnum"`
	Namespace uint64  `json:"namespace"`
	Event     string  `json:"event"`
	Seconds   float64 `json:"seconds"`
	Ticket    string  `json:"ticket"`
	Command   string  `json:"command"`

	wait verdict.Wait
}

func pending(slots *verdict.Slots) ([]pendingEvent, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	var all []pendingEvent
	for _, w := range slots.Waits() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", w.TID)) // it may have ended
		all = append(all, pendingEvent{
			w.TID, w.Tnum, w.Namespace, event.Hook(w.Hook).String(),
			float64(max(0, now.Nano()-int64(w.Since))) / float64(time.Second),
			ticketOf(w), string(bytes.TrimSpace(comm)), w,
		})
	}
	return all, nil
}

// ticketOf names a wait, for ever: its slot and its ticket there.
func ticketOf(w verdict.Wait) string { return fmt.Sprintf("%d.%d", w.Slot, w.Ticket) }

// Run implements the command.
func (c *pendingCommand) Run(std *streams) error {
	_, _, all, err := waiters()
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(std.out)
		for _, e := range all {
			err = errors.Join(err, encoder.Encode(e))
		}
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(std.err, "tsem-bpf: no event waits")
		return nil
	}
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PID\tTNUM\tNAMESPACE\tEVENT\tWAITS\tTICKET\tCOMMAND")
	for _, e := range all {
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%.1f s\t%s\t%s\n", e.PID, e.Tnum, e.Namespace, e.Event, e.Seconds, e.Ticket, printable(e.Command))
	}
	return t.Flush()
}

// printable is the name of a command as it can be shown on a terminal.
func printable(name string) string {
	quoted := fmt.Sprintf("%q", name)
	if quoted[1:len(quoted)-1] != name {
		return quoted
	}
	return name
}

type releaseCommand struct {
	Verdict   string `arg:"" enum:"trusted,untrusted" help:"trusted or untrusted."`
	PID       uint32 `name:"pid" placeholder:"P" help:"The event that this thread waits with."`
	Tnum      uint64 `placeholder:"T" help:"The event that the task with this number waits with."`
	Namespace uint64 `placeholder:"N" help:"Only an event in this namespace."`
	Ticket    string `placeholder:"TICKET" help:"This event and no other, as \"tsem-bpf pending\" shows it."`
}

// Help is shown below the flags.
func (releaseCommand) Help() string {
	return `Decides about one event that waits, in place of its agent, so that its thread goes on;
"tsem-bpf pending" shows which events wait. Nothing is done unless one event fits all
flags. With a ticket the verdict cannot hit a later event of the thread. What the agent
says of this event afterwards is too late. Needs root.

Exit status: 0: done; 1: nothing was done, because no such event waits (any more); 2: a
wrong flag; 125: it cannot be known what waits.

Examples:
  tsem-bpf release trusted --pid 4711
  tsem-bpf release untrusted --ticket 17.3`
}

// Validate is called by kong.
func (c *releaseCommand) Validate() error {
	if c.PID == 0 && c.Tnum == 0 && c.Ticket == "" {
		return errors.New("which event? Give --pid, --tnum or --ticket; tsem-bpf pending shows them")
	}
	// Also not with zeros or blanks around, for tickets are compared as they stand.
	var wait verdict.Wait
	if n, _ := fmt.Sscanf(c.Ticket, "%d.%d", &wait.Slot, &wait.Ticket); c.Ticket != "" && (n != 2 || wait.Slot == 0 || wait.Ticket == 0 || c.Ticket != ticketOf(wait)) {
		return fmt.Errorf("--ticket=%s: two numbers with a dot between, as tsem-bpf pending shows them", c.Ticket)
	}
	return nil
}

// of says whether the flags name the task of a wait.
func (c *releaseCommand) of(w verdict.Wait) bool {
	return (c.PID == 0 || c.PID == w.TID) && (c.Tnum == 0 || c.Tnum == w.Tnum)
}

// Run implements the command.
func (c *releaseCommand) Run(std *streams) error {
	engine, slots, all, err := waiters()
	if err != nil {
		return err
	}
	e, err := c.choose(all)
	if err != nil {
		return &exitError{exitUnusable, err}
	}
	v := verdict.Trusted
	if c.Verdict == "untrusted" {
		v = verdict.Untrusted
	}
	why := "no such event waits: its task is gone, or it was decided"
	if e != nil {
		outcome, err := slots.Decide(e.wait.Slot, e.wait.Ticket, v)
		if err != nil {
			return err
		}
		if outcome.Won {
			return nil
		}
		why = "too late: " + outcome.String()
	}
	if engine != nil {
		c.late(engine, slots)
	}
	return &exitError{exitUnusable, errors.New(why)}
}

// choose returns the one event that is meant, nil if it does not wait. An error says which
// of the flags is not true.
func (c *releaseCommand) choose(all []pendingEvent) (*pendingEvent, error) {
	for i := range all {
		e := &all[i]
		switch {
		case !c.of(e.wait):
		case c.Ticket != "" && c.Ticket != e.Ticket:
			if c.PID != 0 || c.Tnum != 0 {
				return nil, fmt.Errorf("--ticket=%s: thread %d now waits with another event, %s", c.Ticket, e.PID, e.Ticket)
			}
		case c.Namespace != 0 && c.Namespace != e.Namespace:
			return nil, fmt.Errorf("--namespace=%d: thread %d is in namespace %d", c.Namespace, e.PID, e.Namespace)
		default:
			return e, nil
		}
	}
	return nil, nil
}

// late counts a release that came too late in the namespace of its task, if that is known.
func (c *releaseCommand) late(engine *loader.Engine, slots *verdict.Slots) {
	index, ok := slots.IndexOf(func(w verdict.Wait) bool { return c.of(w) && (c.Ticket == "" || c.Ticket == ticketOf(w)) })
	if ok {
		atomic.AddUint64(&engine.Namespace(index).Late, 1)
	}
}
