// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// digits are those of count(0, n).
func digits(n int) string { return hex.EncodeToString(count(0, n)) }

// longest is the longest command that there can be: 127 bytes with its line feed.
var longest = "external cache=000000000000000000001 key=" + digits(32) + " nsref=initial model=\n"

func TestParse(t *testing.T) {
	for text, want := range map[string]Command{
		// What the orchestrators of 2024 and 2025 write (6.1 to 6.3).
		"external key=" + digits(32) + "\n":                                      Create{External, false, crypto.SHA256, 0, count(0, 32)},
		"external nsref=current digest=sha256 cache=96 key=" + digits(32) + "\n": Create{External, true, crypto.SHA256, 96, count(0, 32)},
		"external nsref=initial model=quixote key=" + digits(32) + "\n":          Create{External, false, crypto.SHA256, 0, count(0, 32)},
		"external nsref=current model=M digest=sha512 cache=128\n":               Create{External, true, crypto.SHA512, 128, nil},
		"export nsref=current\n":                                                 Create{Export, true, crypto.SHA256, 0, nil},
		"enforce\n":                                                              Enforce{},
		"seal\n":                                                                 Seal{},
		"trusted pid=2198 key=" + digits(32) + "\n":                              Release{verdict.Trusted, 2198, 0, 0, count(0, 32)},
		"untrusted pid=2198 tnum=18446744073709551615\n":                         Release{verdict.Untrusted, 2198, 1<<64 - 1, 0, nil},
		"state value=" + digits(32) + "\n":                                       Load{State, count(0, 32)},
		"pseudonym value=" + strings.ToUpper(digits(32)) + "\n":                  Load{Pseudonym, count(0, 32)},
		"base value=00\n":                                                        Load{Base, []byte{0}},

		// What tsem-bpf has beside these.
		"takeover id=3\n":                           Takeover{3, nil},
		"takeover id=18446744073709551615\n":        Takeover{1<<64 - 1, nil},
		"takeover key=" + digits(48) + " id=0x1f\n": Takeover{31, count(0, 48)},
		// What else the grammar allows.
		"external\n":         Create{External, false, crypto.SHA256, 0, nil},
		"internal\n":         Create{Internal, false, crypto.SHA256, 0, nil},
		"internal key=odd\n": Create{Internal, false, crypto.SHA256, 0, nil},
		"export key=\n":      Create{Export, false, crypto.SHA256, 0, nil},
		"external digest=sha384 key=" + digits(48) + "\n": Create{External, false, crypto.SHA384, 0, count(0, 48)},
		"export cache=0x10\n":                             Create{Export, false, crypto.SHA256, 16, nil},
		"export cache=0X1f\n":                             Create{Export, false, crypto.SHA256, 31, nil},
		"export cache=010\n":                              Create{Export, false, crypto.SHA256, 8, nil},
		"export cache=4294967295\n":                       Create{Export, false, crypto.SHA256, 1<<32 - 1, nil},
		"trusted key=00 pid=0x10\n":                       Release{verdict.Trusted, 16, 0, 0, []byte{0}},
		"trusted tnum=2 pid=1 number=3 key=ff\n":          Release{verdict.Trusted, 1, 2, 3, []byte{0xff}},
		"untrusted pid=4294967295 tnum=07\n":              Release{verdict.Untrusted, 1<<32 - 1, 7, 0, nil},
		"seal\nenforce\n":                                 Seal{},
		"seal\n\x00\xff":                                  Seal{},
		longest:                                           Create{External, false, crypto.SHA256, 1, count(0, 32)},
	} {
		got, err := Parse([]byte(text))
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	if len(longest) != MaxCommand {
		t.Errorf("the longest command has %d bytes", len(longest))
	}
}

func TestParseRefuses(t *testing.T) {
	const secret = "5ec12e7"
	for text, want := range map[string]string{
		"":                                  "0 bytes without a line feed",
		"seal":                              "4 bytes without a line feed",
		longest + "\n":                      "128 bytes; it has at most 127",
		"\n":                                `command ""; one of internal`,
		" seal\n":                           `command ""`,
		"Seal\n":                            `command "Seal"`,
		"seal\x00\n":                        `command "seal\x00"`,
		"lock\n":                            `command "lock"`,
		"seal \n":                           "argument of 0 bytes without =; seal has",
		"enforce now\n":                     "argument of 3 bytes without =; enforce has",
		"enforce a=b\n":                     `argument "a"=; enforce has no such`,
		"external  key=00\n":                "argument of 0 bytes",
		"external key=00 \n":                "argument of 0 bytes",
		"external pid=1\n":                  `argument "pid"=; external has no such`,
		"external =1\n":                     `argument ""=`,
		"external nsref=\n":                 `nsref=""; one of initial, current`,
		"external nsref=root\n":             `nsref="root"`,
		"external digest=md5\n":             `digest "md5": one of sha256`,
		"external digest=\n":                `digest ""`,
		"export cache=0\n":                  `cache="0"; a number above 0 of at most 32 bits`,
		"export cache=00\n":                 `cache="00"`,
		"export cache=\n":                   `cache=""`,
		"export cache=0x\n":                 `cache="0x"`,
		"export cache=08\n":                 `cache="08"`,
		"export cache=-1\n":                 `cache="-1"`,
		"export cache=+1\n":                 `cache="+1"`,
		"export cache=1k\n":                 `cache="1k"`,
		"export cache=1_0\n":                `cache="1_0"`,
		"export cache=0b1\n":                `cache="0b1"`,
		"export cache=2 cache=2\n":          "argument cache= twice",
		"export cache= cache=2\n":           "argument cache= twice",
		"export cache=4294967296\n":         `cache="4294967296"`,
		"export cache=0x100000000\n":        `cache="0x100000000"`,
		"external key=\n":                   "key= with a value of 0 characters; it is an even number",
		"external key=" + secret + "\n":     "key= with a value of 7 characters",
		"external key=0g\n":                 "key= with a value of 2 characters",
		"external key=" + digits(31) + "\n": "key of 62 digits; with this digest it has 64",
		"external key=" + digits(33) + "\n": "key of 66 digits",
		"external digest=sha384 key=" + digits(32) + "\n": "key of 64 digits; with this digest it has 96",
		"trusted\n":                                 "trusted without pid=",
		"trusted \n":                                "argument of 0 bytes",
		"trusted 5\n":                               "argument of 1 bytes",
		"trusted " + secret + "\n":                  "argument of 7 bytes",
		"trusted pid=5\n":                           "trusted without tnum= and key=",
		"untrusted key=00\n":                        "untrusted without pid=",
		"untrusted tnum=5\n":                        "untrusted without pid=",
		"trusted pid=0 tnum=1\n":                    `pid="0"; a number above 0`,
		"trusted pid=1 tnum=0\n":                    `tnum="0"`,
		"trusted pid=4294967296 tnum=1\n":           `pid="4294967296"`,
		"trusted pid=1 tnum=18446744073709551616\n": `tnum="18446744073709551616"; a number above 0 of at most 64 bits`,
		"trusted pid=1 tnum=1 number=0\n":           `number="0"`,
		"trusted pid=1 tnum=1 value=00\n":           `argument "value"=; trusted has no such`,
		"trusted pid=1 key=" + secret + "\n":        "key= with a value of 7 characters",
		"trusted pid=1\r tnum=1\n":                  `pid="1\r"`,
		"takeover\n":                                "takeover without id=",
		"takeover key=00\n":                         "takeover without id=",
		"takeover id=0\n":                           `id="0"; a number above 0 of at most 64 bits`,
		"takeover id=\n":                            `id=""`,
		"takeover id=3 key=" + secret + "\n":        "key= with a value of 7 characters",
		"takeover id=3 tnum=1\n":                    `argument "tnum"=; takeover has no such`,
		"takeover 3\n":                              "argument of 1 bytes",
		"trusted pid=1 id=3\n":                      `argument "id"=; trusted has no such`,
		"state\n":                                   "state without value=",
		"base value=\n":                             "value= with a value of 0 characters",
		"pseudonym value=0\n":                       "value= with a value of 1 characters",
		"pseudonym value=0 0\n":                     "argument of 1 bytes",
		"state digest=sha256\n":                     `argument "digest"=; state has no such`,
	} {
		got, err := Parse([]byte(text))
		switch {
		case !errors.Is(err, unix.EINVAL):
			t.Errorf("%q: %+v, %v", text, got, err)
		case !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v, want %s", text, err, want)
		case strings.Contains(err.Error(), secret):
			t.Errorf("the error has the key: %v", err)
		}
	}
	if r, err := ParseRelease([]byte("seal")); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a release: %+v, %v", r, err)
	}
}

