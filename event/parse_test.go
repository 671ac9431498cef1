// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// noIDs knows no TASK_ID.
type noIDs struct{}

func (noIDs) TaskID(dst []byte, identity uint64) []byte { return append(dst, make([]byte, 32)...) }

func capable() *eventtest.Builder {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 85, Kind: 2, Number: 1, TID: 1, Comm: "test"}}
	return b.Cell(eventtest.Scalar, uint64(21)).Cell(eventtest.Scalar, uint64(0))
}

// A record that is wrong, and what Parse has to say.
type wrong struct {
	name string
	raw  []byte
	want error
	says string
}

func refused(t *testing.T, tests []wrong) {
	t.Helper()
	for _, test := range tests {
		_, err := Parse(test.raw)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want %v with %q", test.name, err, test.want, test.says)
		}
	}
}

// TestParseErrors: each way a record can be wrong has its error.
func TestParseErrors(t *testing.T) {
	set := func(at int, value byte) []byte {
		raw := capable().Record()
		raw[at] = value
		return raw
	}
	text := func(size int) []byte {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: 38, Kind: 1}}
		b.Cell(eventtest.Text, make([]byte, size)).Cell(eventtest.Path, make([]byte, sizePath), []byte("/"))
		return b.Cell(eventtest.Absent).Cell(eventtest.Scalar, uint64(0)).Record()
	}
	long := append(capable().Record(), make([]byte, 8)...)
	native.PutUint32(long, uint32(len(long)))
	// A file_open whose last cell is a path of one byte, and so has padding.
	opened := func(fromEnd int, value byte) []byte {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1}}
		addFile(b, digestWanted, "/")
		raw := b.Record()
		raw[len(raw)-fromEnd] = value
		return raw
	}
	missing := &eventtest.Builder{Header: eventtest.Header{Hook: 85, Kind: 2}}
	refused(t, []wrong{
		{"empty", nil, ErrTruncated, "0 bytes"},
		{"half a header", capable().Record()[:100], ErrTruncated, "100 bytes"},
		{"shorter than it says", capable().Record()[:184], ErrTruncated, "184 bytes"},
		{"version", set(offRecordVersion, 9), ErrVersion, "9"},
		{"hook", set(offRecordHook, 200), ErrHook, "200"},
		{"no hook", set(offRecordHook, 0), ErrHook, "0"},
		{"kind", set(offRecordKind, byte(KindDeny)+1), ErrKind, "6, of capable"},
		{"exec of another hook", set(offRecordKind, byte(KindExec)), ErrKind, "capable"},
		{"count", set(offRecordCells, 3), ErrCell, "the header says 3"},
		{"cut count", set(offRecordCut, 1), ErrCell, "cut, the header says 1"},
		{"cell type", set(sizeRecord, byte(eventtest.Task)), ErrCell, "member cap"},
		{"cell type out of range", set(sizeRecord, 99), ErrCell, "type 99"},
		{"flag of a scalar", set(sizeRecord+2, 1), ErrCell, "flags 0x1"},
		{"size of a scalar", set(sizeRecord+4, 4), ErrCell, "with 4 bytes"},
		{"no cells", missing.Record(), ErrTruncated, "member cap"},
		{"bytes after the cells", long, ErrCell, "8 bytes after the last one"},
		{"padding", opened(1, 9), ErrCell, "padding 00000000000009"},
		{"path flags", opened(8+sizePath-offPathFlags, 0x80), ErrCell, "path flags 0x80"},
		{"path type", opened(8+sizePath-offPathType, 9), ErrCell, "path type 9"},
		{"longer than it says", append(capable().Record(), 0), ErrTruncated, "193 bytes, it says 192"},
		{"no kind", set(offRecordKind, 0), ErrKind, "0, of capable"},
		{"text too long", text(textMax + 1), ErrCell, "4097 bytes"},
	})
	if _, err := Parse(text(textMax)); err != nil {
		t.Errorf("the longest text: %v", err)
	}
}

