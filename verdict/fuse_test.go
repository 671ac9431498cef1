// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

// getxattrBody is struct fuse_getxattr_in and the name.
func getxattrBody(size uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, size)
	return append(append(b, 0, 0, 0, 0), name+"\x00"...)
}

func TestWaitIn(t *testing.T) {
	wait := getxattrBody(300, xattr)
	for name, c := range map[string]struct {
		opcode uint32
		node   uint64
		body   []byte
		ok     bool
	}{
		"a wait":         {fuse.OpGetxattr, gateNode, wait, true},
		"another name":   {fuse.OpGetxattr, gateNode, getxattrBody(300, "user.tsen"), false},
		"a longer name":  {fuse.OpGetxattr, gateNode, getxattrBody(300, "user.tsem2"), false},
		"name not ended": {fuse.OpGetxattr, gateNode, wait[:len(wait)-1], false},
		"without a name": {fuse.OpGetxattr, gateNode, wait[:8], false},
		"no body":        {fuse.OpGetxattr, gateNode, nil, false},
		"the directory":  {fuse.OpGetxattr, fuse.RootNode, wait, false},
		"another demand": {fuse.OpOpen, gateNode, wait, false},
		"the number 0":   {fuse.OpGetxattr, gateNode, wait, false},
	} {
		r := fuse.Request{Opcode: c.opcode, Unique: 2, Node: c.node, Body: c.body}
		if name == "the number 0" {
			r.Unique = 0
		}
		if slot, ok := waitIn(&r); ok != c.ok || ok && slot != 300 {
			t.Errorf("%s: slot %d, %t", name, slot, ok)
		}
	}
}

// TestAnswer compares whole answers with what the kernel's header says.
func TestAnswer(t *testing.T) {
	program := bytes.Repeat([]byte("tsem"), 150) // 600 bytes, two blocks
	file := fusetest.Attr(gateNode, 600, 2, unix.S_IFREG|0o555)
	read := func(offset uint64, size uint32) []byte {
		return append(fusetest.Uint64s(0, offset), fusetest.Uint32s(size, 0, 0, 0, 0, 0)...)
	}
	for name, c := range map[string]struct {
		opcode uint32
		node   uint64
		in     []byte
		out    []byte
		errno  unix.Errno
	}{
		"init": {fuse.OpInit, 0, fusetest.Uint32s(7, 41, 131072, math.MaxUint32, math.MaxUint32),
			append(fusetest.Uint32s(7, 31, 131072, 0, 12<<16|16, 4096, 1), make([]byte, 36)...), 0},
		"init, version 6":    {fuse.OpInit, 0, fusetest.Uint32s(6, 1, 4096, 0), nil, unix.EPROTO},
		"look-up":            {fuse.OpLookup, fuse.RootNode, []byte("gate\x00"), append(fusetest.Uint64s(gateNode, 0, 1<<40, 1<<40, 0), file...), 0},
		"look-up, unknown":   {fuse.OpLookup, fuse.RootNode, []byte("gates\x00"), nil, unix.ENOENT},
		"look-up, not ended": {fuse.OpLookup, fuse.RootNode, []byte("gate"), nil, unix.ENOENT},
		"look-up, in a file": {fuse.OpLookup, gateNode, []byte("gate\x00"), nil, unix.ENOENT},
		"attributes of the directory": {fuse.OpGetattr, fuse.RootNode, make([]byte, 16),
			append(fusetest.Uint64s(1<<40, 0), fusetest.Attr(fuse.RootNode, 0, 0, unix.S_IFDIR|0o555)...), 0},
		"attributes of the file":    {fuse.OpGetattr, gateNode, make([]byte, 16), append(fusetest.Uint64s(1<<40, 0), file...), 0},
		"attributes of nothing":     {fuse.OpGetattr, 3, make([]byte, 16), nil, unix.ENOENT},
		"open":                      {fuse.OpOpen, gateNode, fusetest.Uint32s(0, 0), fusetest.Uint32s(0, 0, 2, 0), 0},
		"read all":                  {fuse.OpRead, gateNode, read(0, 4096), program, 0},
		"read the end":              {fuse.OpRead, gateNode, read(599, 4096), program[599:], 0},
		"read a piece":              {fuse.OpRead, gateNode, read(3, 5), program[3:8], 0},
		"read behind the end":       {fuse.OpRead, gateNode, read(601, 4096), nil, 0},
		"read as far as can be":     {fuse.OpRead, gateNode, read(math.MaxUint64, math.MaxUint32), nil, 0},
		"read, too short":           {fuse.OpRead, gateNode, make([]byte, 23), nil, unix.EINVAL},
		"read the directory":        {fuse.OpRead, fuse.RootNode, read(0, 4096), nil, unix.EINVAL},
		"file system":               {fuse.OpStatfs, fuse.RootNode, nil, make([]byte, 80), 0},
		"another attribute":         {fuse.OpGetxattr, gateNode, getxattrBody(20, "security.capability"), nil, unix.ENODATA},
		"the directory's attribute": {fuse.OpGetxattr, fuse.RootNode, getxattrBody(20, xattr), nil, unix.ENODATA},
		"an attribute without name": {fuse.OpGetxattr, gateNode, nil, nil, unix.ENODATA},
		"release":                   {fuse.OpRelease, gateNode, make([]byte, 24), nil, 0},
		"flush":                     {fuse.OpFlush, gateNode, make([]byte, 24), nil, 0},
		"destroy":                   {fuse.OpDestroy, 0, nil, nil, 0},
		"may it be reached":         {34, fuse.RootNode, fusetest.Uint32s(1, 0), nil, unix.ENOSYS},
		"list the attributes":       {23, gateNode, fusetest.Uint32s(0, 0), nil, unix.ENOSYS},
		"an unknown demand":         {math.MaxUint32, gateNode, nil, nil, unix.ENOSYS},
	} {
		t.Run(name, func(t *testing.T) {
			f := fileSystem{program}
			header := make([]byte, fuse.AnswerHeader)
			out, errno, ok := f.answer(&fuse.Request{Opcode: c.opcode, Unique: 2, Node: c.node, Body: c.in}, header)
			if !ok || errno != c.errno || !bytes.Equal(out[fuse.AnswerHeader:], c.out) {
				t.Errorf("%v, %v, %x", ok, errno, out)
			}
		})
	}
	for name, opcode := range map[string]uint32{"forget": fuse.OpForget, "forget many": fuse.OpBatchForget, "interrupt": fuse.OpInterrupt} {
		f := fileSystem{program}
		if out, errno, ok := f.answer(&fuse.Request{Opcode: opcode, Body: fusetest.Uint64s(2)}, nil); ok {
			t.Errorf("%s was answered: %v %x", name, errno, out)
		}
	}
}

