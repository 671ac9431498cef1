// SPDX-License-Identifier: Apache-2.0

package taskid

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"testing"
)

// The vectors of the specification of TSEM v3's layouts; SHA-256, little endian.
const (
	vectorCOE     = "61e0ee25ddd0d3ac1768f3abf488da680c3f0dd11b38f6550b6890eb5a704bf2"
	vectorBash    = "919133af36f04f8a6e61cc2cdb6efeb42a6a512c957f68526641026d957b254c"
	vectorTaskID  = "d9fb388a563b405b3fa80d9b3d32e4e9c0013dca0e96e0dd6f7ffd0dfaab6017"
	vectorPasswd  = "186cfd4f089d773594a38ba9ca7c4a720fafd20871f16f1aa97adb4b9a21b752"
	vectorCreated = "eb3250b1d5ba72610cf7928c7020f1723bd15131e4eca11302c6dc344b5c585d"
	vectorOpen    = "79ee744bccc06c28d3c80df9efa351463e0405519812f8e29492b389cb334a30"
	vectorChild   = "e59cf0c720abc6e99b62d20a6eeca6f0994792dfd77eeffb578618ca80541b36"
)

func rootCreds() Creds { return Creds{CapEff: 0x1ffffffffff} }

func fileOn(name string, flags, mode uint32, content string) File {
	f := File{
		Flags: flags,
		Inode: Inode{
			Mode:   mode,
			SMagic: 0xef53,
			UUID: [16]byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
				0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff},
		},
		Path:   Path{Name: name, HasDevice: true, Major: 8, Minor: 1},
		Digest: sum(crypto.SHA256, []byte(content)),
	}
	copy(f.Inode.SID[:], "sda1")
	return f
}

func bash() Exec {
	return Exec{Creds: rootCreds(), File: fileOn("/usr/bin/bash", 0x8020, 0o100755, "hello\n")}
}

func created() File {
	f := fileOn("/tmp/out.txt", 0x8241, 0o100644, "")
	owner, err := hex.DecodeString(vectorTaskID)
	if err != nil {
		panic(err)
	}
	f.Path.Created, f.Path.Instance, f.Path.Owner = true, 3, owner
	return f
}

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s is %x, want %s", what, got, want)
	}
}

func mustCell(t *testing.T, h crypto.Hash, f File) []byte {
	t.Helper()
	cell, err := appendFile(nil, h, &f)
	if err != nil {
		t.Fatal(err)
	}
	return cell
}

func mustTaskID(t *testing.T, h crypto.Hash, parent []byte, e Exec) []byte {
	t.Helper()
	id, err := TaskID(h, parent, &e)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCOEVector(t *testing.T) {
	c := rootCreds()
	coe := appendCreds(nil, &c)
	if len(coe) != 40 {
		t.Errorf("COE has %d bytes, want 40", len(coe))
	}
	wantHex(t, "H(COE)", sum(crypto.SHA256, coe), vectorCOE)
}

// Zeros everywhere, as in the vector, do not tell the fields apart.
func TestCOEOrder(t *testing.T) {
	c := Creds{1, 2, 3, 4, 5, 6, 7, 8, 9}
	want := "0100000002000000030000000400000005000000060000000700000008000000" + "0900000000000000"
	wantHex(t, "COE", appendCreds(nil, &c), want)
}

func TestCellVectors(t *testing.T) {
	tests := map[string]struct {
		file   File
		length int
		hash   string
	}{
		"executed": {bash().File, 125, vectorBash},
		"opened":   {fileOn("/etc/passwd", 0x8000, 0o100644, ""), 123, vectorPasswd},
		"created":  {created(), 157, vectorCreated},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cell := mustCell(t, crypto.SHA256, test.file)
			if len(cell) != test.length {
				t.Errorf("CELL has %d bytes, want %d", len(cell), test.length)
			}
			wantHex(t, "H(CELL)", sum(crypto.SHA256, cell), test.hash)
		})
	}
}