// TestNumberOf: the number of a record outlives what is wrong behind the header.
func TestNumberOf(t *testing.T) {
	raw := capable().Record()
	raw[sizeRecord] = 99
	if number, ok := NumberOf(raw); number != 1 || !ok {
		t.Errorf("number %d, %v", number, ok)
	}
	if _, ok := NumberOf(raw[:sizeRecord-1]); ok {
		t.Error("half a header has a number")
	}
	raw[offRecordVersion]++
	if _, ok := NumberOf(raw); ok {
		t.Error("another version has a number")
	}
}

// TestCellErrors: the same, of cells.
func TestCellErrors(t *testing.T) {
	at := func(raw []byte, at int, value byte) []byte {
		raw[at] = value
		return raw
	}
	cut := (&eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1}})
	addFilePath(cut, digestWanted, cut.Cut, "/")
	bind := func(rest func(*eventtest.Builder)) []byte {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: 24, Kind: 1}}
		rest(b.Sock(2, 1, 6, 0))
		return b.Record()
	}
	addressed := func(b *eventtest.Builder) { b.Addr(2, nil) }
	swapped := &eventtest.Builder{Header: eventtest.Header{Hook: 24, Kind: 1}}
	swapped.Addr(2, nil).Sock(2, 1, 6, 0)
	longPath := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1}}
	addFile(longPath, digestWanted, strings.Repeat("/", textMax+1))
	exec := func(kind Kind) []byte {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: uint16(HookExec), Kind: uint8(kind)}}
		addFile(b, digestWanted, "/")
		return b.Record()
	}
	anonymous := func() *eventtest.Builder { return &eventtest.Builder{Header: eventtest.Header{Hook: 15, Kind: 1}} }
	refused(t, []wrong{
		{"digest state", at(cut.Record(), sizeRecord+sizeCell+offFileDigestState, 5), ErrCell, "digest state 5"},
		{"path too long", longPath.Record(), ErrCell, "4129 bytes"},
		{"address too long", bind(func(b *eventtest.Builder) { b.Addr(2, make([]byte, addressMax+1)) }), ErrCell, "137 bytes"},
		{"address without a head", bind(func(b *eventtest.Builder) { b.Cell(eventtest.Addr, uint32(2)) }), ErrCell, "4 bytes"},
		{"unknown flag", at(bind(addressed), sizeRecord+sizeCell+sizeSock+2, 2), ErrCell, "flags 0x2"},
		{"a socket that is cut", at(bind(addressed), sizeRecord+2, 1), ErrCell, "flags 0x1"},
		{"absent where it must not be", bind(func(b *eventtest.Builder) { b.Absent() }), ErrCell, "member addr, cell 2"},
		{"order of the cells", swapped.Record(), ErrCell, "member sock, cell 1"},
		{"a cell too many", bind(func(b *eventtest.Builder) { b.Addr(2, nil).Absent() }), ErrCell, "8 bytes after the last one"},
		{"a cell too few", bind(func(*eventtest.Builder) {}), ErrTruncated, "member addr, cell 2"},
		{"cut, and the header does not know", at(cut.Record(), offRecordCut, 0), ErrCell, "1 of them cut, the header says 0"},
		{"exec as an event", exec(KindEvent), ErrKind, "1, of bprm_committed_creds"},
		{"exec as an async event", exec(KindAsync), ErrKind, "2, of bprm_committed_creds"},
		{"absent with a payload", anonymous().Cell(eventtest.Absent, uint64(0)).Scalar(7).Scalar(34).Record(), ErrCell, "type 0 with 8 bytes"},
		{"absent that is cut", anonymous().Cut(eventtest.Absent).Scalar(7).Scalar(34).Record(), ErrCell, "type 0 with flags 0x1"},
	})
}

