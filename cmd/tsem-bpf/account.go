// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// account is what the operator is told at the end, in one line: what became of the
// events, then what happened beside, by name; docs/run.md explains each. What did not
// happen is left out. skipped are the runs of programs that the kernel did not do, by hook;
// late are replies of an agent without effect.
func account(t *namespace.Totals, skipped map[string]uint64, late uint64) string {
	var b strings.Builder
	b.WriteString(t.Balance.String())
	fate := "no longer modeled"
	if t.Held {
		fate = "held back"
	}
	for _, more := range []struct {
		count uint64
		what  string
	}{
		{t.Unreadable, "unreadable"},
		{t.Cut, "with a cut text"},
		{t.Omitted, "not written, because v3 has no mark for a cut text"},
		{t.Waited, "waited for room"},
		{t.Tasks, "tasks still running, " + fate},
		{t.TasksLost, "tasks not modeled for lack of memory"},
		{t.TaskIDsLost, "TASK_IDs unknown"},
		{t.Unshared, "TASK_IDs unknown to others"},
		{t.CreationsLost, "created files without instance"},
		{t.Inner, "left out, done by filesystems for themselves"},
		{t.Crowded, "not waited for digests, for lack of room"},
	} {
		if more.count > 0 {
			fmt.Fprintf(&b, ", %d %s", more.count, more.what)
		}
	}
	d := t.Digests
	fmt.Fprintf(&b, "; digests: %d by IMA (%d known), %d by tsem-bpf (%d known), %d not exact",
		t.DigestsIMA+t.DigestsCached, t.DigestsCached, d.Exact+d.Cached, d.Cached,
		t.Volatile+d.Changed+d.Unsettled+d.Unavailable+d.Overloaded+d.Cancelled)
	separator := "; verdicts: "
	for v, count := range t.Verdicts {
		if count > 0 {
			fmt.Fprintf(&b, "%s%d %v", separator, count, verdict.Verdict(v))
			separator = ", "
		}
	}
	for _, more := range []struct {
		count uint64
		what  string
	}{
		{t.Logged, "events of untrusted tasks"},
		{t.Denied, "events denied"},
		{late + t.LateReleases, "replies too late"},
	} {
		if more.count > 0 {
			fmt.Fprintf(&b, "; %d %s", more.count, more.what)
		}
	}
	if t.Earlier > 0 {
		fmt.Fprintf(&b, "; %d of them read by an earlier tsem-bpf", t.Earlier)
	}
	// What was read after the writing had ended.
	if delivered := t.Balance.Delivered - t.Earlier; t.Written < delivered {
		fmt.Fprintf(&b, "; %d of them written, %d not", t.Written, delivered-t.Written)
	}
	refused := make(map[string]uint64)
	for hook, count := range t.RefusedTypes {
		if count > 0 {
			refused[event.Hook(hook).String()] = count
		}
	}
	byName(&b, "refused by type", refused)
	byName(&b, "skipped by the kernel", skipped)
	return b.String()
}

// byName adds counts that are not 0 to an account, the highest first.
func byName(b *strings.Builder, what string, counts map[string]uint64) {
	if len(counts) == 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), strings.Compare(x, y))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, counts[name])
	}
	fmt.Fprintf(b, "; %s (%s)", what, strings.Join(names, ", "))
}

// wrongAccount returns an error if an account does not balance.
func wrongAccount(t *namespace.Totals) error {
	if defect := t.Err(); defect != nil {
		return fmt.Errorf("the account is wrong, a defect of tsem-bpf, or somebody else wrote into its maps: %w", defect)
	}
	return nil
}

// unjudged returns how many events waited for a verdict that the agent did not give.
func unjudged(t *namespace.Totals) uint64 {
	return t.Verdicts[verdict.Late] + t.Verdicts[verdict.Closed] + t.Verdicts[verdict.Unasked]
}
