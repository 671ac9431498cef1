// SPDX-License-Identifier: Apache-2.0

package tma

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/verdict"
)

func TestParseReply(t *testing.T) {
	for line, want := range map[string]reply{
		"trusted pid=1 tnum=2":                                   {verdict.Trusted, 1, 2, 0},
		"untrusted pid=4294967295 tnum=18446744073709551615":     {verdict.Untrusted, 1<<32 - 1, 1<<64 - 1, 0},
		"trusted pid=7 tnum=3 number=18446744073709551615":       {verdict.Trusted, 7, 3, 1<<64 - 1},
		"untrusted pid=0000000000000000000000000000001 tnum=002": {verdict.Untrusted, 1, 2, 0},
	} {
		if got, err := parseReply([]byte(line)); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", line, got, err, want)
		}
	}
}

func TestParseReplyRefuses(t *testing.T) {
	for _, line := range []string{
		"", " ", "trusted", "trusted ", "trust pid=1 tnum=2", "Trusted pid=1 tnum=2", " trusted pid=1 tnum=2",
		"trusted pid=1", "trusted tnum=2 pid=1", "trusted pid=1 tnum=2 ", "trusted  pid=1 tnum=2", "trusted pid=1 tnum=2\r",
		"trusted pid=0 tnum=2", "trusted pid=1 tnum=0", "trusted pid=1 tnum=2 number=0", "trusted pid=1 tnum=2 number=",
		"trusted pid=4294967296 tnum=2", "trusted pid=1 tnum=18446744073709551616", "trusted pid=-1 tnum=2",
		"trusted pid=+1 tnum=2", "trusted pid=0x1 tnum=2", "trusted pid=1_0 tnum=2", "trusted pid=1 tnum=2 key=3",
		"trusted pid=1 tnum=2 number=3 number=3", "trusted pid=1 tnum=2 trusted pid=1 tnum=2", "trusted pid=1 tnum=2\x00",
	} {
		if got, err := parseReply([]byte(line)); !errors.Is(err, ErrReply) || got != (reply{}) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	_, err := parseReply([]byte(strings.Repeat("x\n", 1000)))
	if text := err.Error(); len(text) > 400 || strings.Contains(text, "\n") || !strings.Contains(text, replyForm) {
		t.Errorf("the message: %s", text)
	}
}

// FuzzReply: what is taken for a reply says nothing but what it is taken for.
func FuzzReply(f *testing.F) {
	f.Add([]byte("trusted pid=1 tnum=2"))
	f.Add([]byte("untrusted pid=1 tnum=2 number=3"))
	f.Add([]byte("trusted pid=1 tnum=2 number"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseReply(line)
		if err != nil {
			if !errors.Is(err, ErrReply) || r != (reply{}) {
				t.Fatalf("%q: %+v, %v", line, r, err)
			}
			return
		}
		text := fmt.Sprintf("%v pid=%d tnum=%d", r.verdict, r.pid, r.tnum)
		if r.number != 0 {
			text += fmt.Sprintf(" number=%d", r.number)
		}
		if plain := withoutZeros(string(line)); plain != text {
			t.Fatalf("%q is taken for %q", line, text)
		}
	})
}

// withoutZeros removes the zeros at the start of numbers.
func withoutZeros(line string) string {
	fields := strings.Split(line, " ")
	for i, field := range fields {
		if key, digits, ok := strings.Cut(field, "="); ok {
			fields[i] = key + "=" + strings.TrimLeft(digits, "0")
		}
	}
	return strings.Join(fields, " ")
}