// TestTruncated: a record of any hook that is cut off anywhere is refused, with the
// length it had and with the one it has now.
func TestTruncated(t *testing.T) {
	all := eventtest.Specification(t)
	for _, hook := range Hooks() {
		whole := inverted(t, all[hook.String()].Example).Record()
		for n := range whole {
			for _, said := range []int{len(whole), n} {
				short := bytes.Clone(whole[:n])
				if n >= 4 {
					native.PutUint32(short, uint32(said))
				}
				if _, err := Parse(short); !errors.Is(err, ErrTruncated) {
					t.Errorf("%s, %d of %d bytes, it says %d: %v", hook, n, len(whole), said, err)
				}
			}
		}
	}
}

// TestExecIsNotWritten: the bookkeeping record has no JSON.
func TestExecIsNotWritten(t *testing.T) {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: uint16(HookExec), Kind: uint8(KindExec)}}
	addFile(b, digestWanted, "/bin/true")
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewEncoder(V3, crypto.SHA256, noIDs{}).Append(nil, &r, Digest{}); !errors.Is(err, ErrKind) {
		t.Error(err)
	}
}

func addFile(b *eventtest.Builder, source digestSource, name string) {
	addFilePath(b, source, b.Cell, name)
}

func addFilePath(b *eventtest.Builder, source digestSource, cell func(uint16, ...any) *eventtest.Builder, name string) {
	b.Cell(eventtest.File, uint32(0), uint32(source), bytes.Repeat([]byte{0xab}, 32))
	b.Cell(eventtest.Inode, make([]byte, sizeInode))
	cell(eventtest.Path, make([]byte, offPathType), uint32(PathChroot), []byte(name))
}

// TestCurrent: what the current dialect has beyond v3, and v3 has not.
func TestCurrent(t *testing.T) {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1, Slot: 3, Ticket: 5, TID: 9, Tnum: 8, Namespace: 7, Number: 6, Comm: "c"}}
	addFile(b, digestWanted, "/x")
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	if r.Slot() != 3 || r.Ticket() != 5 {
		t.Errorf("slot %d, ticket %d", r.Slot(), r.Ticket())
	}
	for dialect, wants := range map[Dialect][]string{
		Current: {
			`"event": {"pid": "9", "tnum": "8", "context": "7", "number": "6", "process": "c", "type": "file_open", `,
			`"ts": "0"}, "COE"`,
			`"path": {"type": "chroot", "pathname": "/x"}`,
			`"digest": "` + strings.Repeat("f", 64) + `", "digest_state": "changed"}}}` + "\n",
		},
		V3: {
			`"event": {"pid": "9", "process": "c", "type": "file_open", `,
			`"ts": "0"}, "COE"`,
			`"path": {"pathname": "/x"}`,
			`"digest": "` + strings.Repeat("f", 64) + `"}}}` + "\n",
		},
	} {
		line, err := NewEncoder(dialect, crypto.SHA256, noIDs{}).Append(nil, &r, Digest{State: DigestChanged})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(line), want) {
				t.Errorf("no %s in %s", want, line)
			}
		}
	}
}

// TestCut: a text that is not complete is marked where there is a mark, else not written.
func TestCut(t *testing.T) {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1, Number: 6}}
	addFilePath(b, digestEmpty, b.Cut, "/x")
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	line, err := NewEncoder(Current, crypto.SHA256, noIDs{}).Append(nil, &r, Digest{})
	if err != nil || !strings.Contains(string(line), `"ts": "0", "cut": "1"}, "COE"`) {
		t.Errorf("current: %s, %v", line, err)
	}
	line, err = NewEncoder(V3, crypto.SHA256, noIDs{}).Append([]byte("before"), &r, Digest{})
	if !errors.Is(err, ErrCut) || !strings.Contains(err.Error(), "event 6, file_open") || string(line) != "before" {
		t.Errorf("v3: %s, %v", line, err)
	}
}

// mostLine is a limit that lines without texts do not reach.
const mostLine = 3600

