// SPDX-License-Identifier: Apache-2.0

// Package tma has the trusted modeling agents that ship with tsem-bpf: who decides about
// the events that the tasks of an external namespace wait with.
//
// Between a namespace and its agent there are two functions. The namespace asks the agent
// by namespace.Judge, in the hot path; an agent that does not decide there and then says
// so and calls Decide later. Trust is such a Judge. Exec is an agent that is a process of
// its own:
//
//	namespace ── Judge ──> Waits: who waits, by task number
//	          ── Write ──> a record a line, on its standard input
//	                             agent: "trusted pid=P tnum=T"
//	          <─ Decide ── Waits <── on its standard output
//
// An agent that fails is never a reason to hang. Whatever waits for it, or comes later, is
// decided Closed; what that means is up to the namespace: refused where it enforces trust.
package tma
