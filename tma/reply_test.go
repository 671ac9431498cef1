// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

func TestParseReply(t *testing.T) {
	for line, want := range map[string]control.Release{
		"trusted pid=1 tnum=2":                               {Verdict: verdict.Trusted, PID: 1, TNum: 2},
		"untrusted pid=4294967295 tnum=18446744073709551615": {Verdict: verdict.Untrusted, PID: 1<<32 - 1, TNum: 1<<64 - 1},
		"trusted number=18446744073709551615 tnum=3 pid=7":   {Verdict: verdict.Trusted, PID: 7, TNum: 3, Number: 1<<64 - 1},
	} {
		if got, err := parseReply([]byte(line)); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", line, got, err, want)
		}
	}
}

// TestParseReplyRefuses has what an orchestrator may write to a control file and an agent
// may not write to tsem-bpf, and one of each kind of what nobody may.
func TestParseReplyRefuses(t *testing.T) {
	for _, line := range []string{
		"", "trusted", "trust pid=1 tnum=2", "enforce", "trusted pid=1", "trusted pid=1 tnum=2\r", "trusted pid=1 tnum=2\x00",
		"trusted pid=1 tnum=2 trusted pid=1 tnum=2", "trusted pid=1 key=00", "trusted pid=1 tnum=2 key=00",
	} {
		if got, err := parseReply([]byte(line)); !errors.Is(err, ErrReply) || !cmp.Equal(got, control.Release{}) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	_, err := parseReply([]byte(strings.Repeat("x\n", 1000)))
	if text := err.Error(); len(text) > 500 || strings.Contains(text, "\n") || !strings.Contains(text, replyForm) {
		t.Errorf("the message: %s", text)
	}
}
