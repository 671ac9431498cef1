// SPDX-License-Identifier: Apache-2.0

package event

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// The vectors of section 2.10 of docs/spec/semantics.md; SHA-256, little endian.
const (
	vectorCOE     = "61e0ee25ddd0d3ac1768f3abf488da680c3f0dd11b38f6550b6890eb5a704bf2"
	vectorBash    = "919133af36f04f8a6e61cc2cdb6efeb42a6a512c957f68526641026d957b254c"
	vectorTaskID  = "d9fb388a563b405b3fa80d9b3d32e4e9c0013dca0e96e0dd6f7ffd0dfaab6017"
	vectorPasswd  = "186cfd4f089d773594a38ba9ca7c4a720fafd20871f16f1aa97adb4b9a21b752"
	vectorOpen    = "79ee744bccc06c28d3c80df9efa351463e0405519812f8e29492b389cb334a30"
	vectorChild   = "e59cf0c720abc6e99b62d20a6eeca6f0994792dfd77eeffb578618ca80541b36"
	vectorCreated = "eb3250b1d5ba72610cf7928c7020f1723bd15131e4eca11302c6dc344b5c585d"
	vectorConnect = "5d24e71796675f0c068e83cfcb73cbc6263ff83cb15e151b920e9852f67a40a4"
)

// vectorTask is the identity of the task whose TASK_ID is vectorTaskID, and unknownTask that
// of one that nobody knows. The TASK_IDs of all others are zeros.
const (
	vectorTask  = 1
	unknownTask = 2
)

type vectorIDs struct{}

func (vectorIDs) TaskID(dst []byte, identity uint64) []byte {
	id := make([]byte, 32)
	switch identity {
	case vectorTask:
		_, _ = hex.Decode(id, []byte(vectorTaskID))
	case unknownTask:
		id = bytes.Repeat([]byte{0xff}, 32)
	}
	return append(dst, id...)
}

// vectorEvent begins a record of the root user.
func vectorEvent(hook Hook, kind Kind, identity, parent uint64) *eventtest.Builder {
	return &eventtest.Builder{Header: eventtest.Header{
		Hook: uint16(hook), Kind: uint8(kind), Number: 9, Identity: identity, Parent: parent, CapEff: 0x1ffffffffff,
	}}
}

// addVectorFile appends a file on the filesystem of the vectors, of which path may say more.
func addVectorFile(b *eventtest.Builder, flags, mode uint32, p eventtest.PathCell) *eventtest.Builder {
	p.DevMajor, p.DevMinor, p.Flags = 8, 1, p.Flags|eventtest.PathDev
	b.File(flags, uint32(digestWanted), [32]byte{})
	b.Inode(eventtest.InodeCell{Mode: mode, SMagic: 0xef53, SID: "sda1", UUID: [16]byte{
		0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
	}})
	return b.Path(p)
}

func digestOf(content string) Digest {
	sum := sha256.Sum256([]byte(content))
	return Digest{sum[:], DigestExact}
}

