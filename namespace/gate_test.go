// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// TestGateStatsMeanwhile: the counters of the gates before are there while another one is made, for which its process is waited for.
func TestGateStatsMeanwhile(t *testing.T) {
	n := &Namespace{door: &doorkeeper{gates: 2, past: verdict.Stats{Asked: 3}}}
	n.door.mu.Lock()
	got := make(chan uint64, 1)
	go func() {
		stats, gates := n.GateStats()
		got <- 10*gates + stats.Asked
	}()
	select {
	case counts := <-got:
		if counts != 23 {
			t.Errorf("%d gates and tasks, want 23", counts)
		}
	case <-time.After(time.Minute):
		t.Error("nothing after a minute")
	}
}
