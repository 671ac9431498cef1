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
