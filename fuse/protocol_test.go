// SPDX-License-Identifier: Apache-2.0

package fuse

import (
	"bytes"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

func TestParseRequest(t *testing.T) {
	raw := fusetest.Request(OpLookup, 6, RootNode, 4711, []byte("gate\x00"))
	r, err := ParseRequest(raw)
	if err != nil || r.Opcode != OpLookup || r.Unique != 6 || r.Node != RootNode || r.TID != 4711 || string(r.Body) != "gate\x00" {
		t.Errorf("%+v, %v", r, err)
	}
	longer, shorter := bytes.Clone(raw), bytes.Clone(raw)
	longer[0]++
	shorter[0]--
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"half a header":      raw[:RequestHeader-1],
		"half a body":        raw[:RequestHeader+2],
		"says to be longer":  longer,
		"says to be shorter": shorter,
	} {
		if r, err := ParseRequest(b); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestInterrupted(t *testing.T) {
	for name, c := range map[string]struct {
		r    Request
		want uint64
	}{
		"an interrupt":   {Request{Opcode: OpInterrupt, Body: fusetest.Uint64s(12)}, 12},
		"without a body": {Request{Opcode: OpInterrupt, Body: make([]byte, 7)}, 0},
		"another demand": {Request{Opcode: OpRead, Body: fusetest.Uint64s(12)}, 0},
	} {
		if got := c.r.Interrupted(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestRange(t *testing.T) {
	body := append(fusetest.Uint64s(3, math.MaxUint64), fusetest.Uint32s(5, 0, 0, 0, 0, 0)...)
	r := Request{Body: body}
	if got, ok := r.Range(); !ok || got != (Range{3, math.MaxUint64, 5}) {
		t.Errorf("%+v, %t", got, ok)
	}
	r.Body = body[:23]
	if got, ok := r.Range(); ok {
		t.Errorf("of 23 bytes: %+v", got)
	}
}

// TestAppend compares bodies of answers with what the kernel's header says.
func TestAppend(t *testing.T) {
	attr := Attr{Node: 9, Size: 600, Mode: unix.S_IFREG | 0o400}
	file := fusetest.Attr(9, 600, 2, unix.S_IFREG|0o400)
	for name, c := range map[string]struct{ got, want []byte }{
		"an entry":   {AppendEntry(nil, attr, 0), append(fusetest.Uint64s(9, 0, 0, 1<<40, 0), file...)},
		"attributes": {AppendAttr(nil, attr), append(fusetest.Uint64s(1<<40, 0), file...)},
		"an open":    {AppendOpen(nil, 7, DirectIO|NoFlush|ParallelDirectWrites), append(fusetest.Uint64s(7), fusetest.Uint32s(0x61, 0)...)},
		"statfs":     {AppendStatfs(nil), make([]byte, 80)},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: %x, want %x", name, c.got, c.want)
		}
	}
}

func TestAppendInit(t *testing.T) {
	for name, c := range map[string]struct {
		in, out []byte
		errno   unix.Errno
	}{
		"a younger kernel": {fusetest.Uint32s(7, 41, 131072, math.MaxUint32, math.MaxUint32),
			append(fusetest.Uint32s(7, 31, 131072, 0, 12<<16|16, 4096, 1), make([]byte, 36)...), 0},
		"an older kernel": {fusetest.Uint32s(7, 28, 4096, 0),
			append(fusetest.Uint32s(7, 28, 4096, 0, 12<<16|16, 4096, 1), make([]byte, 36)...), 0},
		"version 6": {fusetest.Uint32s(6, 1, 4096, 0), nil, unix.EPROTO},
		"too short": {fusetest.Uint32s(7, 31, 4096), nil, unix.EINVAL},
	} {
		if out, errno := AppendInit(nil, c.in); errno != c.errno || !bytes.Equal(out, c.out) {
			t.Errorf("%s: %v, %x", name, errno, out)
		}
	}
}

func TestPutHeader(t *testing.T) {
	var b [AnswerHeader]byte
	PutHeader(b[:], 120, 1<<40, unix.ENOSYS)
	if want := append(fusetest.Uint32s(120, uint32(0x100000000-38)), fusetest.Uint64s(1<<40)...); !bytes.Equal(b[:], want) {
		t.Errorf("%x, want %x", b, want)
	}
}

// FuzzParseRequest throws bytes at the parser. Whatever parses is the request that it came from.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(fusetest.Request(OpLookup, 2, RootNode, 1, []byte("gate\x00")))
	f.Add(fusetest.Request(OpInterrupt, 3, 0, 0, fusetest.Uint64s(2)))
	f.Add(fusetest.Request(OpRead, 4, 2, 1, fusetest.Uint64s(0, math.MaxUint64, math.MaxUint64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		again := fusetest.Request(r.Opcode, r.Unique, r.Node, r.TID, r.Body)
		copy(again[24:32], b[24:32]) // uid, gid
		copy(again[36:40], b[36:40]) // extensions
		if !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
		_ = r.Interrupted()
		_, _ = r.Range()
	})
}
