// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"crypto"
	b64 "encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// Names are what a workload chooses: those of its threads and files, attributes and their values,
// addresses, devices. No name may break a record, or forge one.

// hostileNames would break a record, or forge one, if they were written as they are.
var hostileNames = map[string]string{
	"line feed":           "a\nb",
	"quote":               `"`,
	"backslashes":         `a\b\`,
	"backslash and quote": `\"`,
	"braces":              "}}{",
	"members of a record": `", "uid": "0"}}, "x": {"y": "`,
	"a second record":     "\"}}\n" + `{"export": {"type": "event"}}`,
	"control characters":  "\x01\b\t\r\x1b[2J\x7f",
	"no UTF-8":            "a\xff\xfeb\xc0\xaf\xe2\x82",
	"surrogates":          "\xed\xa0\x80\xed\xb0\x80",
	"escapes":             "\ufffdff" + `\u0022\ufffd22`,
	"line separators":     "\u2028\u2029\u0085",
	"long names":          strings.Repeat("/"+strings.Repeat(`"`, 255), 15),
	"long without UTF-8":  strings.Repeat("\xff", 4000),
	"long with braces":    strings.Repeat("{", 4000),
	"nothing":             "",
}

// TestNames: hostile names in every place of every event.
func TestNames(t *testing.T) {
	for label, name := range hostileNames {
		t.Run(label, func(t *testing.T) {
			for _, hook := range Hooks() {
				checkNames(t, hook, []byte(name))
			}
		})
	}
}

// FuzzNames: any bytes are a name.
func FuzzNames(f *testing.F) {
	hooks := Hooks()
	for _, name := range hostileNames {
		f.Add([]byte(name), uint8(0)) // of the other events TestNames has them
	}
	f.Fuzz(func(t *testing.T, name []byte, hook uint8) {
		checkNames(t, hooks[int(hook)%len(hooks)], name)
	})
}

// A place is where a record has a name: the command name in the header, or a cell of a type.
type place struct {
	room  int    // bytes that fit
	plain string // a name that is no other's, and written as it is
}

var comm = place{15, "plain comm"}

// unixPathMax is the size of sun_path (include/uapi/linux/un.h).
const unixPathMax = 108

var places = map[cellType]place{
	cellInode: {31, "plain s_id"},
	cellPath:  {textMax, "/plain path"},
	cellAddr:  {unixPathMax, "plain address"},
	cellText:  {textMax, "plain text"},
	cellBytes: {valueMax, "plain bytes"},
}

// of returns what of a name the place has; the path of a created file has a directory.
func (p place) of(name []byte) []byte {
	if p == places[cellPath] {
		name = append([]byte{'/'}, name...)
	}
	return name[:min(len(name), p.room)]
}

// named returns a record of a hook that has the name which nameOf returns in every place, and how many places there
// are. Nothing that may be absent is.
func named(t *testing.T, hook Hook, kind Kind, nameOf func(place) []byte) (r Record, count int) {
	t.Helper()
	b := &eventtest.Builder{Header: eventtest.Header{Hook: uint16(hook), Kind: uint8(kind), TID: 1, Comm: string(nameOf(comm))}}
	count = 1
	for _, m := range hook.row().members {
		for _, set := range m.shape.cells {
			kind := cellType(1)
			for set>>kind&1 == 0 {
				kind++
			}
			size, p := cellSizes[kind], places[kind]
			cell := make([]byte, size.fixed)
			if p.room > 0 {
				count++
			} else if size.more > 0 {
				t.Fatalf("%s: cell type %d has room for a name, and is no place", hook, kind)
			}
			switch kind {
			case cellInode:
				copy(cell[offInodeSID:], nameOf(p))
			case cellPath:
				native.PutUint32(cell[offPathFlags:], pathDev|pathCreated)
				native.PutUint32(cell[offPathType:], uint32(PathRoot))
				cell = append(cell, nameOf(p)...)
			case cellAddr:
				native.PutUint32(cell[offAddrFamily:], familyUnix)
				cell = append(native.AppendUint16(cell, familyUnix), nameOf(p)...)
			case cellText, cellBytes:
				cell = nameOf(p)
			}
			b.Cell(uint16(kind), cell)
		}
	}
	return mustParse(t, b), count
}

// checkNames compares a record that has a name in each place with one that has plain names: it is one line of JSON
// with the same members, and with the same values but for the names, which can be had back.
func checkNames(t *testing.T, hook Hook, name []byte) {
	t.Helper()
	expected := map[string][]byte{comm.plain: untilNUL(comm.of(name))} // by what stands in the plain record
	for kind, p := range places {
		switch given := p.of(name); kind {
		case cellInode, cellAddr:
			expected[p.plain] = untilNUL(given)
		case cellBytes:
			expected[b64.StdEncoding.EncodeToString([]byte(p.plain))] = b64.StdEncoding.AppendEncode(nil, given)
		default:
			expected[p.plain] = given
		}
	}
	for _, kind := range []Kind{KindEvent, KindAsync, KindLog, KindDeny} {
		record, count := named(t, hook, kind, func(p place) []byte { return p.of(name) })
		plain, _ := named(t, hook, kind, func(p place) []byte { return []byte(p.plain) })
		if record.Untrusted() {
			count++ // comm stands in `log` too
		}
		for _, dialect := range []Dialect{Current, V3} {
			if dialect == V3 && record.Untrusted() {
				count = 1 // and nowhere else
			}
			got, want := written(t, dialect, &record), written(t, dialect, &plain)
			if len(got) != len(want) {
				t.Errorf("%s, kind %d, dialect %d: the record has %d tokens, and %d with plain names: %q", hook, kind, dialect, len(got), len(want), got)
				continue
			}
			found := 0
			for i := range want {
				text, _ := want[i].(string)
				part, isName := expected[text]
				if !isName {
					if got[i] != want[i] {
						t.Errorf("%s, kind %d, dialect %d: %v, and %v with plain names", hook, kind, dialect, got[i], want[i])
					}
					continue
				}
				found++
				if written, ok := got[i].(string); !ok || !bytes.Equal(original(written), part) {
					t.Errorf("%s, kind %d, dialect %d: %q came back as %q", hook, kind, dialect, part, got[i])
				}
			}
			if found != count {
				t.Errorf("%s, kind %d, dialect %d: %d names, want %d", hook, kind, dialect, found, count)
			}
		}
	}
}

// written returns the tokens of the line of a record, which must be one of valid JSON also to a client that counts braces.
func written(t *testing.T, dialect Dialect, r *Record) (tokens []json.Token) {
	t.Helper()
	line, err := NewEncoder(dialect, crypto.SHA256, noIDs{}).Append(nil, r, Digest{})
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(line) || !utf8.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 {
		t.Fatalf("not one line of JSON: %q", line)
	}
	if n := naiveLength(line); n != len(line)-1 {
		t.Errorf("a client that counts braces sees %d of %d bytes: %q", n, len(line)-1, line)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return tokens
		}
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
}

// naiveLength is how a client finds the end of a record that knows nothing of strings:
// where as many braces are closed as were opened.
func naiveLength(line []byte) int {
	open := 0
	for i, b := range line {
		switch b {
		case '{':
			open++
		case '}':
			if open--; open == 0 {
				return i + 1
			}
		}
	}
	return -1
}