// TestLimit: long texts lose as much at their front as it takes, and are marked once.
func TestLimit(t *testing.T) {
	longest := "/dir" + strings.Repeat("/x", 2000) + "/end"
	for name, test := range map[string]struct {
		build   func(b *eventtest.Builder)
		want    string // in the line
		missing string
	}{
		"one":          {func(b *eventtest.Builder) { addFile(b, digestEmpty, longest) }, `/x/end"`, "/dir"},
		"marked":       {func(b *eventtest.Builder) { addFilePath(b, digestEmpty, b.Cut, longest) }, `"cut": "1"}`, "/dir"},
		"short":        {func(b *eventtest.Builder) { addFile(b, digestEmpty, "/dir/end") }, `/dir/end"`, `"cut"`},
		"short marked": {func(b *eventtest.Builder) { addFilePath(b, digestEmpty, b.Cut, "/dir/end") }, `"cut": "1"}`, `"cut": "2"`},
		"escaped":      {func(b *eventtest.Builder) { addFile(b, digestEmpty, strings.Repeat("\n", 4000)+"/end") }, `\u000a/end"`, `"cut": "2"`},
	} {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1, Number: 6}}
		test.build(b)
		r, err := Parse(b.Record())
		if err != nil {
			t.Fatal(err)
		}
		e := NewEncoder(Current, crypto.SHA256, noIDs{})
		e.Limit(mostLine)
		line, err := e.Append([]byte("before"), &r, Digest{})
		if got := len(line) - len("before"); err != nil || got > mostLine || !strings.Contains(string(line), test.want) || strings.Contains(string(line), test.missing) {
			t.Errorf("%s: %d bytes, %s, %v", name, got, line, err)
		}
		e = NewEncoder(V3, crypto.SHA256, noIDs{})
		e.Limit(mostLine)
		line, err = e.Append([]byte("before"), &r, Digest{})
		if fits := name == "short"; fits != (err == nil) || !fits && (!errors.Is(err, ErrCut) || string(line) != "before") {
			t.Errorf("%s, v3: %s, %v", name, line, err)
		}
	}
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 72, Kind: 1}}
	b.Absent().Path(eventtest.PathCell{Text: longest}).Text("user.x").Bytes(bytes.Repeat([]byte{'v'}, 60000)).Scalar(0)
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	e := NewEncoder(Current, crypto.SHA256, noIDs{})
	e.Limit(mostLine)
	if line, err := e.Append(nil, &r, Digest{}); err != nil || len(line) > mostLine || !strings.Contains(string(line), `"cut": "2"}`) {
		t.Errorf("two: %d bytes, %s, %v", len(line), line, err)
	}
}

// wideIDs has TASK_IDs as long as they get.
type wideIDs struct{}

func (wideIDs) TaskID(dst []byte, identity uint64) []byte { return append(dst, zeros[:]...) }

