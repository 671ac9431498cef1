// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// rawRequest is a request as the kernel writes it.
func rawRequest(opcode uint32, unique, node uint64, pid uint32, body []byte) []byte {
	le := binary.NativeEndian
	b := le.AppendUint32(nil, uint32(inHeader+len(body)))
	b = le.AppendUint32(b, opcode)
	b = le.AppendUint64(b, unique)
	b = le.AppendUint64(b, node)
	b = append(b, make([]byte, 8)...) // uid, gid
	b = le.AppendUint32(b, pid)
	b = le.AppendUint32(b, 0) // total_extlen
	return append(b, body...)
}

// getxattrBody is struct fuse_getxattr_in and the name.
func getxattrBody(size uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, size)
	return append(append(b, 0, 0, 0, 0), name+"\x00"...)
}

func uint32s(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func uint64s(values ...uint64) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

func TestParseRequest(t *testing.T) {
	raw := rawRequest(opLookup, 6, rootNode, 4711, []byte("gate\x00"))
	r, err := parseRequest(raw)
	if err != nil || r.opcode != opLookup || r.unique != 6 || r.node != rootNode || r.pid != 4711 || string(r.body) != "gate\x00" {
		t.Errorf("%+v, %v", r, err)
	}
	longer, shorter := bytes.Clone(raw), bytes.Clone(raw)
	longer[0]++
	shorter[0]--
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"half a header":      raw[:inHeader-1],
		"half a body":        raw[:inHeader+2],
		"says to be longer":  longer,
		"says to be shorter": shorter,
	} {
		if r, err := parseRequest(b); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestRequestWait(t *testing.T) {
	wait := getxattrBody(300, xattr)
	for name, c := range map[string]struct {
		opcode uint32
		node   uint64
		body   []byte
		ok     bool
	}{
		"a wait":         {opGetxattr, gateNode, wait, true},
		"another name":   {opGetxattr, gateNode, getxattrBody(300, "user.tsen"), false},
		"a longer name":  {opGetxattr, gateNode, getxattrBody(300, "user.tsem2"), false},
		"name not ended": {opGetxattr, gateNode, wait[:len(wait)-1], false},
		"without a name": {opGetxattr, gateNode, wait[:8], false},
		"no body":        {opGetxattr, gateNode, nil, false},
		"the directory":  {opGetxattr, rootNode, wait, false},
		"another demand": {opOpen, gateNode, wait, false},
		"the number 0":   {opGetxattr, gateNode, wait, false},
	} {
		r := request{opcode: c.opcode, unique: 2, node: c.node, body: c.body}
		if name == "the number 0" {
			r.unique = 0
		}
		if slot, ok := r.wait(); ok != c.ok || ok && slot != 300 {
			t.Errorf("%s: slot %d, %t", name, slot, ok)
		}
	}
}

func TestRequestInterrupted(t *testing.T) {
	for name, c := range map[string]struct {
		r    request
		want uint64
	}{
		"an interrupt":   {request{opcode: opInterrupt, body: uint64s(12)}, 12},
		"without a body": {request{opcode: opInterrupt, body: make([]byte, 7)}, 0},
		"another demand": {request{opcode: opRead, body: uint64s(12)}, 0},
	} {
		if got := c.r.interrupted(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// attributes is struct fuse_attr, field by field.
func attributes(node, size, blocks uint64, mode uint32) []byte {
	b := uint64s(node, size, blocks, 0, 0, 0)
	return append(b, uint32s(0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)...)
}

// TestAnswer compares whole answers with what the kernel's header says.
func TestAnswer(t *testing.T) {
	program := bytes.Repeat([]byte("tsem"), 150) // 600 bytes, two blocks
	file := attributes(gateNode, 600, 2, unix.S_IFREG|0o555)
	read := func(offset uint64, size uint32) []byte {
		return append(uint64s(0, offset), uint32s(size, 0, 0, 0, 0, 0)...)
	}
	for name, c := range map[string]struct {
		opcode uint32
		node   uint64
		in     []byte
		out    []byte
		errno  unix.Errno
	}{
		"init": {opInit, 0, uint32s(7, 41, 131072, math.MaxUint32, math.MaxUint32),
			append(uint32s(7, 31, 131072, 0, 12<<16|16, 4096, 1), make([]byte, 36)...), 0},
		"init, an older kernel": {opInit, 0, uint32s(7, 28, 4096, 0),
			append(uint32s(7, 28, 4096, 0, 12<<16|16, 4096, 1), make([]byte, 36)...), 0},
		"init, version 6":    {opInit, 0, uint32s(6, 1, 4096, 0), nil, unix.EPROTO},
		"init, too short":    {opInit, 0, uint32s(7, 31, 4096), nil, unix.EINVAL},
		"look-up":            {opLookup, rootNode, []byte("gate\x00"), append(uint64s(gateNode, 0, 1<<40, 1<<40, 0), file...), 0},
		"look-up, unknown":   {opLookup, rootNode, []byte("gates\x00"), nil, unix.ENOENT},
		"look-up, not ended": {opLookup, rootNode, []byte("gate"), nil, unix.ENOENT},
		"look-up, in a file": {opLookup, gateNode, []byte("gate\x00"), nil, unix.ENOENT},
		"attributes of the directory": {opGetattr, rootNode, make([]byte, 16),
			append(uint64s(1<<40, 0), attributes(rootNode, 0, 0, unix.S_IFDIR|0o555)...), 0},
		"attributes of the file":    {opGetattr, gateNode, make([]byte, 16), append(uint64s(1<<40, 0), file...), 0},
		"attributes of nothing":     {opGetattr, 3, make([]byte, 16), nil, unix.ENOENT},
		"open":                      {opOpen, gateNode, uint32s(0, 0), uint32s(0, 0, 2, 0), 0},
		"read all":                  {opRead, gateNode, read(0, 4096), program, 0},
		"read the end":              {opRead, gateNode, read(599, 4096), program[599:], 0},
		"read a piece":              {opRead, gateNode, read(3, 5), program[3:8], 0},
		"read behind the end":       {opRead, gateNode, read(601, 4096), nil, 0},
		"read as far as can be":     {opRead, gateNode, read(math.MaxUint64, math.MaxUint32), nil, 0},
		"read, too short":           {opRead, gateNode, make([]byte, 23), nil, unix.EINVAL},
		"read the directory":        {opRead, rootNode, read(0, 4096), nil, unix.EINVAL},
		"file system":               {opStatfs, rootNode, nil, make([]byte, 80), 0},
		"another attribute":         {opGetxattr, gateNode, getxattrBody(20, "security.capability"), nil, unix.ENODATA},
		"the directory's attribute": {opGetxattr, rootNode, getxattrBody(20, xattr), nil, unix.ENODATA},
		"an attribute without name": {opGetxattr, gateNode, nil, nil, unix.ENODATA},
		"release":                   {opRelease, gateNode, make([]byte, 24), nil, 0},
		"flush":                     {opFlush, gateNode, make([]byte, 24), nil, 0},
		"destroy":                   {opDestroy, 0, nil, nil, 0},
		"may it be reached":         {34, rootNode, uint32s(1, 0), nil, unix.ENOSYS},
		"list the attributes":       {23, gateNode, uint32s(0, 0), nil, unix.ENOSYS},
		"an unknown demand":         {math.MaxUint32, gateNode, nil, nil, unix.ENOSYS},
	} {
		t.Run(name, func(t *testing.T) {
			f := fileSystem{program}
			header := make([]byte, outHeader)
			out, errno, ok := f.answer(&request{opcode: c.opcode, unique: 2, node: c.node, body: c.in}, header)
			if !ok || errno != c.errno || !bytes.Equal(out[outHeader:], c.out) {
				t.Errorf("%v, %v, %x", ok, errno, out)
			}
		})
	}
	for name, opcode := range map[string]uint32{"forget": opForget, "forget many": opBatchForget, "interrupt": opInterrupt} {
		f := fileSystem{program}
		if out, errno, ok := f.answer(&request{opcode: opcode, body: uint64s(2)}, nil); ok {
			t.Errorf("%s was answered: %v %x", name, errno, out)
		}
	}
}

func TestPutHeader(t *testing.T) {
	var b [outHeader]byte
	putHeader(b[:], 120, 1<<40, unix.ENOSYS)
	if want := append(uint32s(120, uint32(0x100000000-38)), uint64s(1<<40)...); !bytes.Equal(b[:], want) {
		t.Errorf("%x, want %x", b, want)
	}
}

// FuzzParse throws bytes at the parser. Whatever parses is the request that it came from.
func FuzzParse(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(rawRequest(opGetxattr, 2, gateNode, 1, getxattrBody(1, xattr)))
	f.Add(rawRequest(opInterrupt, 3, 0, 0, uint64s(2)))
	f.Add(rawRequest(opRead, 4, gateNode, 1, uint64s(0, math.MaxUint64, math.MaxUint64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		again := rawRequest(r.opcode, r.unique, r.node, r.pid, r.body)
		copy(again[24:32], b[24:32]) // uid, gid
		copy(again[36:40], b[36:40]) // extensions
		if !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
		if slot, ok := r.wait(); ok && !bytes.Equal(r.body[:4], uint32s(slot)) {
			t.Errorf("slot %d of %x", slot, r.body)
		}
		_ = r.interrupted()
	})
}

// FuzzAnswer asks for anything. An answer with an error has no body; the kernel refuses
// it otherwise (fs/fuse/dev.c, fuse_dev_do_write), and the task would wait on.
func FuzzAnswer(f *testing.F) {
	f.Add(uint32(opInit), uint64(0), uint32s(7, 46, 4096, 0))
	f.Add(uint32(opLookup), uint64(rootNode), []byte("gate\x00"))
	f.Add(uint32(opRead), uint64(gateNode), append(uint64s(0, 2), uint32s(5, 0)...))
	f.Add(uint32(opGetattr), uint64(gateNode), []byte(nil))
	f.Fuzz(func(t *testing.T, opcode uint32, node uint64, body []byte) {
		file := fileSystem{[]byte("program")}
		out, errno, ok := file.answer(&request{opcode: opcode, unique: 2, node: node, body: body}, make([]byte, outHeader))
		if len(out) < outHeader || (errno != 0 || !ok) && len(out) != outHeader {
			t.Errorf("%v with %x", errno, out)
		}
		if len(out) > bufferSize {
			t.Errorf("%d bytes", len(out))
		}
	})
}
