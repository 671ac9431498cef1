// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// golden are TASK_IDs: each is its identity in 64 digits.
type golden struct{}

func (golden) TaskID(dst []byte, identity uint64) []byte {
	return append(append(dst, make([]byte, 31)...), byte(identity))
}

// What the golden lines have in common, up to the members of their own.
const (
	goldenTask = `"event": {"pid": "31", "tnum": "77", "context": "4", "number": "9007199254740993", "process": "golden", `
	goldenIDs  = `"ttd": "21", "p_ttd": "20", ` +
		`"task_id": "000000000000000000000000000000000000000000000000000000000000000a", ` +
		`"p_task_id": "000000000000000000000000000000000000000000000000000000000000000b", "ts": "1000000007"`
	goldenCOE = `"COE": {"uid": "1", "euid": "2", "suid": "3", "gid": "4", "egid": "5", "sgid": "6", ` +
		`"fsuid": "7", "fsgid": "4294967295", "capeff": "0x1ffffffffff"}`
	goldenInode = `"inode": {"uid": "0", "gid": "5", "mode": "0100644", "s_magic": "0xef53", "s_id": "sda2", ` +
		`"s_uuid": "000102030405060708090a0b0c0d0e0f"}`
)

// goldenRecord begins a record of a hook.
func goldenRecord(hook Hook, kind Kind) *eventtest.Builder {
	return &eventtest.Builder{Header: eventtest.Header{
		Hook: uint16(hook), Kind: uint8(kind), Number: 9007199254740993, Namespace: 4, Time: 1000000007,
		TID: 31, TGID: 30, Tnum: 77, TTD: 21, ParentTTD: 20, Identity: 10, Parent: 11,
		Creds: [8]uint32{1, 2, 3, 4, 5, 6, 7, 1<<32 - 1}, CapEff: 1<<41 - 1, Comm: "golden",
	}}
}

// goldenFile appends a file that user space has to read.
func goldenFile(b *eventtest.Builder, p eventtest.PathCell) *eventtest.Builder {
	b.File(32768, uint32(digestWanted), [32]byte{})
	b.Inode(eventtest.InodeCell{
		GID: 5, Mode: 0o100644, SMagic: 0xef53, Ino: 12, Size: 13, SID: "sda2",
		UUID: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	})
	return b.Path(p)
}

