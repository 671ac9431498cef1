// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// count is as many bytes, each one more than the one before it.
func count(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// TestDerive has the vector of the specification (2.10).
func TestDerive(t *testing.T) {
	p := Pairing{hash: crypto.SHA256, workload: count(0, 32)}
	const want = "fdeab9acf3710362bd2658cdc9a29e8f9c757fcf9811603a8c447cd1d9151108"
	if got := hex.EncodeToString(p.derive(count(0x20, 32))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestPairing(t *testing.T) {
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		right := count(0x20, hash.Size())
		wrong := bytes.Clone(right)
		wrong[hash.Size()-1]++
		withKey := Pair(7, Create{Kind: External, Digest: hash, Key: right})
		without := Pair(7, Create{Kind: External, Digest: hash})
		heir := succeed(t, withKey, right)
		heirWithout := succeed(t, without, nil)
		for name, c := range map[string]struct {
			pairing   *Pairing
			release   Release
			namespace uint64
			want      string // in the error; "": there is none
		}{
			"the key":                        {withKey, Release{Key: right}, 7, ""},
			"the key and tnum":               {withKey, Release{Key: right, TNum: 3}, 7, ""},
			"another key":                    {withKey, Release{Key: wrong}, 7, "not that of namespace 7"},
			"a shorter key":                  {withKey, Release{Key: right[1:]}, 7, "that of namespace 7 has"},
			"a longer key":                   {withKey, Release{Key: append(right, 0)}, 7, "that of namespace 7 has"},
			"what the workload has":          {withKey, Release{Key: withKey.workload}, 7, "not that of namespace 7"},
			"what is expected":               {withKey, Release{Key: withKey.expected}, 7, "not that of namespace 7"},
			"only tnum":                      {withKey, Release{TNum: 3}, 7, "without key="},
			"a task of another namespace":    {withKey, Release{Key: right}, 8, "task 5 is in namespace 8"},
			"a task of none":                 {withKey, Release{Key: right}, 0, "task 5 is in namespace 0"},
			"tnum":                           {without, Release{TNum: 3}, 7, ""},
			"a key that is none":             {without, Release{Key: right}, 7, "without tnum="},
			"a key that is none, and tnum":   {without, Release{Key: right, TNum: 3}, 7, "with key="},
			"tnum of a task of another":      {without, Release{TNum: 3}, 8, "task 5 is in namespace 8"},
			"tnum of a task of no namespace": {without, Release{TNum: 3}, 0, "task 5 is in namespace 0"},
			"the key of another namespace":   {Pair(7, Create{Kind: External, Digest: hash, Key: wrong}), Release{Key: right}, 7, "not that of"},
			"a successor":                    {heir, Release{TNum: 3, Number: 2}, 7, ""},
			"a successor with the key":       {heir, Release{TNum: 3, Number: 2, Key: right}, 7, ""},
			"a successor with another key":   {heir, Release{TNum: 3, Number: 2, Key: wrong}, 7, "not that of namespace 7"},
			"a successor without number":     {heir, Release{TNum: 3, Key: right}, 7, "without tnum= and number="},
			"a successor without tnum":       {heir, Release{Number: 2, Key: right}, 7, "without tnum= and number="},
			"a successor elsewhere":          {heir, Release{TNum: 3, Number: 2}, 8, "task 5 is in namespace 8"},
			"a successor without key":        {heirWithout, Release{TNum: 3, Number: 2}, 7, ""},
			"a successor with one too many":  {heirWithout, Release{TNum: 3, Number: 2, Key: right}, 7, "with key="},
			"one without key and number":     {heirWithout, Release{TNum: 3}, 7, "without tnum= and number="},
		} {
			c.release.Verdict, c.release.PID = verdict.Trusted, 5
			err := c.pairing.Check(c.release, c.namespace)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%v, %s: %v", hash, name, err)
			case c.want != "" && (!errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, %s: %v, want one with %q", hash, name, err, c.want)
			}
		}
	}
}

// TestPairRandom: nobody can guess the workload's half from that of another namespace.
func TestPairRandom(t *testing.T) {
	c := Create{Kind: External, Digest: crypto.SHA256, Key: count(0x20, 32)}
	first, second := Pair(1, c), Pair(1, c)
	if bytes.Equal(first.workload, second.workload) || bytes.Equal(first.workload, make([]byte, 32)) {
		t.Errorf("%x, then %x", first.workload, second.workload)
	}
}

// succeed lets another orchestrator take over.
func succeed(t *testing.T, p *Pairing, key []byte) *Pairing {
	t.Helper()
	successor, err := p.TakeOver(Takeover{7, key})
	if err != nil {
		t.Fatal(err)
	}
	return successor
}

// TestTakeOver: the key alone opens a namespace to a successor, and to the next one, also when it was put away meanwhile.
func TestTakeOver(t *testing.T) {
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		right := count(0x20, hash.Size())
		wrong := bytes.Clone(right)
		wrong[0]++
		withKey := Pair(7, Create{Kind: External, Digest: hash, Key: right})
		without := Pair(7, Create{Kind: External, Digest: hash})
		again := func(p *Pairing) *Pairing {
			task, tma := p.Keys()
			return Restore(7, hash, task, tma)
		}
		for _, p := range []*Pairing{withKey, again(withKey), succeed(t, withKey, right), again(succeed(t, withKey, right))} {
			for want, key := range map[string][]byte{
				"takeover without key=":   nil,
				"that of namespace 7 has": right[1:],
				"not that of namespace 7": wrong,
			} {
				if got, err := p.TakeOver(Takeover{7, key}); got != nil || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), want) {
					t.Errorf("%v: %v, want one with %q", hash, err, want)
				}
			}
			succeed(t, p, right)
		}
		for _, p := range []*Pairing{without, again(without), succeed(t, without, nil)} {
			if _, err := p.TakeOver(Takeover{7, right}); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "takeover with key=; namespace 7 was made without one") {
				t.Errorf("%v: %v", hash, err)
			}
		}
	}
}
