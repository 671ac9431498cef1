// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"fmt"
	"strconv"

	// The digest functions that event.ParseDigest knows by name.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// MaxCommand is the most bytes that one write may have (4.2). A key of sha512 does not fit
// into that: an external namespace of sha512 is made without one, and released by tnum.
const MaxCommand = 127

// Command is what one write asks for: a Create, a Release, an Enforce, a Seal, a Takeover or a Load.
type Command interface{ command() }

// Kind is the kind of a namespace that is to be made.
type Kind uint8

// The kinds of namespaces (4.3).
const (
	Internal Kind = iota + 1 // modeled by the kernel itself
	External                 // its tasks wait for an orchestrator
	Export                   // its events are described, and nobody waits
)

// Create makes a namespace and puts the thread that writes into it (4.3).
type Create struct {
	Kind         Kind
	NSRefCurrent bool        // ids as the user namespace of the task sees them, not the initial one
	Digest       crypto.Hash // SHA-256 where none is named
	// Cache is the size of the magazine, 0 where none is named. It is at least 1 otherwise,
	// and no more is checked: what is too much is up to whoever makes the magazine.
	Cache uint32
	// Key is the orchestrator's key, as long as a digest; nil where there is none, and
	// where the namespace is not External.
	Key []byte
}

// Release is a verdict about an event of a task (4.5). TSEM v3 releases by key, its versions
// since February 2025 by tnum; at least one of them is there.
type Release struct {
	Verdict verdict.Verdict // Trusted or Untrusted
	PID     uint32          // of the thread, as the event has it; never 0
	TNum    uint64          // task number, as the event has it; 0: not given
	Number  uint64          // of the event, of which tsem-bpf tells; 0: not given
	Key     []byte          // the orchestrator's; nil: not given
}

// Enforce makes DENY the action of all events of the namespace, for ever (4.6).
type Enforce struct{}

// Seal ends the changes to the namespace's model, for ever (4.6).
type Seal struct{}

// Takeover makes the process that writes the orchestrator of a namespace whose own has ended. TSEM
// has no such command: there nobody notices (4.8).
type Takeover struct {
	Namespace uint64 // never 0
	Key       []byte // which the namespace was made with; nil: not given
}

// Part is a part of an internal model.
type Part uint8

// The parts of a model that can be loaded (4.6).
const (
	State Part = iota + 1
	Pseudonym
	Base
)

// Load loads a value into an internal model (4.6). The value is to be as long as a digest of
// the namespace, which only its keeper knows.
type Load struct {
	Part  Part
	Value []byte
}

func (Create) command()   {}
func (Release) command()  {}
func (Enforce) command()  {}
func (Seal) command()     {}
func (Takeover) command() {}
func (Load) command()     {}

// Parse parses the bytes of one write, whatever the offset was: orchestrators write on one
// descriptor that they never rewind (0.1). What follows the first line feed is ignored. All
// errors wrap EINVAL.
func Parse(write []byte) (Command, error) {
	if len(write) > MaxCommand {
		return nil, refuse("command of %d bytes; it has at most %d", len(write), MaxCommand)
	}
	line, _, ok := bytes.Cut(write, []byte("\n"))
	if !ok {
		return nil, refuse("command of %d bytes without a line feed; one ends it", len(write))
	}
	verb, _, _ := bytes.Cut(line, []byte(" "))
	switch string(verb) {
	case "internal":
		return parseCreate(Internal, line)
	case "external":
		return parseCreate(External, line)
	case "export":
		return parseCreate(Export, line)
	case "trusted", "untrusted":
		return ParseRelease(line)
	case "enforce":
		_, err := parseArguments(line)
		return Enforce{}, err
	case "seal":
		_, err := parseArguments(line)
		return Seal{}, err
	case "takeover":
		return parseTakeover(line)
	case "state":
		return parseLoad(State, line)
	case "pseudonym":
		return parseLoad(Pseudonym, line)
	case "base":
		return parseLoad(Base, line)
	}
	return nil, refuse("command %.40q; one of internal, external, export, enforce, seal, takeover, trusted, untrusted, state, pseudonym, base", verb)
}

// refuse makes an error of a sentence that names what was written and the rule.
func refuse(format string, values ...any) error {
	return fmt.Errorf(format+": %w", append(values, unix.EINVAL)...)
}

func parseCreate(kind Kind, line []byte) (Create, error) {
	// Which model judges an external namespace is the orchestrator's own affair, but those
	// of 2024 and 2025 tell the kernel.
	given, err := parseArguments(line, nsref, model, digest, cache, key)
	if err != nil {
		return Create{}, err
	}
	c := Create{Kind: kind, Digest: crypto.SHA256}
	switch ref := string(given[nsref]); {
	case given[nsref] == nil || ref == "initial":
	case ref == "current":
		c.NSRefCurrent = true
	default:
		return Create{}, refuse("nsref=%.40q; one of initial, current", ref)
	}
	if given[digest] != nil {
		if c.Digest, err = event.ParseDigest(string(given[digest])); err != nil {
			return Create{}, refuse("%w", err)
		}
	}
	size, err := given.number(cache, 32)
	if err != nil {
		return Create{}, err
	}
	c.Cache = uint32(size)
	if kind != External {
		return c, nil
	}
	if c.Key, err = given.bytes(key); err != nil {
		return Create{}, err
	}
	if c.Key != nil && len(c.Key) != c.Digest.Size() {
		return Create{}, refuse("key of %d digits; with this digest it has %d", 2*len(c.Key), 2*c.Digest.Size())
	}
	return c, nil
}