func mustParse(t testing.TB, b *eventtest.Builder) Record {
	t.Helper()
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestVectors: those of the specification, in both layouts.
func TestVectors(t *testing.T) {
	bash, passwd := eventtest.PathCell{Text: "/usr/bin/bash"}, eventtest.PathCell{Text: "/etc/passwd"}
	created := eventtest.PathCell{Text: "/tmp/out.txt", Flags: eventtest.PathCreated, Instance: 3, Owner: vectorTask}
	for _, test := range []struct {
		name              string
		record            *eventtest.Builder
		digest            Digest
		length            int // of the CELL
		cell, coefficient string
	}{
		{"exec", addVectorFile(vectorEvent(HookExec, KindExec, 77, 0), 0x8020, 0o100755, bash), digestOf("hello\n"), 125, vectorBash, vectorTaskID},
		{"open", addVectorFile(vectorEvent(14, KindEvent, vectorTask, 0), 0x8000, 0o100644, passwd), digestOf(""), 123, vectorPasswd, vectorOpen},
		{"open by a child", addVectorFile(vectorEvent(14, KindEvent, vectorTask, vectorTask), 0x8000, 0o100644, passwd), digestOf(""), 123, vectorPasswd, vectorChild},
		{"open of a created file", addVectorFile(vectorEvent(14, KindEvent, vectorTask, 0), 0x8241, 0o100644, created), digestOf(""), 157, vectorCreated, ""},
		{"connect", vectorEvent(23, KindEvent, vectorTask, 0).Sock(2, 1, 6, vectorTask).
			Addr(2, []byte{2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}), Digest{}, 82, vectorConnect, ""},
	} {
		for _, dialect := range []Dialect{Current, V3} {
			r := mustParse(t, test.record)
			m := NewMapper(dialect, crypto.SHA256, vectorIDs{})
			p, err := m.Map(&r, test.digest)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if len(m.coe) != 40 || len(m.cell) != test.length {
				t.Errorf("%s: COE of %d bytes, want 40; CELL of %d, want %d", test.name, len(m.coe), len(m.cell), test.length)
			}
			if got := hex.EncodeToString(p.COE); got != vectorCOE {
				t.Errorf("%s: COE %s, want %s", test.name, got, vectorCOE)
			}
			if got := hex.EncodeToString(p.CELL); got != test.cell {
				t.Errorf("%s: CELL %s, want %s", test.name, got, test.cell)
			}
			if got := hex.EncodeToString(p.Coefficient); test.coefficient != "" && got != test.coefficient {
				t.Errorf("%s: coefficient %s, want %s", test.name, got, test.coefficient)
			}
		}
	}
}

// join is the bytes of values, one behind the other: integers in the byte order of the host.
func join(values ...any) (b []byte) {
	for _, v := range values {
		switch v := v.(type) {
		case int:
			b = native.AppendUint32(b, uint32(v))
		case uint16:
			b = native.AppendUint16(b, v)
		case uint64:
			b = native.AppendUint64(b, v)
		case string:
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

// What the CELLs of TestCELLs have in common, in the words of section 2.6.
var (
	uuidBytes  = []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	inodeBytes = join(0, 5, 0o100644, 0xef53, "sda2", make([]byte, 28), uuidBytes)
	dirBytes   = join(3, 4, 0o40755, 0x01021994, "tmpfs", make([]byte, 27), make([]byte, 16)) // no UUID
	fileSum    = []byte("0123456789abcdef0123456789abcdef")
	// A file seen on device 8:2, and a name on it that is created, the third one of task 10.
	seen, seenBytes       = eventtest.PathCell{DevMajor: 8, DevMinor: 2, Flags: eventtest.PathDev, Text: "/etc/x"}, join(8, 2, 6, "/etc/x")
	made, madeBytes       = eventtest.PathCell{Owner: 10, Instance: 3, Flags: eventtest.PathCreated, Text: "/tmp/y"}, join(5, "/tmp/", uint64(3), id(10))
	fileBytes             = join(32768, inodeBytes, seenBytes, fileSum)
	ipcBytes              = join(1, 2, 3, 4, uint16(0o600), id(12)) // IPC(1, 2, 3, 4, 0o600, 12)
	theDir                = eventtest.InodeCell{UID: 3, GID: 4, Mode: 0o40755, SMagic: tmpfsMagic, SID: "tmpfs", UUID: [16]byte(uuidBytes)}
	theInode              = eventtest.InodeCell{GID: 5, Mode: 0o100644, SMagic: 0xef53, Ino: 12, Size: 13, SID: "sda2", UUID: [16]byte(uuidBytes)}
	inet, inetBytes       = []byte{2, 0, 1, 0xbb, 203, 0, 113, 23, 9, 9, 9, 9, 9, 9, 9, 9}, []byte{1, 0xbb, 203, 0, 113, 23}
	inet6                 = join(uint16(10), []byte{0, 53, 1, 2, 3, 4}, "0123456789abcdef", []byte{5, 6, 7, 8})
	inet6Short, inet6Full = join([]byte{0, 53}, "0123456789abcdef"), join([]byte{0, 53}, "0123456789abcdef", []byte{1, 2, 3, 4, 5, 6, 7, 8})
)

// id is the TASK_ID of an identity in golden, as 32 bytes; ownerBytes as a socket has it.
func id(identity byte) []byte         { return append(make([]byte, 31), identity) }
func ownerBytes(identity byte) []byte { return append(id(identity), make([]byte, 32)...) }

// begin begins a record of an event.
func begin(name string) *eventtest.Builder {
	hook, _ := Lookup(name)
	return goldenRecord(hook, hook.row().kind)
}

// cellTests are the CELLs of all events, written by hand after section 2.7; v3 is that of
// TSEM v3 where it is another one.
var cellTests = []struct {
	special  string // about this one
	record   *eventtest.Builder
	want, v3 []byte
}{
	{"", goldenFile(begin("bprm_committed_creds"), seen),
		fileBytes, nil},
	{"", begin("task_kill").Task(12).Scalar(15).Scalar(1),
		join(id(12), 15, 1), nil},
	{"", begin("task_setpgid").Task(12).Task(13),
		join(ownerBytes(12), ownerBytes(13)), nil},
	{"", begin("task_getpgid").Task(12),
		id(12), nil},
	{"", begin("task_getsid").Task(12),
		id(12), nil},
	{"", begin("task_setnice").Task(12).Scalar(1<<64 - 20),
		join(ownerBytes(12), 1<<32-20), nil},
	{"", begin("task_setioprio").Task(12).Scalar(16388),
		join(ownerBytes(12), 16388), nil},
	{"", begin("task_getioprio").Task(12),
		id(12), nil},
	{"", begin("task_prlimit").Creds([8]uint32{1, 2, 3, 4, 5, 6, 7, 8}, 9, 10).Creds([8]uint32{11, 12, 13, 14, 15, 16, 17, 18}, 19, 20).Scalar(3),
		join(1, 2, 3, 4, 5, 6, 7, 8, uint64(9), 10, 11, 12, 13, 14, 15, 16, 17, 18, uint64(19), 20, 3), join(1, 11, 3)},
	{"", begin("task_setrlimit").Task(12).Scalar(7).Scalar(1024).Scalar(1<<64 - 1),
		join(id(12), 7, uint64(1024), uint64(1<<64-1)), nil},
	{"", begin("task_setscheduler").Task(12),
		id(12), nil},
	{"", begin("task_getscheduler").Task(12),
		id(12), nil},
	{"", begin("task_prctl").Scalar(38).Scalar(2).Scalar(3).Scalar(4).Scalar(5),
		join(38, uint64(2), uint64(3), uint64(4), uint64(5)), join(38, uint64(2), uint64(4), uint64(5))},
	{"of PR_GET_PDEATHSIG", begin("task_prctl").Scalar(2).Scalar(0x7fff0000).Scalar(3).Scalar(4).Scalar(5),
		join(2, uint64(0), uint64(3), uint64(4), uint64(5)), join(2, uint64(0), uint64(4), uint64(5))},
	{"", goldenFile(begin("file_open"), seen),
		fileBytes, nil},
	{"of a created file", goldenFile(begin("file_open"), made),
		join(32768, inodeBytes, madeBytes, fileSum), nil},
	{"", goldenFile(begin("mmap_file"), seen).Scalar(5).Scalar(2),
		join(fileBytes, 5, 2), join(fileBytes, 5, 5)},
	{"of no file", begin("mmap_file").Absent().Scalar(7).Scalar(34),
		join(7, 34), join(7, 7)},
	{"", goldenFile(begin("file_ioctl"), seen).Scalar(0x5401),
		join(fileBytes, 0x5401), nil},
	{"", goldenFile(begin("file_lock"), seen).Scalar(2),
		join(fileBytes, 2), nil},
	{"", goldenFile(begin("file_fcntl"), seen).Scalar(4),
		join(fileBytes, 4), nil},
	{"", goldenFile(begin("file_receive"), seen),
		fileBytes, nil},
	{"", begin("unix_stream_connect").Sock(1, 2, 3, 12).Sock(4, 5, 6, 13),
		join(1, 2, 3, ownerBytes(12), 4, 5, 6, ownerBytes(13)), nil},
	{"", begin("unix_may_send").Sock(1, 2, 3, 12).Sock(4, 5, 6, 13),
		join(1, 2, 3, ownerBytes(12), 4, 5, 6, ownerBytes(13)), nil},
	{"", begin("socket_create").Scalar(2).Scalar(1).Scalar(6).Scalar(1),
		join(2, 1, 6, 1), nil},
	{"by IPv4", begin("socket_connect").Sock(2, 1, 6, 12).Addr(2, inet),
		join(2, 1, 6, ownerBytes(12), inetBytes), nil},
	{"by IPv6", begin("socket_connect").Sock(10, 1, 6, 12).Addr(10, inet6),
		join(10, 1, 6, ownerBytes(12), inet6Full), nil},
	{"to less than an address", begin("socket_connect").Sock(2, 1, 6, 12).Addr(2, []byte{2, 0, 1}),
		join(2, 1, 6, ownerBytes(12), []byte{1, 0, 0, 0, 0, 0}), nil},
	{"to a name", begin("socket_bind").Sock(1, 1, 0, 12).Addr(1, join(uint16(1), "/run/x", []byte{0, 9})),
		join(1, 1, 0, ownerBytes(12), "/run/x"), nil},
	{"to a name without NUL", begin("socket_bind").Sock(1, 1, 0, 12).Addr(1, join(uint16(1), "/run/x")),
		join(1, 1, 0, ownerBytes(12), "/run/x"), join(1, 1, 0, ownerBytes(12), "/run/")},
	{"to no name", begin("socket_bind").Sock(1, 1, 0, 12).Addr(1, join(uint16(1))),
		join(1, 1, 0, ownerBytes(12)), nil},
	{"of another family", begin("socket_bind").Sock(40, 1, 0, 12).Addr(40, join(uint16(40), "abcd")),
		join(40, 1, 0, ownerBytes(12), digestOf("abcd").Sum), nil},
	{"", begin("socket_sendmsg").Sock(2, 2, 17, 12).Absent(),
		join(2, 2, 17, ownerBytes(12)), nil},
	{"by IPv4", begin("socket_sendmsg").Sock(2, 2, 17, 12).Addr(2, inet),
		join(2, 2, 17, ownerBytes(12), inetBytes), nil},
	{"by IPv6", begin("socket_sendmsg").Sock(10, 2, 17, 12).Addr(10, inet6),
		join(10, 2, 17, ownerBytes(12), inet6Short), nil},
	{"of another family", begin("socket_sendmsg").Sock(40, 2, 0, 12).Addr(40, join(uint16(40), "abcd")),
		join(40, 2, 0, ownerBytes(12)), nil},
	{"by IPv4", begin("socket_accept").Sock(2, 1, 6, 12).Addr(2, inet),
		join(2, 1, 6, ownerBytes(12), inetBytes), nil},
	{"by IPv6", begin("socket_accept").Sock(10, 1, 6, 12).Addr(10, inet6),
		join(10, 1, 6, ownerBytes(12), inet6Short), nil},
	{"at a name", begin("socket_accept").Sock(1, 1, 0, 12).Addr(1, join(uint16(1), "/run/x", []byte{0, 9})),
		join(1, 1, 0, ownerBytes(12), "/run/x"), nil},
	{"at no name", begin("socket_accept").Sock(1, 1, 0, 12).Addr(1, nil),
		join(1, 1, 0, ownerBytes(12)), nil},
	{"of another family", begin("socket_accept").Sock(40, 1, 0, 12).Addr(40, join(uint16(40))),
		join(40, 1, 0, ownerBytes(12), digestOf("").Sum), nil},
	{"", begin("socket_listen").Sock(2, 1, 6, 12).Scalar(1<<64 - 1),
		join(2, 1, 6, ownerBytes(12), 1<<32-1), nil},
	{"", begin("socket_socketpair").Sock(1, 2, 3, 12).Sock(4, 5, 6, 13),
		join(1, 2, 3, ownerBytes(12), 4, 5, 6, ownerBytes(13)), nil},
	{"", begin("socket_recvmsg").Sock(2, 2, 17, 12).Absent(),
		join(2, 2, 17, ownerBytes(12)), nil},
	{"by IPv4", begin("socket_recvmsg").Sock(2, 2, 17, 12).Addr(2, inet),
		join(2, 2, 17, ownerBytes(12), inetBytes), nil},
	{"", begin("socket_getsockname").Sock(2, 1, 6, 12),
		join(2, 1, 6, ownerBytes(12)), nil},
	{"", begin("socket_getpeername").Sock(2, 1, 6, 12),
		join(2, 1, 6, ownerBytes(12)), nil},
	{"", begin("socket_setsockopt").Sock(2, 1, 6, 12).Scalar(1).Scalar(9),
		join(2, 1, 6, ownerBytes(12), 1, 9), nil},
	{"", begin("socket_shutdown").Sock(2, 1, 6, 12).Scalar(2),
		join(2, 1, 6, ownerBytes(12), 2), nil},
	{"", begin("ptrace_traceme").Task(12),
		id(12), nil},
	{"", begin("kernel_module_request").Text("net-pf-40"),
		join(9, "net-pf-40"), nil},
	{"", begin("kernel_load_data").Scalar(2).Scalar(1),
		join(2, 1), nil},
	{"", goldenFile(begin("kernel_read_file"), seen).Scalar(2).Scalar(1),
		join(fileBytes, 2, 1), nil},
	{"", begin("sb_mount").Text("/dev/sdb").Path(seen).Text("ext4").Scalar(1 << 40),
		join(8, "/dev/sdb", seenBytes, 4, "ext4", uint64(1<<40)), nil},
	{"without device and type", begin("sb_mount").Absent().Path(seen).Absent().Scalar(32),
		join(seenBytes, uint64(32)), nil},
	{"", begin("sb_umount").Inode(theInode).Path(seen).Scalar(2),
		join(inodeBytes, seenBytes, 2), nil},
	{"", begin("sb_remount").Inode(theDir).Path(seen).Text("tmpfs").Scalar(1<<40 | 1),
		join(dirBytes, seenBytes, 5, "tmpfs", uint64(1<<40|1)), nil},
	{"", begin("sb_pivotroot").Path(seen).Path(made),
		join(seenBytes, madeBytes), nil},
	{"", begin("sb_statfs").Inode(theInode).Path(seen),
		join(inodeBytes, seenBytes), nil},
	{"", begin("move_mount").Path(made).Path(seen),
		join(madeBytes, seenBytes), nil},
	{"", begin("syslog").Scalar(3),
		join(3), nil},
	{"", begin("settime").Scalar(1 << 33).Scalar(5).Scalar(1<<64 - 60).Scalar(1),
		join(uint64(1<<33), uint64(5), 1<<32-60, 1), nil},
	{"of the time alone", begin("settime").Scalar(1 << 33).Scalar(5).Absent(),
		join(uint64(1<<33), uint64(5)), nil},
	{"of nothing", begin("settime").Absent().Absent(),
		nil, nil},
	{"", begin("quotactl").Scalar(0x800007).Scalar(1<<64 - 1).Scalar(1000).Inode(theDir).Path(seen).Text("tmpfs").Scalar(1<<40 | 1),
		join(0x800007, 1<<32-1, 1000, dirBytes, seenBytes, 5, "tmpfs", uint64(1<<40|1)), nil},
	{"", begin("quota_on").Inode(theInode).Path(seen),
		join(inodeBytes, seenBytes), nil},
	{"", begin("shm_associate").IPC(1, 2, 3, 4, 0o600, 12).Scalar(0o1600),
		join(ipcBytes, 0o1600), nil},
	{"", begin("shm_shmctl").IPC(1, 2, 3, 4, 0o600, 12).Scalar(2),
		join(ipcBytes, 2), nil},
	{"", begin("sem_associate").IPC(1, 2, 3, 4, 0o600, 12).Scalar(0o600),
		join(ipcBytes, 0o600), nil},
	{"", begin("sem_semctl").IPC(1, 2, 3, 4, 0o600, 12).Scalar(16),
		join(ipcBytes, 16), nil},
	{"", begin("sem_semop").IPC(1, 2, 3, 4, 0o600, 12).Scalar(5).Scalar(1),
		join(ipcBytes, 5, 1), nil},
	{"", begin("msg_queue_associate").IPC(1, 2, 3, 4, 0o600, 12).Scalar(0o600),
		join(ipcBytes, 0o600), nil},
	{"", begin("msg_queue_msgctl").IPC(1, 2, 3, 4, 0o600, 12).Scalar(2),
		join(ipcBytes, 2), nil},
	{"", begin("msg_queue_msgsnd").IPC(1, 2, 3, 4, 0o600, 12).Scalar(0o4000),
		join(ipcBytes, 0o4000), join("msg_queue_msgsnd", digestOf("").Sum)},
	{"", begin("msg_queue_msgrcv").IPC(1, 2, 3, 4, 0o600, 12).Task(13).Scalar(1<<64 - 7).Scalar(2),
		join(ipcBytes, id(13), uint64(1<<64-7), 2), nil},
	{"", begin("ipc_permission").IPC(1, 2, 3, 4, 0o600, 12).Scalar(1<<64 - 1),
		join(ipcBytes, uint16(1<<16-1)), nil},
	{"", begin("shm_shmat").IPC(1, 2, 3, 4, 0o600, 12).Scalar(4096),
		join(ipcBytes, 4096), nil},
	{"", begin("key_alloc").Creds([8]uint32{1, 2, 3, 4, 5, 6, 7, 8}, 9, 10).Scalar(11),
		join(1, 2, 3, 4, 5, 6, 7, 8, uint64(9), 10, uint64(11)), join(1, uint64(11))},
	{"", begin("key_permission").Scalar(1).Scalar(1<<16|1000).Scalar(1<<16|1001).Scalar(1<<40).
		Creds([8]uint32{1, 2, 3, 4, 5, 6, 7, 8}, 9, 10).Scalar(0x3f1f0000),
		join(1, 1<<16|1000, 1<<16|1001, uint64(1<<40), 1, 2, 3, 4, 5, 6, 7, 8, uint64(9), 10, 0x3f1f0000),
		join(1, uint16(1000), uint16(1001), uint64(1<<40), 1, 0x3f1f0000)},
	{"", begin("netlink_send").Sock(16, 3, 15, 12).Scalar(1).Scalar(2).Scalar(3).Scalar(4).Scalar(5).Scalar(0).Scalar(6),
		join(16, 3, 15, ownerBytes(12), 1, 2, 3, 4, 5), join(15, 0, ownerBytes(12)[:4], ownerBytes(12)[8:], 1, 2, 1, 2, 3, 4, 5)},
	{"with nsid", begin("netlink_send").Sock(16, 3, 15, 12).Scalar(1).Scalar(2).Scalar(3).Scalar(4).Scalar(5).Scalar(1).Scalar(1<<64 - 1),
		join(16, 3, 15, ownerBytes(12), 1, 2, 3, 4, 5, 1<<32-1), join(15, 0, ownerBytes(12)[:4], ownerBytes(12)[8:], 1, 2, 1, 2, 3, 4, 5, 5)},
	{"", begin("inode_create").Inode(theDir).Absent().Path(made).Scalar(0o100600),
		join(dirBytes, madeBytes, uint16(0o100600)), nil},
	{"", begin("inode_link").Inode(theInode).Path(seen).Inode(theDir).Absent().Path(seen),
		join(inodeBytes, seenBytes, dirBytes, seenBytes), nil},
	{"", begin("inode_unlink").Inode(theDir).Inode(theInode).Path(seen),
		join(dirBytes, inodeBytes, seenBytes), nil},
	{"", begin("inode_symlink").Inode(theDir).Absent().Path(seen).Text("../x"),
		join(dirBytes, seenBytes, 4, "../x"), nil},
	{"", begin("inode_mkdir").Inode(theDir).Absent().Path(made).Scalar(0o755),
		join(dirBytes, madeBytes, uint16(0o755)), nil},
	{"", begin("inode_rmdir").Inode(theDir).Inode(theInode).Path(seen),
		join(dirBytes, inodeBytes, seenBytes), nil},
	{"", begin("inode_mknod").Inode(theDir).Absent().Path(seen).Scalar(0o20622).Scalar(8<<20 | 3),
		join(dirBytes, seenBytes, uint16(0o20622), 8<<20|3), nil},
	{"", begin("inode_rename").Inode(theDir).Inode(theInode).Path(seen).Inode(theDir).Absent().Path(made),
		join(dirBytes, inodeBytes, seenBytes, dirBytes, madeBytes), nil},
	{"", begin("inode_setattr").Inode(theInode).Path(seen).Scalar(15).Scalar(0o100600).Scalar(1).Scalar(2).Scalar(1 << 40),
		join(inodeBytes, seenBytes, 15, 0o100600, 1, 2, uint64(1<<40)), nil},
	{"", begin("inode_getattr").Inode(theInode).Path(seen),
		join(inodeBytes, seenBytes), nil},
	{"", begin("inode_setxattr").Inode(theInode).Path(seen).Text("user.a").Bytes([]byte{0, 1, 0xff}).Scalar(1<<64 - 1),
		join(inodeBytes, seenBytes, 6, "user.a", []byte{0, 1, 0xff}, 1<<32-1), nil},
	{"", begin("inode_getxattr").Inode(theInode).Path(seen).Text("user.a"),
		join(inodeBytes, seenBytes, 6, "user.a"), nil},
	{"", begin("inode_listxattr").Inode(theInode).Path(seen),
		join(inodeBytes, seenBytes), nil},
	{"", begin("inode_removexattr").Inode(theInode).Path(seen).Text("user.a"),
		join(inodeBytes, seenBytes, 6, "user.a"), nil},
	{"", begin("inode_killpriv").Inode(theInode).Path(seen),
		join(inodeBytes, seenBytes), nil},
	{"", begin("tun_dev_create"),
		join("tun_dev_create", digestOf("").Sum), nil},
	{"", begin("tun_dev_attach_queue"),
		join("tun_dev_attach_queue", digestOf("").Sum), make([]byte, 76)},
	{"", begin("tun_dev_attach").Sock(0, 1, 2, 12),
		join(0, 1, 2, ownerBytes(12)), join("tun_dev_attach", digestOf("").Sum)},
	{"", begin("tun_dev_open"),
		join("tun_dev_open", digestOf("").Sum), nil},
	{"", begin("bpf").Scalar(5).Scalar(148),
		join(5, 148), join(5)},
	{"", begin("bpf_map").Scalar(27).Scalar(3),
		join(27, 3), join(27)},
	{"", begin("bpf_prog").Scalar(29).Scalar(27),
		join(29, 27), join(29)},
	{"", begin("ptrace_access_check").Task(12).Scalar(18),
		join(id(12), 18), nil},
	{"", begin("capable").Scalar(21).Scalar(2),
		join(21, 2), nil},
	{"", begin("capget").Task(12).Scalar(1 << 40).Scalar(2).Scalar(3),
		join(id(12), uint64(1<<40), uint64(2), uint64(3)), nil},
	{"", begin("capset").Scalar(1 << 40).Scalar(2).Scalar(3),
		join(uint64(1<<40), uint64(2), uint64(3)), nil},
	{"", goldenFile(begin("file_ioctl_compat"), seen).Scalar(0x5451),
		join(fileBytes, 0x5451), nil},
	{"", goldenFile(begin("file_truncate"), seen),
		fileBytes, nil},
	{"", goldenFile(begin("bprm_check_security"), seen),
		fileBytes, nil},
	{"", begin("userns_create").Creds([8]uint32{1, 2, 3, 4, 5, 6, 7, 8}, 9, 10),
		join(1, 2, 3, 4, 5, 6, 7, 8, uint64(9), 10), join(1)},
	{"", begin("path_truncate").Inode(theInode).Path(seen),
		join(inodeBytes, seenBytes), nil},
	{"", begin("path_unlink").Inode(theDir).Inode(theInode).Path(seen),
		join(dirBytes, inodeBytes, seenBytes), nil},
	{"", begin("path_mkdir").Inode(theDir).Absent().Path(seen).Scalar(0o755),
		join(dirBytes, seenBytes, uint16(0o755)), nil},
	{"", begin("path_rmdir").Inode(theDir).Inode(theInode).Path(made),
		join(dirBytes, inodeBytes, madeBytes), nil},
	{"", begin("path_symlink").Inode(theDir).Absent().Path(seen).Text("../x"),
		join(dirBytes, seenBytes, 4, "../x"), nil},
	{"", begin("path_mknod").Inode(theDir).Absent().Path(seen).Scalar(0o20622).Scalar(8<<20 | 3),
		join(dirBytes, seenBytes, uint16(0o20622), 8<<20|3), nil},
	{"", begin("path_link").Inode(theInode).Path(seen).Inode(theDir).Absent().Path(seen),
		join(inodeBytes, seenBytes, dirBytes, seenBytes), nil},
	{"", begin("path_rename").Inode(theDir).Inode(theInode).Path(seen).Inode(theDir).Absent().Path(made).Scalar(2),
		join(dirBytes, inodeBytes, seenBytes, dirBytes, madeBytes, 2), nil},
	{"", begin("cred_prepare").Creds([8]uint32{1, 2, 3, 4, 5, 6, 7, 8}, 9, 10),
		join(1, 2, 3, 4, 5, 6, 7, 8, uint64(9), 10), join(1)},
	{"", begin("task_alloc").Scalar(1<<32 | 17),
		join(uint64(1<<32 | 17)), nil},
}

// TestCELLs: every event has its CELL, byte by byte.
func TestCELLs(t *testing.T) {
	tested := make(map[Hook]bool)
	for _, test := range cellTests {
		r := mustParse(t, test.record)
		name := r.Hook().String() + " " + test.special
		tested[r.Hook()] = true
		want := map[Dialect][]byte{Current: test.want, V3: test.v3}
		if test.v3 == nil {
			want[V3] = test.want
		}
		for dialect, want := range want {
			m := NewMapper(dialect, crypto.SHA256, golden{})
			if _, err := m.Map(&r, Digest{fileSum, DigestExact}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if diff := cmp.Diff(hex.Dump(want), hex.Dump(m.cell)); diff != "" {
				t.Errorf("%s, dialect %d (-want +got):\n%s", name, dialect, diff)
			}
			if dialect == Current && len(m.cells.rest) != 0 {
				t.Errorf("%s: %d bytes of cells are left", name, len(m.cells.rest))
			}
		}
	}
	for _, row := range table {
		if !tested[row.hook] {
			t.Errorf("%s: no CELL is tested", row.name)
		}
	}
	for hook := range v3Layouts {
		if hook.row() == nil {
			t.Errorf("%s is in v3Layouts, and not in the event table", hook)
		}
	}
}

// TestCOEOrder: zeros nearly everywhere, as in the vectors, do not tell the fields apart.
func TestCOEOrder(t *testing.T) {
	c := Creds{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if got, want := appendCOE(nil, &c), join(1, 2, 3, 4, 5, 6, 7, 8, uint64(9)); !bytes.Equal(got, want) {
		t.Errorf("COE %x, want %x", got, want)
	}
}

// sizedIDs are TASK_IDs for a digest function of that size.
type sizedIDs int

func (size sizedIDs) TaskID(dst []byte, _ uint64) []byte {
	return append(dst, bytes.Repeat([]byte{7}, int(size))...)
}

// TestPointSizes: points have the size of the digest function; an owner of a socket has not.
func TestPointSizes(t *testing.T) {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		m := NewMapper(Current, h, sizedIDs(h.Size()))
		r := mustParse(t, goldenFile(goldenRecord(14, KindEvent), seen))
		p, err := m.Map(&r, Digest{make([]byte, h.Size()), DigestExact})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.COE) != h.Size() || len(p.CELL) != h.Size() || len(p.Coefficient) != h.Size() {
			t.Errorf("%v: %d, %d and %d bytes", h, len(p.COE), len(p.CELL), len(p.Coefficient))
		}
		if want := len(fileBytes) - 32 + h.Size(); len(m.cell) != want {
			t.Errorf("%v: the CELL of a file has %d bytes, want %d", h, len(m.cell), want)
		}
		r = mustParse(t, goldenRecord(20, KindAsync).Sock(1, 1, 0, 12).Sock(1, 1, 0, 12))
		if _, err := m.Map(&r, Digest{}); err != nil || len(m.cell) != 2*76 {
			t.Errorf("%v: the CELL of two sockets has %d bytes, want 152; %v", h, len(m.cell), err)
		}
	}
}

// TestNoPoint: what is not known gives no point, and the error says what and of which event.
func TestNoPoint(t *testing.T) {
	open := func(identity, parent uint64, p eventtest.PathCell) *eventtest.Builder {
		return addVectorFile(vectorEvent(14, KindEvent, identity, parent), 0, 0, p)
	}
	place := eventtest.PathCell{Text: "/x"}
	for name, test := range map[string]struct {
		record *eventtest.Builder
		digest Digest
		want   error
	}{
		"nothing missing":    {open(1, 1, place), digestOf(""), nil},
		"text cut":           {open(1, 1, eventtest.PathCell{Text: "/x", Cut: true}), digestOf(""), ErrCut},
		"digest not exact":   {open(1, 1, place), Digest{digestOf("").Sum, DigestUnsettled}, ErrNoDigest},
		"no file, no digest": {vectorEvent(85, KindAsync, 1, 1).Scalar(21).Scalar(0), Digest{}, nil},
		"task not known":     {open(unknownTask, 1, place), digestOf(""), ErrNoTaskID},
		"parent not known":   {open(1, unknownTask, place), digestOf(""), ErrNoTaskID},
		"creator not known": {open(1, 1, eventtest.PathCell{Text: "/x", Flags: eventtest.PathCreated, Owner: unknownTask}), digestOf(""),
			ErrNoTaskID},
		"no directory, not created": {open(1, 1, eventtest.PathCell{Text: "x"}), digestOf(""), nil},
		"no directory, created":     {open(1, 1, eventtest.PathCell{Text: "x", Flags: eventtest.PathCreated}), digestOf(""), ErrNoDirectory},
		"socket of one not known":   {vectorEvent(20, KindAsync, 1, 1).Sock(1, 1, 0, 1).Sock(1, 1, 0, unknownTask), Digest{}, ErrNoTaskID},
	} {
		r := mustParse(t, test.record)
		_, err := NewMapper(Current, crypto.SHA256, vectorIDs{}).Map(&r, test.digest)
		if !errors.Is(err, test.want) || err != nil && !strings.HasSuffix(err.Error(), ": event 9, file_open") &&
			!strings.HasSuffix(err.Error(), ": event 9, unix_stream_connect") {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestCoefficientMember: the coefficient stands behind the time, or is missing; all else is
// as in the dialect current.
func TestCoefficientMember(t *testing.T) {
	open := func(identity uint64, cut bool) Record {
		p := eventtest.PathCell{Text: "/etc/passwd", Cut: cut}
		return mustParse(t, addVectorFile(vectorEvent(14, KindEvent, identity, 0), 0x8000, 0o100644, p))
	}
	empty := digestOf("")
	for name, test := range map[string]struct {
		record Record
		state  DigestState
		want   string
	}{
		"known":            {open(vectorTask, false), DigestExact, `, "coefficient": "` + vectorOpen + `"`},
		"digest not exact": {open(vectorTask, false), DigestChanged, ""},
		"text cut":         {open(vectorTask, true), DigestExact, ""},
		"task not known":   {open(unknownTask, false), DigestExact, ""},
	} {
		d := Digest{empty.Sum, test.state}
		current, err := NewEncoder(Current, crypto.SHA256, vectorIDs{}).Append(nil, &test.record, d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewEncoder(Coefficients, crypto.SHA256, vectorIDs{}).Append(nil, &test.record, d)
		want := strings.Replace(string(current), `}, "COE"`, test.want+`}, "COE"`, 1)
		if diff := cmp.Diff(want, string(got)); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// TestTaskIDBelowUnknown: what is executed below a program that nobody knows has a TASK_ID.
func TestTaskIDBelowUnknown(t *testing.T) {
	taskID := func(parent uint64) []byte {
		r := mustParse(t, addVectorFile(vectorEvent(HookExec, KindExec, 77, parent), 0, 0, eventtest.PathCell{Text: "/x"}))
		p, err := NewMapper(Current, crypto.SHA256, vectorIDs{}).Map(&r, digestOf(""))
		if err != nil {
			t.Fatal(err)
		}
		return p.Coefficient
	}
	if below := taskID(unknownTask); bytes.Equal(below, taskID(0)) || bytes.Equal(below, taskID(vectorTask)) {
		t.Errorf("the TASK_ID %x is that below another parent, too", below)
	}
}

// TestNameOfCreated: the names of created files make no difference, their folders do.
func TestNameOfCreated(t *testing.T) {
	point := func(text string, flags uint32) string {
		r := mustParse(t, addVectorFile(vectorEvent(14, KindEvent, 1, 1), 0, 0, eventtest.PathCell{Text: text, Flags: flags}))
		p, err := NewMapper(Current, crypto.SHA256, vectorIDs{}).Map(&r, digestOf(""))
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(p.Coefficient)
	}
	const created = eventtest.PathCreated
	if point("/tmp/a", created) != point("/tmp/b", created) {
		t.Error("the name of a created file makes a difference")
	}
	if point("/tmp/a", created) == point("/var/a", created) || point("/tmp/a", 0) == point("/tmp/b", 0) {
		t.Error("the directory of a created file, or the name of another one, makes no difference")
	}
}

// TestMapperStateless: a point is that of its record, whatever was mapped before.
func TestMapperStateless(t *testing.T) {
	used := NewMapper(V3, crypto.SHA256, golden{})
	for _, test := range slices.Concat(cellTests, cellTests) {
		r := mustParse(t, test.record)
		got, err := used.Map(&r, Digest{fileSum, DigestExact})
		want, wantErr := NewMapper(V3, crypto.SHA256, golden{}).Map(&r, Digest{fileSum, DigestExact})
		if diff := cmp.Diff(want, got); diff != "" || err != nil || wantErr != nil {
			t.Errorf("%s: %v, %v\n%s", r.Hook(), err, wantErr, diff)
		}
	}
}

// FuzzMap: whatever Parse accepts has a point, or an error of those that Map names.
func FuzzMap(f *testing.F) {
	for _, test := range cellTests {
		f.Add(test.record.Record(), true)
	}
	f.Add(addVectorFile(vectorEvent(14, KindEvent, unknownTask, 0), 0, 0, eventtest.PathCell{Text: "x", Flags: eventtest.PathCreated}).Record(), false)
	f.Fuzz(func(t *testing.T, raw []byte, exact bool) {
		// Else nearly nothing would get past the first check. The bytes are the
		// engine's, and not to be written to.
		if raw = bytes.Clone(raw); len(raw) >= 4 {
			native.PutUint32(raw, uint32(len(raw)))
		}
		r, err := Parse(raw)
		if err != nil {
			return
		}
		d := Digest{Sum: fileSum}
		if exact {
			d.State = DigestExact
		}
		for _, dialect := range []Dialect{Current, V3} {
			p, err := NewMapper(dialect, crypto.SHA256, vectorIDs{}).Map(&r, d)
			known := errors.Is(err, ErrCut) || errors.Is(err, ErrNoDigest) || errors.Is(err, ErrNoTaskID) || errors.Is(err, ErrNoDirectory)
			if err != nil && !known || err == nil && len(p.Coefficient) != 32 {
				t.Errorf("%v, %x", err, p.Coefficient)
			}
		}
	})
}
