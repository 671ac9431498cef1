// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	_ "embed"
	"fmt"
	gomaps "maps"
	"math"
	"slices"
	"strings"
	"testing"
)

//go:embed verifier.budget
var verifierBudget string

// TestVerifierCost: no program costs the verifier more than its budget, and all of them
// together no more than what a start may take.
func TestVerifierCost(t *testing.T) {
	const totalMost = 190_000 // 100 events, less than 2,000 for each
	budget := make(map[string]uint32)
	for line := range strings.Lines(verifierBudget) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var name string
		var most uint32
		if _, err := fmt.Sscanf(line, "%s %d\n", &name, &most); err != nil {
			t.Fatalf("verifier.budget, %q: %v", line, err)
		}
		budget[name] = most
	}
	check(t, engine.Attach([2]uint64{math.MaxUint64, math.MaxUint64}))
	walked, err := engine.Verified()
	if err != nil {
		t.Fatal(err)
	}
	var total uint32
	for _, name := range slices.Sorted(gomaps.Keys(walked)) {
		n, most := walked[name], budget[name]
		fmt.Printf("verified %s %d\n", name, n)
		if n == 0 || n > most {
			t.Errorf("%s: %d instructions, verifier.budget allows 1 to %d; vmtest/verifycost -hot %s tells where they are", name, n, most, name)
		}
		total += n
	}
	if total > totalMost {
		t.Errorf("%d instructions in all, at most %d", total, totalMost)
	}
}