func TestTaskIDVector(t *testing.T) {
	wantHex(t, "TASK_ID", mustTaskID(t, crypto.SHA256, nil, bash()), vectorTaskID)
	wantHex(t, "TASK_ID with a parent of zeros",
		mustTaskID(t, crypto.SHA256, make([]byte, 64), bash()), vectorTaskID)
}

func TestCoefficientVectors(t *testing.T) {
	c := rootCreds()
	coe := appendCreds(nil, &c)
	cell := mustCell(t, crypto.SHA256, fileOn("/etc/passwd", 0x8000, 0o100644, ""))
	id := mustTaskID(t, crypto.SHA256, nil, bash())
	wantHex(t, "COEFF", coefficient(crypto.SHA256, "file_open", nil, id, coe, cell), vectorOpen)
	wantHex(t, "COEFF of a child", coefficient(crypto.SHA256, "file_open", id, id, coe, cell), vectorChild)
}

func TestTaskIDSizes(t *testing.T) {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		t.Run(h.String(), func(t *testing.T) {
			e := bash()
			e.File.Digest = sum(h, []byte("hello\n"))
			id := mustTaskID(t, h, nil, e)
			if len(id) != h.Size() {
				t.Errorf("TASK_ID has %d bytes, want %d", len(id), h.Size())
			}
			if cell := mustCell(t, h, e.File); len(cell) != 93+h.Size() {
				t.Errorf("CELL has %d bytes, want %d", len(cell), 93+h.Size())
			}
		})
	}
}

// A parent from a namespace with another digest function.
func TestTaskIDOfOtherLength(t *testing.T) {
	long := bytes.Repeat([]byte{7}, 64)
	cut := mustTaskID(t, crypto.SHA256, long, bash())
	if want := mustTaskID(t, crypto.SHA256, long[:32], bash()); !bytes.Equal(cut, want) {
		t.Errorf("a parent of 64 bytes gives %x, its first 32 bytes %x", cut, want)
	}
	filled := mustTaskID(t, crypto.SHA512, long[:32], bash())
	padded := append(bytes.Clone(long[:32]), make([]byte, 32)...)
	if want := mustTaskID(t, crypto.SHA512, padded, bash()); !bytes.Equal(filled, want) {
		t.Errorf("a parent of 32 bytes gives %x, filled with zeros %x", filled, want)
	}
}

// What must and what must not make a difference.
func TestTaskIDDepends(t *testing.T) {
	tests := map[string]struct {
		before, change func(*Exec)
		differs        bool
	}{
		"credentials": {nil, func(e *Exec) { e.Creds.FSGID = 1 }, true},
		"digest":      {nil, func(e *Exec) { e.File.Digest = make([]byte, 32) }, true},
		"no device":   {nil, func(e *Exec) { e.File.Path.HasDevice = false }, true},
		"uuid":        {nil, func(e *Exec) { e.File.Inode.UUID[0]++ }, true},
		"uuid of tmpfs": {func(e *Exec) { e.File.Inode.SMagic = tmpfsMagic },
			func(e *Exec) { e.File.Inode.UUID[0]++ }, false},
		"name of created": {func(e *Exec) { e.File.Path.Created = true },
			func(e *Exec) { e.File.Path.Name = "/usr/bin/tmp.XYZ" }, false},
		"directory of created": {func(e *Exec) { e.File.Path.Created = true },
			func(e *Exec) { e.File.Path.Name = "/usr/sbin/bash" }, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := bash()
			if test.before != nil {
				test.before(&e)
			}
			before := mustTaskID(t, crypto.SHA256, nil, e)
			test.change(&e)
			if differs := !bytes.Equal(before, mustTaskID(t, crypto.SHA256, nil, e)); differs != test.differs {
				t.Errorf("TASK_ID differs: %t, want %t", differs, test.differs)
			}
		})
	}
}

func TestTaskIDWithoutDirectory(t *testing.T) {
	e := bash()
	e.File.Path.Name, e.File.Path.Created = "bash", true
	if _, err := TaskID(crypto.SHA256, nil, &e); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("error is %v, want %v", err, ErrNoDirectory)
	}
	e.File.Path.Created = false
	if _, err := TaskID(crypto.SHA256, nil, &e); err != nil {
		t.Errorf("not created: %v", err)
	}
}
