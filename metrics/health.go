// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/loader"
)

// ProblemKind is a kind of Problem, a value of the label "problem".
type ProblemKind string

// The kinds of problems.
const (
	Removed  ProblemKind = "removed"  // the kernel half is not pinned any more
	Detached ProblemKind = "detached" // hooks do not call it any more
	Orphaned ProblemKind = "orphaned" // tasks are held back, and nobody judges them
	Silent   ProblemKind = "silent"   // a keeper does not work, and tasks wait for it
	Full     ProblemKind = "full"     // a keeper does not keep up, and events find no room
)

var problemKinds = []ProblemKind{Removed, Detached, Orphaned, Silent, Full}

// Problem is something that keeps events from being described or judged at the moment, and that
// somebody has to do something about.
type Problem struct {
	Kind      ProblemKind `json:"problem"`
	Namespace uint64      `json:"namespace,omitempty"` // 0: all of them
	Keeper    uint32      `json:"keeper,omitempty"`    // of the namespace; 0: it has none, or it is all of them
	Text      string      `json:"text"`                // what is wrong and what to do, for people
}

// silentAfter is the time of twenty beats (namespace/gate.go, beatEvery), for machines may be busy.
const silentAfter = 5 * time.Second

// largestRecord is more than any record takes of a magazine: 24 KiB of cells, with two path names in
// them (bpf/buffer.h), and the value of an extended attribute, 64 KiB (bpf/record.h).
const largestRecord = 96 << 10

// full says whether a magazine may have, beside the reserve, no room for the next record. One that
// found none is not in it, so that it is never full to the last byte.
func full(ns *bpf.Namespace) bool {
	bytes, _ := unread(ns)
	return ns.Magazine > 0 && bytes+largestRecord > uint64(ns.Magazine-ns.Reserve)
}

// Problems returns what is wrong on the host, the most general first. What is over is none: events
// that were refused stand in the account of their namespace.
func (s *Snapshot) Problems() (all []Problem) {
	found := func(kind ProblemKind, ns *bpf.Namespace, format string, args ...any) {
		all = append(all, Problem{kind, ns.Id, ns.Keeper, fmt.Sprintf(format, args...)})
	}
	if !s.Status.Pinned {
		found(Removed, &bpf.Namespace{}, "the kernel half was removed while it was in use: end the processes that use it, and start them again")
	} else if len(s.Status.Detached) > 0 {
		found(Detached, &bpf.Namespace{}, "somebody removed the links of %s: end all tsem-bpf, tsem-bpf engine remove, and start them again",
			strings.Join(s.Status.Detached, " "))
	}
	for i := range s.States {
		ns := &s.States[i]
		status := loader.StatusOf(ns)
		if status.Closed {
			continue
		}
		if status.Orphaned && status.Keeper == 0 && status.Tasks > 0 {
			found(Orphaned, ns, "namespace %d has no keeper and holds %d tasks back: tsem-bpf run --takeover %d, or tsem-bpf ns end %d",
				ns.Id, ns.Tasks, ns.Id, ns.Id)
			continue
		}
		if status.Unclaimed() && status.Enforcing && status.Tasks > 0 {
			found(Orphaned, ns, "namespace %d has no orchestrator and holds %d tasks back: let another one take it over, or tsem-bpf ns end %d",
				ns.Id, ns.Tasks, ns.Id)
		}
		if silence := s.silence(ns); silence > silentAfter {
			found(Silent, ns, "process %d, the keeper of namespace %d, has not been seen at work for %v: look whether it is stopped",
				ns.Keeper, ns.Id, silence.Round(time.Second))
		}
		if full(ns) {
			found(Full, ns, "process %d, the keeper of namespace %d, does not keep up, and its magazine is full: look at who reads its output",
				ns.Keeper, ns.Id)
		}
	}
	return all
}