// text is a command as an orchestrator writes it.
func text(c Command) string {
	words := []string{}
	add := func(given bool, format string, value any) {
		if given {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	switch c := c.(type) {
	case Create:
		add(true, "%s", map[Kind]string{Internal: "internal", External: "external", Export: "export"}[c.Kind])
		add(c.NSRefCurrent, "nsref=%s", "current")
		add(c.Digest != crypto.SHA256, "digest=%s", map[crypto.Hash]string{crypto.SHA384: "sha384", crypto.SHA512: "sha512"}[c.Digest])
		add(c.Cache != 0, "cache=%d", c.Cache)
		add(c.Key != nil, "key=%x", c.Key)
	case Release:
		add(true, "%v", c.Verdict)
		add(true, "pid=%d", c.PID)
		add(c.TNum != 0, "tnum=%d", c.TNum)
		add(c.Number != 0, "number=%d", c.Number)
		add(c.Key != nil, "key=%x", c.Key)
	case Enforce:
		add(true, "%s", "enforce")
	case Seal:
		add(true, "%s", "seal")
	case Takeover:
		add(true, "takeover id=%d", c.Namespace)
		add(c.Key != nil, "key=%x", c.Key)
	case Load:
		add(true, "%s", map[Part]string{State: "state", Pseudonym: "pseudonym", Base: "base"}[c.Part])
		add(true, "value=%x", c.Value)
	}
	return strings.Join(words, " ") + "\n"
}

// FuzzParse: what is parsed means the same when it is written again in the plainest way,
// and every error has an errno.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"external nsref=current model=M digest=sha384 cache=0x20\n", "export\n", "internal cache=010\n", longest,
		"trusted pid=1 tnum=2 number=3\n", "untrusted pid=0x1 key=00ff\n", "seal\nenforce", "enforce\n", "base value=FF\n", "x\n",
		"takeover id=3 key=" + digits(32) + "\n", "takeover id=017\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, write []byte) {
		before := bytes.Clone(write)
		c, err := Parse(write)
		if !bytes.Equal(write, before) {
			t.Fatalf("%q became %q", before, write)
		}
		if err != nil {
			if !errors.Is(err, unix.EINVAL) {
				t.Fatalf("%q: %v", write, err)
			}
			return
		}
		if len(text(c)) > MaxCommand { // a hexadecimal number may be shorter
			return
		}
		if again, err := Parse([]byte(text(c))); err != nil || !cmp.Equal(c, again) {
			t.Fatalf("%q is %+v, and %q is %+v, %v", write, c, text(c), again, err)
		}
	})
}
