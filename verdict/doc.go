// SPDX-License-Identifier: Apache-2.0

// Package verdict lets a task wait inside a hook until user space has decided about its
// event. The task sleeps in a FUSE request that the kernel half makes for it, to a file
// system that the keeper serves: the gate. What was decided is not in the answer, which
// is empty, but in the verdict map, a memory that both sides share: one slot for each
// thread that waits.
//
//	task, in a hook (bpf/)                      keeper
//
//	takes a slot, writes ticket and "none"
//	submits its record ----------------------+
//	asks for "user.tsem" of the gate's file, |
//	of as many bytes as the slot's number ---|-> Gate: the loop reads the request
//	      :                                  |     verdict in the slot? then answers
//	      : sleeps                           |     notes who sleeps: ticket, request
//	      :                                  +-> Look: reads the magazine, judges, Decide
//	      :                                        looks at the slot once more
//	      :
//	      :           deadline, kill, Close,     Decide(slot, ticket, verdict):
//	      :           an agent that took long ->   compares and swaps the word of the slot
//	      :                                        who won, and sees that somebody sleeps,
//	wakes <-----------------------------------     takes the note and answers
//	looks at the slot, and at nothing else
//
// # Guarantees
//
// Slot and ticket name one wait for ever. Of all who decide about it exactly one wins,
// and the others learn what stands; a decision never hits another wait. Every request
// that was read is answered exactly once, at the latest when the deadline has passed,
// when Close is called or when the connection ends.
//
// The answer means only: look. So nothing depends on an answer that comes too often, too
// late, or for a reason of the kernel's own.
//
// # Concurrency
//
// One goroutine, with a thread of its own, reads the requests; another one, the watcher,
// looks after those who sleep: every 10 ms while there are any. Decide, Close and Stats
// may be called from anywhere. On the way from a request to its answer there is no
// lock, no channel, no table, no other goroutine, and no allocation; what makes that right
// is told at Gate.ask and at the type wait.
//
// # Signals
//
// Only a deadly signal ends a wait. The kernel tells of the first signal that a sleeping
// task gets, of any kind (FUSE_INTERRUPT); from then on the watcher looks with each tick
// whether a deadly one is pending.
//
// # Who closes
//
// The verdict map and the descriptor of /dev/fuse are borrowed. Whoever ends a gate calls
// Close, ends the connection (by the end of the gate process), and waits for Serve.
package verdict
