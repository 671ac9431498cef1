// SPDX-License-Identifier: Apache-2.0

// Package taskid computes TASK_IDs, the identities of tasks, as TSEM does, and knows
// those of the tasks of a namespace. It does no I/O, and nothing here waits.
package taskid

import (
	"crypto"
	_ "crypto/sha256" // the digest functions a namespace can have
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrNoDirectory: the path of a created file is hashed by its directory, and this
// one has none. TSEM does not map such an event either.
var ErrNoDirectory = errors.New("path has no directory")

// tmpfs gives every mount another UUID, which therefore identifies nothing.
const tmpfsMagic = 0x01021994

// Exec is what an exec gives a task: its new credentials, as they are after the
// exec, and the executed image, which is the interpreter if that was a script.
type Exec struct {
	Creds Creds
	File  File
}

// Creds is the part of the credentials that goes into a TASK_ID: ids as the
// namespace sees them, and the effective capabilities.
type Creds struct {
	UID, EUID, SUID, GID, EGID, SGID, FSUID, FSGID uint32

	CapEff uint64
}

// File is an open file. Flags is f_flags as the kernel has it, Digest that of the
// content in the digest function of the namespace.
type File struct {
	Flags  uint32
	Inode  Inode
	Path   Path
	Digest []byte
}

// Inode is an inode and its superblock; Mode has the type bits, SID is the whole
// id buffer of the superblock.
type Inode struct {
	UID, GID, Mode, SMagic uint32

	SID  [32]byte
	UUID [16]byte
}

// Path is the path of an open file. Major and Minor count only with HasDevice,
// Instance and Owner, the TASK_ID of the creator, only with Created.
type Path struct {
	Name         string
	HasDevice    bool
	Major, Minor uint32
	Created      bool
	Instance     uint64
	Owner        []byte
}

// TaskID returns the TASK_ID that e gives to a task: h.Size() bytes, h being
// SHA-256, SHA-384 or SHA-512. parent is the TASK_ID of the parent at the fork, nil
// if that never did an exec. Identities from namespaces with another digest function
// are cut or filled with zeros, as in TSEM. The error is ErrNoDirectory. May be
// called from anywhere.
//
// Layouts: TSEM v3, map.c; integers are in the byte order of the host, as there.
func TaskID(h crypto.Hash, parent []byte, e *Exec) ([]byte, error) {
	cell, err := appendFile(nil, h, &e.File)
	if err != nil {
		return nil, fmt.Errorf("map exec of %q: %w", e.File.Path.Name, err)
	}
	coe := appendCreds(nil, &e.Creds)
	return coefficient(h, "bprm_committed_creds", parent, nil, coe, cell), nil
}

// coefficient of an event. A TASK_ID is that of the exec of a task which has none
// yet. The name goes in as it is: TSEM's documentation says hashed, its code differs.
func coefficient(h crypto.Hash, name string, parent, task, coe, cell []byte) []byte {
	b := []byte(name)
	b = appendID(b, h, parent)
	b = appendID(b, h, task)
	b = append(b, sum(h, coe)...)
	b = append(b, sum(h, cell)...)
	return sum(h, b)
}

func sum(h crypto.Hash, b []byte) []byte {
	s := h.New()
	s.Write(b)
	return s.Sum(nil)
}

// appendID appends the part of an identity that a namespace with digest function h
// sees: TSEM keeps identities in a larger buffer filled with zeros.
func appendID(b []byte, h crypto.Hash, id []byte) []byte {
	n := min(len(id), h.Size())
	b = append(b, id[:n]...)
	return append(b, make([]byte, h.Size()-n)...)
}

func appendCreds(b []byte, c *Creds) []byte {
	b = appendU32(b, c.UID, c.EUID, c.SUID, c.GID, c.EGID, c.SGID, c.FSUID, c.FSGID)
	return binary.NativeEndian.AppendUint64(b, c.CapEff)
}

func appendFile(b []byte, h crypto.Hash, f *File) ([]byte, error) {
	b = appendU32(b, f.Flags)
	b = appendInode(b, &f.Inode)
	b, err := appendPath(b, h, &f.Path)
	if err != nil {
		return nil, err
	}
	return appendID(b, h, f.Digest), nil
}

func appendInode(b []byte, i *Inode) []byte {
	b = appendU32(b, i.UID, i.GID, i.Mode, i.SMagic)
	b = append(b, i.SID[:]...)
	uuid := i.UUID
	if i.SMagic == tmpfsMagic {
		uuid = [16]byte{}
	}
	return append(b, uuid[:]...)
}

// appendPath leaves the last component of a created file out: the names of temporary
// files are random.
func appendPath(b []byte, h crypto.Hash, p *Path) ([]byte, error) {
	if p.HasDevice {
		b = appendU32(b, p.Major, p.Minor)
	}
	if !p.Created {
		return appendString(b, p.Name), nil
	}
	slash := strings.LastIndexByte(p.Name, '/')
	if slash < 0 {
		return nil, ErrNoDirectory
	}
	b = appendString(b, p.Name[:slash+1])
	b = binary.NativeEndian.AppendUint64(b, p.Instance)
	return appendID(b, h, p.Owner), nil
}

func appendString(b []byte, s string) []byte {
	return append(appendU32(b, uint32(len(s))), s...)
}

func appendU32(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}