// FuzzWait: no request but that of a task that waits is taken for one.
func FuzzWait(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(fusetest.Request(fuse.OpGetxattr, 2, gateNode, 1, getxattrBody(1, xattr)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := fuse.ParseRequest(b)
		if err != nil {
			return
		}
		slot, ok := waitIn(&r)
		if !ok {
			return
		}
		again := fusetest.Request(fuse.OpGetxattr, r.Unique, gateNode, r.TID, getxattrBody(slot, xattr))
		copy(again[24:32], b[24:32]) // uid, gid
		copy(again[36:40], b[36:40]) // extensions
		copy(again[44:48], b[44:48]) // padding
		if !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

// FuzzAnswer asks for anything. An answer with an error has no body; the kernel refuses
// it otherwise (fs/fuse/dev.c, fuse_dev_do_write), and the task would wait on.
func FuzzAnswer(f *testing.F) {
	f.Add(uint32(fuse.OpInit), uint64(0), fusetest.Uint32s(7, 46, 4096, 0))
	f.Add(uint32(fuse.OpLookup), uint64(fuse.RootNode), []byte("gate\x00"))
	f.Add(uint32(fuse.OpRead), uint64(gateNode), append(fusetest.Uint64s(0, 2), fusetest.Uint32s(5, 0)...))
	f.Add(uint32(fuse.OpGetattr), uint64(gateNode), []byte(nil))
	f.Fuzz(func(t *testing.T, opcode uint32, node uint64, body []byte) {
		file := fileSystem{[]byte("program")}
		out, errno, ok := file.answer(&fuse.Request{Opcode: opcode, Unique: 2, Node: node, Body: body}, make([]byte, fuse.AnswerHeader))
		if len(out) < fuse.AnswerHeader || (errno != 0 || !ok) && len(out) != fuse.AnswerHeader {
			t.Errorf("%v with %x", errno, out)
		}
		if len(out) > fuse.BufferSize {
			t.Errorf("%d bytes", len(out))
		}
	})
}