// ParseRelease parses a line without its line feed. An agent of package tma writes the same.
// All errors wrap EINVAL.
func ParseRelease(line []byte) (Release, error) {
	var r Release
	switch verb, _, _ := bytes.Cut(line, []byte(" ")); string(verb) {
	case "trusted":
		r.Verdict = verdict.Trusted
	case "untrusted":
		r.Verdict = verdict.Untrusted
	default:
		return Release{}, refuse("verdict %.40q; one of trusted, untrusted", verb)
	}
	given, err := parseArguments(line, pid, tnum, number, key)
	if err != nil {
		return Release{}, err
	}
	thread, err := given.number(pid, 32)
	if err != nil {
		return Release{}, err
	}
	r.PID = uint32(thread)
	if r.TNum, err = given.number(tnum, 64); err != nil {
		return Release{}, err
	}
	if r.Number, err = given.number(number, 64); err != nil {
		return Release{}, err
	}
	if r.Key, err = given.bytes(key); err != nil {
		return Release{}, err
	}
	switch {
	case r.PID == 0:
		return Release{}, refuse("%v without pid=; it says which task", r.Verdict)
	case r.TNum == 0 && r.Key == nil:
		return Release{}, refuse("%v without tnum= and key=; one of them says whose task", r.Verdict)
	}
	return r, nil
}

func parseTakeover(line []byte) (Takeover, error) {
	given, err := parseArguments(line, id, key)
	if err != nil {
		return Takeover{}, err
	}
	var t Takeover
	if t.Namespace, err = given.number(id, 64); err != nil {
		return Takeover{}, err
	}
	if t.Namespace == 0 {
		return Takeover{}, refuse("takeover without id=; it says which namespace")
	}
	if t.Key, err = given.bytes(key); err != nil {
		return Takeover{}, err
	}
	return t, nil
}

func parseLoad(part Part, line []byte) (Load, error) {
	given, err := parseArguments(line, value)
	if err != nil {
		return Load{}, err
	}
	if given[value] == nil {
		return Load{}, refuse("%s without value=; it says what to load", line)
	}
	v, err := given.bytes(value)
	if err != nil {
		return Load{}, err
	}
	return Load{part, v}, nil
}

// argument is a key that arguments can have.
type argument uint8

const (
	nsref argument = iota
	model
	digest
	cache
	key
	pid
	tnum
	number
	value
	id
)

var argumentNames = [...]string{
	nsref: "nsref", model: "model", digest: "digest", cache: "cache", key: "key",
	pid: "pid", tnum: "tnum", number: "number", value: "value", id: "id",
}

// arguments are the values of all arguments. One that was not given is nil; one that was
// given empty is not.
type arguments [len(argumentNames)][]byte

// parseArguments parses what follows the first word of a line: key=value words, one blank
// between them, in any order.
func parseArguments(line []byte, known ...argument) (given arguments, err error) {
	verb, rest, more := bytes.Cut(line, []byte(" "))
	for more {
		var word []byte
		word, rest, more = bytes.Cut(rest, []byte(" "))
		name, text, ok := bytes.Cut(word, []byte("="))
		if !ok {
			return arguments{}, refuse("argument of %d bytes without =; %s has key=value words, one blank between them", len(word), verb)
		}
		a, ok := find(name, known)
		switch {
		case !ok:
			return arguments{}, refuse("argument %.40q=; %s has no such argument", name, verb)
		case given[a] != nil:
			return arguments{}, refuse("argument %s= twice; each comes once", name)
		}
		given[a] = text
	}
	return given, nil
}

func find(name []byte, known []argument) (argument, bool) {
	for _, a := range known {
		if string(name) == argumentNames[a] {
			return a, true
		}
	}
	return 0, false
}

// number returns a number above 0, and 0 if the argument was not given. It is written as in
// C (4.3, 4.5): hexadecimal after 0x, octal after 0.
func (given *arguments) number(a argument, bits int) (uint64, error) {
	text := given[a]
	if text == nil {
		return 0, nil
	}
	digits, base := text, 10
	if len(text) > 1 && text[0] == '0' {
		if digits, base = text[1:], 8; text[1] == 'x' || text[1] == 'X' {
			digits, base = text[2:], 16
		}
	}
	n, err := strconv.ParseUint(string(digits), base, bits)
	if err != nil || n == 0 {
		return 0, refuse("%s=%.40q; a number above 0 of at most %d bits", argumentNames[a], text, bits)
	}
	return n, nil
}

// bytes returns what hexadecimal digits say, and nil if the argument was not given.
func (given *arguments) bytes(a argument) ([]byte, error) {
	digits := given[a]
	if digits == nil {
		return nil, nil
	}
	b := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(b, digits); err != nil || len(b) == 0 {
		return nil, refuse("%s= with a value of %d characters; it is an even number of hexadecimal digits, two at least", argumentNames[a], len(digits))
	}
	return b, nil
}