// longest returns the record of a hook whose line is the longest that there is without texts: every number has all its bits, and
// the names that are no texts, of tasks, filesystems and sockets, have bytes that are written with eight each.
func longest(t *testing.T, r *row, kind Kind) Record {
	t.Helper()
	b := &eventtest.Builder{Header: eventtest.Header{Hook: uint16(r.hook), Kind: uint8(kind)}}
	for _, m := range r.members {
		for _, set := range m.shape.cells {
			cell := cellType(bits.Len16(uint16(set)) - 1) // not the absent one
			payload := bytes.Repeat([]byte{0xff}, int(cellSizes[cell].fixed))
			switch cell {
			case cellPath:
				native.PutUint32(payload[offPathFlags:], pathDev|pathCreated)
				native.PutUint32(payload[offPathType:], uint32(PathNamespace))
				payload = append(payload, '/')
			case cellFile:
				native.PutUint32(payload[offFileDigestState:], uint32(digestWanted))
			case cellAddr:
				payload = bytes.Repeat([]byte{0xff}, sizeAddr+addressMax)
				native.PutUint32(payload, familyUnix)
			}
			b.Cell(uint16(cell), payload)
		}
	}
	raw := b.Record()
	for at := offRecordNumber; at < sizeRecord; at++ {
		raw[at] = 0xff
	}
	record, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// TestLimitLongest: what is not left out at the front of texts fits, whatever it is.
func TestLimitLongest(t *testing.T) {
	for _, hook := range Hooks() {
		for _, kind := range []Kind{KindEvent, KindDeny} {
			r := longest(t, hook.row(), kind)
			e := NewEncoder(Coefficients, crypto.SHA512, wideIDs{})
			e.Limit(mostLine)
			if line, err := e.Append(nil, &r, Digest{}); err != nil || len(line) > mostLine || !json.Valid(line) {
				t.Errorf("%s: %d bytes, %v, %s", hook, len(line), err, line)
			}
		}
	}
}

// TestDigestSources: each rule gives the digest it says.
func TestDigestSources(t *testing.T) {
	ima := strings.Repeat("ab", 32)
	empty := sha256.Sum256(nil)
	for source, want := range map[digestSource]string{
		digestEmpty: hex.EncodeToString(empty[:]), digestIMA: ima, digestZero: strings.Repeat("0", 64), digestWanted: strings.Repeat("f", 64),
		digestVolatile: strings.Repeat("f", 64),
	} {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1}}
		addFile(b, source, "/x")
		r, err := Parse(b.Record())
		if err != nil {
			t.Fatal(err)
		}
		d, known := r.Digest(crypto.SHA256)
		if known != (source != digestWanted) {
			t.Errorf("source %d: known: %v", source, known)
		}
		line, err := NewEncoder(V3, crypto.SHA256, noIDs{}).Append(nil, &r, d)
		if err != nil || !bytes.Contains(line, []byte(`"digest": "`+want+`"`)) {
			t.Errorf("source %d: %s, want %s", source, line, want)
		}
	}
}

// TestOtherAddress: a family without a form of its own is shown by the digest of what
// stands behind the family.
func TestOtherAddress(t *testing.T) {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 24, Kind: 1}}
	b.Cell(eventtest.Sock, make([]byte, sizeSock)).Cell(eventtest.Addr, uint32(40), uint32(6), uint16(40), []byte("abcd"))
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	line, err := NewEncoder(V3, crypto.SHA256, noIDs{}).Append(nil, &r, Digest{})
	sum := sha256.Sum256([]byte("abcd"))
	if err != nil || !bytes.Contains(line, []byte(`"af_other": {"address": "`+hex.EncodeToString(sum[:])+`"}`)) {
		t.Errorf("%s, %v", line, err)
	}
}

// FuzzParse: whatever Parse accepts becomes one line of valid JSON in every dialect.
func FuzzParse(f *testing.F) {
	f.Add(capable().Record())
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 15, Kind: 1, Comm: "\"\\\xff"}}
	addFile(b, digestIMA, "/a\nb")
	f.Add(b.Cell(eventtest.Scalar, uint64(1)).Cell(eventtest.Scalar, uint64(2)).Record())
	all := eventtest.Specification(f)
	for _, hook := range Hooks() {
		f.Add(inverted(f, all[hook.String()].Example).Record())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = Parse(raw)
		// Else nearly nothing would get past the first check. The bytes are the
		// engine's, and not to be written to.
		if raw = bytes.Clone(raw); len(raw) >= 4 {
			native.PutUint32(raw, uint32(len(raw)))
		}
		r, err := Parse(raw)
		if err != nil || r.Kind() == KindExec {
			return
		}
		for _, dialect := range []Dialect{Current, V3, Coefficients} {
			line, err := NewEncoder(dialect, crypto.SHA256, noIDs{}).Append(nil, &r, Digest{})
			if errors.Is(err, ErrCut) && dialect == V3 && r.Cut() > 0 {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 {
				t.Errorf("not one line of JSON: %q", line)
			}
			limited := NewEncoder(dialect, crypto.SHA256, noIDs{})
			limited.Limit(mostLine)
			shorter, err := limited.Append(nil, &r, Digest{})
			switch {
			case errors.Is(err, ErrCut) && dialect == V3:
			case err != nil || len(shorter) > mostLine || !json.Valid(shorter) || bytes.IndexByte(shorter, '\n') != len(shorter)-1:
				t.Errorf("limited: %v, %q", err, shorter)
			case len(line) <= mostLine && !bytes.Equal(line, shorter):
				t.Errorf("limited: %q, for %q", shorter, line)
			}
		}
	})
}

