// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/ringbuf"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// The account has each thing that happened once, and nothing that did not.
func TestAccount(t *testing.T) {
	for _, test := range []struct {
		totals  namespace.Totals
		skipped map[string]uint64
		late    uint64
		want    string
	}{
		{
			namespace.Totals{Balance: ringbuf.Balance{Raised: 2, Delivered: 2}, Written: 2}, nil, 0,
			"2 events raised: 2 delivered, 0 refused; digests: 0 by IMA (0 known), 0 by tsem-bpf (0 known), 0 not exact",
		},
		{
			namespace.Totals{
				Balance: ringbuf.Balance{Raised: 9, Delivered: 7, Refused: []ringbuf.Refusal{{Name: "describe", Count: 2}}},
				Written: 4, RefusedTypes: [bpf.HookMax]uint64{14: 1, 85: 1},
				Unreadable: 1, Cut: 2, Omitted: 3, Waited: 4, Tasks: 5, TasksLost: 6, TaskIDsLost: 7, Unshared: 70, CreationsLost: 8,
				DigestsIMA: 9, DigestsCached: 10, Inner: 11, Volatile: 100, Late: 12, Crowded: 13,
				Verdicts: [bpf.VerdictMax]uint64{verdict.Trusted: 20, verdict.Untrusted: 21, verdict.Late: 22, verdict.Unasked: 23},
				Digests: digest.Stats{
					Computed: 14, Bytes: 15, Cached: 16, Exact: 17, Changed: 200, Unsettled: 400,
					Unavailable: 1000, Overloaded: 2000, Cancelled: 4000,
				},
			},
			map[string]uint64{"file_open": 3, "capable": 21}, 24,
			"9 events raised: 7 delivered, 2 refused (describe 2), 1 unreadable, 2 with a cut text, " +
				"3 not written, because v3 has no mark for a cut text, 4 waited for room, " +
				"5 tasks still running, no longer modeled, 6 tasks not modeled for lack of memory, 7 TASK_IDs unknown, 70 TASK_IDs unknown to others, " +
				"8 created files without instance, 11 left out, done by filesystems for themselves, " +
				"13 not waited for digests, for lack of room; digests: 19 by IMA (10 known), " +
				"33 by tsem-bpf (16 known), 7700 not exact; verdicts: 20 trusted, 21 untrusted, 22 late, 23 unasked; " +
				"24 replies too late; 4 of them written, 3 not; " +
				"refused by type (capable 1, file_open 1); " +
				"skipped by the kernel (capable 21, file_open 3)",
		},
		{
			namespace.Totals{Balance: ringbuf.Balance{Raised: 9, Delivered: 9}, Earlier: 4, Written: 5, Tasks: 1, Held: true}, nil, 0,
			"9 events raised: 9 delivered, 0 refused, 1 tasks still running, held back; digests: 0 by IMA (0 known), " +
				"0 by tsem-bpf (0 known), 0 not exact; 4 of them read by an earlier tsem-bpf",
		},
	} {
		if got := account(&test.totals, test.skipped, test.late); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}