// TestCurrentGolden: whole lines of the current dialect, written by hand.
func TestCurrentGolden(t *testing.T) {
	sendmsg := goldenRecord(28, KindEvent).Sock(2, 2, 17, 12)
	sendmsg.Addr(2, []byte{2, 0, 1, 0xbb, 203, 0, 113, 23, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, test := range []struct {
		name   string
		record *eventtest.Builder
		state  DigestState
		want   string
	}{
		{
			"file_open, cut path seen from the root",
			goldenFile(goldenRecord(14, KindEvent), eventtest.PathCell{
				DevMajor: 8, DevMinor: 2, Owner: 10, Instance: 3, Flags: eventtest.PathDev | eventtest.PathCreated,
				Type: uint32(PathRoot), Text: "/etc/long", Cut: true,
			}),
			DigestExact,
			`{"export": {"type": "event"}, ` + goldenTask + `"type": "file_open", ` + goldenIDs + `, "cut": "1"}, ` + goldenCOE + `, ` +
				`"file_open": {"file": {"flags": "32768", ` + goldenInode + `, "path": {"dev": {"major": "8", "minor": "2"}, ` +
				`"owner": "000000000000000000000000000000000000000000000000000000000000000a", "instance": "3", ` +
				`"type": "root", "pathname": "/etc/long"}, ` +
				`"digest": "3031323334353637383961626364656630313233343536373839616263646566"}}}`,
		},
		{
			"file_open, file changed, seen from another mount namespace",
			goldenFile(goldenRecord(14, KindEvent), eventtest.PathCell{Type: uint32(PathNamespace), Text: "nodev:/"}),
			DigestChanged,
			`{"export": {"type": "event"}, ` + goldenTask + `"type": "file_open", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"file_open": {"file": {"flags": "32768", ` + goldenInode + `, "path": {"type": "namespace", "pathname": "nodev:/"}, ` +
				`"digest": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "digest_state": "changed"}}}`,
		},
		{
			"mmap_file, file unavailable",
			goldenFile(goldenRecord(15, KindEvent), eventtest.PathCell{Text: "/x"}).Scalar(5).Scalar(2),
			DigestUnavailable,
			`{"export": {"type": "event"}, ` + goldenTask + `"type": "mmap_file", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"mmap_file": {"file": {"flags": "32768", ` + goldenInode + `, "path": {"pathname": "/x"}, ` +
				`"digest": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "digest_state": "unavailable"}, ` +
				`"prot": "5", "flags": "2"}}`,
		},
		{
			"mmap_file, anonymous",
			goldenRecord(15, KindEvent).Absent().Scalar(7).Scalar(34),
			DigestExact,
			`{"export": {"type": "event"}, ` + goldenTask + `"type": "mmap_file", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"mmap_file": {"prot": "7", "flags": "34"}}`,
		},
		{
			"task_kill",
			goldenRecord(2, KindAsync).Task(12).Scalar(15).Scalar(0),
			DigestExact,
			`{"export": {"type": "async_event"}, ` + goldenTask + `"type": "task_kill", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"task_kill": {"target": "000000000000000000000000000000000000000000000000000000000000000c", "sig": "15", "cross_ns": "0"}}`,
		},
		{
			"socket_sendmsg, IPv4: port 443 of 203.0.113.23, spelled right",
			sendmsg,
			DigestExact,
			`{"export": {"type": "event"}, ` + goldenTask + `"type": "socket_sendmsg", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"socket_sendmsg": {"sock": {"family": "2", "type": "2", "protocol": "17", ` +
				`"owner": "000000000000000000000000000000000000000000000000000000000000000c"}, ` +
				`"addr": {"af_inet": {"port": "47873", "address": "393281739"}}}}`,
		},
		{
			"log, of a hook that can sleep",
			goldenRecord(22, KindLog).Scalar(2).Scalar(1).Scalar(6).Scalar(0),
			DigestExact,
			`{"export": {"type": "log"}, "log": {"process": "golden", "event": "socket_create", "action": "LOG"}, ` +
				goldenTask + `"type": "socket_create", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"socket_create": {"family": "2", "type": "1", "protocol": "6", "kern": "0"}}`,
		},
		{
			"log, of one that cannot",
			goldenRecord(85, KindDeny).Scalar(21).Scalar(0),
			DigestExact,
			`{"export": {"type": "log"}, "log": {"process": "golden", "event": "capable", "action": "DENY"}, ` +
				goldenTask + `"type": "capable", ` + goldenIDs + `}, ` + goldenCOE + `, "capable": {"cap": "21", "opts": "0"}}`,
		},
		{
			"ptrace_access_check, one space",
			goldenRecord(84, KindAsync).Task(12).Scalar(18),
			DigestExact,
			`{"export": {"type": "async_event"}, ` + goldenTask + `"type": "ptrace_access_check", ` + goldenIDs + `}, ` + goldenCOE + `, ` +
				`"ptrace_access_check": {"child": "000000000000000000000000000000000000000000000000000000000000000c", "mode": "18"}}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := Parse(test.record.Record())
			if err != nil {
				t.Fatal(err)
			}
			line, err := NewEncoder(Current, crypto.SHA256, golden{}).Append(nil, &r,
				Digest{[]byte("0123456789abcdef0123456789abcdef"), test.state})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want+"\n", string(line)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestV3Log: in the dialect v3 a record of an untrusted task says no more than what TSEM v3
// does, and so nothing that could be cut.
func TestV3Log(t *testing.T) {
	b := goldenFile(goldenRecord(14, KindDeny), eventtest.PathCell{Text: "/etc/long", Cut: true})
	r, err := Parse(b.Record())
	if err != nil {
		t.Fatal(err)
	}
	line, err := NewEncoder(V3, crypto.SHA256, golden{}).Append(nil, &r, Digest{})
	const want = `{"export": {"type": "log"}, "log": {"process": "golden", "event": "file_open", "action": "DENY"}}` + "\n"
	if err != nil || string(line) != want {
		t.Errorf("%v: %s", err, line)
	}
}