// FuzzText: any bytes become a JSON string, and can be had back.
func FuzzText(f *testing.F) {
	for _, s := range []string{"plain", "a\"b\\c\nd\xffe", "\ufffd", "\u00e9\U0001f600", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x7f\x00", "{", "}{", "a\\", "\\\"", "\xff\\"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		quoted := `"` + escaped(text) + `"`
		if got := append(appendText([]byte{'"'}, text), '"'); string(got) != quoted {
			t.Fatalf("%q, want %q", got, quoted)
		}
		var decoded string
		if err := json.Unmarshal([]byte(quoted), &decoded); err != nil {
			t.Fatalf("%q: %v", quoted, err)
		}
		if got := original(decoded); !bytes.Equal(got, text) {
			t.Errorf("%q came back as %q", text, got)
		}
	})
}

// TestText: the forms that clients of TSEM need (2.4 of the specification), in every
// place of a text.
func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"{":           `\u007b`,
		"a}b":         `a\u007db`,
		`a\b`:         `a\\b`,
		`\`:           `\u005c`,
		`a\\`:         `a\\\u005c`,
		`a\"`:         `a\\\"`,
		"\xff\\":      `\ufffdff\u005c`,
		"\u00e9{\xe2": "\u00e9" + `\u007b\ufffde2`,
	} {
		if got := string(appendText(nil, []byte(text))); got != want {
			t.Errorf("%q is written %s, want %s", text, got, want)
		}
	}
}

// TestPathWithoutDirectory: owner and instance of a creation stand only in a path with
// a directory.
func TestPathWithoutDirectory(t *testing.T) {
	for text, want := range map[string]bool{"/d/f": true, "/": true, "f": false, "": false} {
		b := &eventtest.Builder{Header: eventtest.Header{Hook: 64, Kind: 1}}
		b.Inode(eventtest.InodeCell{}).Absent()
		b.Path(eventtest.PathCell{Owner: 10, Instance: 3, Flags: eventtest.PathCreated, Text: text})
		r, err := Parse(b.Record())
		if err != nil {
			t.Fatal(err)
		}
		for _, dialect := range []Dialect{Current, V3} {
			line, err := NewEncoder(dialect, crypto.SHA256, noIDs{}).Append(nil, &r, Digest{})
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(line, []byte(`"owner"`)) != want || bytes.Contains(line, []byte(`"instance": "3"`)) != want {
				t.Errorf("path %q, owner and instance wanted: %v: %s", text, want, line)
			}
		}
	}
}

// escaped is section 2.4 of the specification once more, rule by rule.
func escaped(text []byte) string {
	var s strings.Builder
	for i, r := range string(text) {
		switch {
		case r == '\\' && i == len(text)-1, r == '{', r == '}', r < 0x20:
			fmt.Fprintf(&s, `\u%04x`, r)
		case r == '"' || r == '\\':
			s.WriteString(`\` + string(r))
		case r != utf8.RuneError:
			s.WriteRune(r)
		case bytes.HasPrefix(text[i:], []byte("\ufffd")):
			s.WriteString(`\ufffdef\ufffdbf\ufffdbd`)
		default:
			fmt.Fprintf(&s, `\ufffd%02x`, text[i])
		}
	}
	return s.String()
}

// original undoes the mapping: U+FFFD and two digits stand for a byte.
func original(decoded string) []byte {
	var b []byte
	for len(decoded) > 0 {
		r, size := utf8.DecodeRuneInString(decoded)
		if r != utf8.RuneError {
			b = append(b, decoded[:size]...)
			decoded = decoded[size:]
			continue
		}
		one, err := hex.DecodeString(decoded[3:5])
		if err != nil {
			return nil
		}
		b = append(b, one...)
		decoded = decoded[5:]
	}
	return b
}
