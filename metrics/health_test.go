// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// TestProblems: each kind of problem is found, and nothing where all is well.
func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *Snapshot)
		want   []ProblemKind
	}{
		{"all is well", func(*Snapshot) {}, nil},
		{"no namespace", func(s *Snapshot) { s.States = nil }, nil},
		{"events were refused", func(s *Snapshot) { s.States[0].Refused[0] = 9 }, nil},
		{"removed", func(s *Snapshot) { s.Status.Pinned, s.Status.Detached = false, []string{"file_open"} }, []ProblemKind{Removed}},
		{"detached", func(s *Snapshot) { s.Status.Detached = []string{"file_open"} }, []ProblemKind{Detached}},
		{"orphaned", func(s *Snapshot) { s.States[0].Keeper, s.States[0].Flags = 0, bpf.NamespaceOrphaned }, []ProblemKind{Orphaned}},
		{"orphaned without tasks", func(s *Snapshot) {
			s.States[0].Keeper, s.States[0].Flags, s.States[0].Tasks = 0, bpf.NamespaceOrphaned, 0
		}, nil},
		{"orphaned and closed", func(s *Snapshot) {
			s.States[0].Keeper, s.States[0].Flags = 0, bpf.NamespaceOrphaned|bpf.NamespaceClosed
		}, nil},
		{"unclaimed", func(s *Snapshot) {
			s.States[0].Flags |= bpf.NamespaceExternal | bpf.NamespaceOrchestrated | bpf.NamespaceEnforcing
		}, []ProblemKind{Orphaned}},
		{"orchestrated", func(s *Snapshot) {
			s.States[0].Flags |= bpf.NamespaceExternal | bpf.NamespaceOrchestrated | bpf.NamespaceEnforcing
			s.States[0].Orchestrator = 5
		}, nil},
		{"unclaimed, and nothing is refused", func(s *Snapshot) { s.States[0].Flags |= bpf.NamespaceExternal | bpf.NamespaceOrchestrated }, nil},
		{"unclaimed without tasks", func(s *Snapshot) {
			s.States[0].Flags |= bpf.NamespaceExternal | bpf.NamespaceOrchestrated | bpf.NamespaceEnforcing
			s.States[0].Tasks = 0
		}, nil},
		{"being taken over", func(s *Snapshot) { s.States[0].Flags = bpf.NamespaceOrphaned }, nil},
		{"beats", func(s *Snapshot) { s.States[0].Beat = uint64(s.Mono - time.Second) }, nil},
		{"silent", func(s *Snapshot) { s.States[0].Beat = uint64(s.Mono - silentAfter - 1) }, []ProblemKind{Silent}},
		{"silent, for it has ended", func(s *Snapshot) {
			s.States[0].Beat, s.States[0].Flags = uint64(s.Mono-silentAfter-1), bpf.NamespaceClosed
		}, nil},
		{"nearly full", func(s *Snapshot) { s.States[0].Shares[0].Claimed = 3<<20 - largestRecord }, nil},
		{"full", func(s *Snapshot) { s.States[0].Shares[0].Claimed = 3<<20 - largestRecord + 1 }, []ProblemKind{Full}},
		{"full and silent", func(s *Snapshot) {
			s.States[0].Shares[0].Claimed, s.States[0].Beat = 3<<20, 1
		}, []ProblemKind{Silent, Full}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := snapshot()
			c.change(s)
			var got []ProblemKind
			for _, p := range s.Problems() {
				got = append(got, p.Kind)
				if p.Text == "" {
					t.Error("a problem without words")
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found %v, not %v", got, c.want)
			}
			shown := make(map[string]float64)
			for _, s := range gather(t, engineOf(s)) {
				if s.name == problems.name {
					shown[s.labels["problem"]] = s.value
				}
			}
			for _, kind := range problemKinds {
				want := 0.0
				if slices.Contains(c.want, kind) {
					want = 1
				}
				if value, there := shown[string(kind)]; !there || value != want {
					t.Errorf("tsem_problems of %s is %v, not %v", kind, value, want)
				}
			}
		})
	}
}

// TestProblemsExplained: docs/monitoring.md says of each kind what it means.
func TestProblemsExplained(t *testing.T) {
	text, err := os.ReadFile("../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range problemKinds {
		if !strings.Contains(string(text), "\n| "+string(kind)+" | ") {
			t.Errorf("%s is not explained", kind)
		}
	}
}
