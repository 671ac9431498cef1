// SPDX-License-Identifier: Apache-2.0

package event

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// TestTable: the event table, the specification and the list of the kernel half agree.
func TestTable(t *testing.T) {
	all := specification(t)
	kinds := map[string]Kind{"event": KindEvent, "async_event": KindAsync}
	for _, hook := range Hooks() {
		s, row := all[hook.String()], hook.row()
		if s.Ordinal != hook || kinds[s.ExportType] != row.kind {
			t.Errorf("%s: %d, kind %d; specified %d, %s", hook, hook, row.kind, s.Ordinal, s.ExportType)
		}
		// The first component of the parameters, in order, is a member.
		var members []string
		for _, p := range s.Params {
			name, _, _ := strings.Cut(p.Path, ".")
			if len(members) == 0 || members[len(members)-1] != name {
				members = append(members, name)
			}
		}
		var got []string
		for _, m := range row.members {
			got = append(got, m.name)
		}
		if strings.Join(got, " ") != strings.Join(members, " ") {
			t.Errorf("%s: members %v, specified %v", hook, got, members)
		}
	}

	list, err := os.ReadFile("../bpf/hooks.h")
	if err != nil {
		t.Fatal(err)
	}
	contexts := map[string]Kind{"SLEEPABLE": KindEvent, "ATOMIC": KindAsync}
	listed := regexp.MustCompile(`(?m)^\tHOOK\((\w+), (\d+), (\w+)\)`).FindAllStringSubmatch(string(list), -1)
	var differ []string
	for _, m := range listed {
		hook, ok := Lookup(m[1])
		if !ok || strconv.Itoa(int(hook)) != m[2] {
			t.Errorf("%s: %d in the event table, %s in hooks.h", m[1], hook, m[2])
			continue
		}
		if contexts[m[3]] != hook.row().kind {
			differ = append(differ, m[1]+" "+m[3])
		}
	}
	// key_alloc may sleep in TSEM, and not in a BPF LSM.
	if want := []string{"key_alloc ATOMIC"}; !slices.Equal(differ, want) {
		t.Errorf("in hooks.h other than in the event table: %v, want %v", differ, want)
	}
	if len(listed) != len(Hooks()) {
		t.Errorf("%d hooks in hooks.h, %d in the event table", len(listed), len(Hooks()))
	}
}

// TestFormats: each number of the table is written in the format of the specification.
func TestFormats(t *testing.T) {
	all := specification(t)
	formats := map[*shape]string{
		u32: "%u", spacedU32: "%u", s32: "%d", octal: "0%o", taskID: "%*phN", text: "%s", optionalText: "%s", base64: "%s",
	}
	// What the printer makes of a cell of ones.
	ones := map[string]string{
		"%u": `"4294967295"`, "%d": `"-1"`, "0%o": `"037777777777"`, "%lu": `"18446744073709551615"`, "%llu": `"18446744073709551615"`,
	}
	cell := (&eventtest.Builder{}).Scalar(1<<64 - 1).Record()[sizeRecord:]
	for _, hook := range Hooks() {
		specified := make(map[string]string)
		for _, p := range all[hook.String()].Params {
			specified[p.Path] = p.Format
		}
		for _, m := range hook.row().members {
			want, simple := specified[m.name]
			if got, ok := formats[m.shape]; ok && got != want || !ok && simple && m.shape != u64 {
				t.Errorf("%s.%s is %s, specified %s", hook, m.name, got, want)
			}
			if written, ok := ones[want]; ok {
				e := &Encoder{cells: cells{rest: cell}}
				if got := string(m.shape.print(e, nil)); got != written {
					t.Errorf("%s.%s: %s, want %s", hook, m.name, got, written)
				}
			}
		}
	}
}

// TestLayout compares the offsets and enums of this package with the BTF of the object.
func TestLayout(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpec("../bpf/tsem_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name    string
		size    uint32
		offsets map[string]uint32
	}{
		{"tsem_record", sizeRecord, map[string]uint32{
			"length": offRecordLength, "version": offRecordVersion, "hook": offRecordHook, "kind": offRecordKind, "cells": offRecordCells,
			"cut": offRecordCut, "number": offRecordNumber, "namespace": offRecordNamespace, "time": offRecordTime, "tid": offRecordTid,
			"tgid": offRecordTgid, "tnum": offRecordTnum, "ttd": offRecordTtd, "p_ttd": offRecordPTtd, "identity": offRecordIdentity,
			"p_identity": offRecordPIdentity, "cgroup": offRecordCgroup, "creds": offRecordCreds, "comm": offRecordComm,
		}},
		{"tsem_cell", sizeCell, map[string]uint32{"type": 0, "flags": 2, "size": 4}},
		{"tsem_creds", sizeCreds, map[string]uint32{"uid": 0, "euid": 4, "suid": 8, "gid": 12, "egid": 16, "sgid": 20, "fsuid": 24, "fsgid": 28,
			"capeff": offCredsCapeff, "securebits": offCredsSecurebits}},
		{"tsem_inode", sizeInode, map[string]uint32{"uid": offInodeUID, "gid": offInodeGID, "mode": offInodeMode, "s_magic": offInodeSMagic,
			"dev_major": offInodeDevMajor, "dev_minor": offInodeDevMinor, "ino": offInodeIno, "size": offInodeSize, "ctime_sec": offInodeCtimeSec,
			"ctime_nsec": offInodeCtimeNsec, "s_id": offInodeSID, "s_uuid": offInodeSUUID}},
		{"tsem_path", sizePath, map[string]uint32{"dev_major": offPathDevMajor, "dev_minor": offPathDevMinor, "owner": offPathOwner,
			"instance": offPathInstance, "flags": offPathFlags, "type": offPathType}},
		{"tsem_file", sizeFile, map[string]uint32{"f_flags": offFileFFlags, "digest_state": offFileDigestState, "digest": offFileDigest}},
		{"tsem_sock", sizeSock, map[string]uint32{"family": offSockFamily, "type": offSockType, "protocol": offSockProtocol, "owner": offSockOwner}},
		{"tsem_ipc", sizeIPC, map[string]uint32{"uid": offIPCUID, "gid": offIPCGID, "cuid": offIPCCUID, "cgid": offIPCCGID, "mode": offIPCMode, "owner": offIPCOwner}},
		{"tsem_addr", sizeAddr, map[string]uint32{"family": offAddrFamily}},
	} {
		var layout *btf.Struct
		if err := spec.Types.TypeByName(s.name, &layout); err != nil {
			t.Fatal(err)
		}
		if layout.Size != s.size {
			t.Errorf("%s: %d bytes, here %d", s.name, layout.Size, s.size)
		}
		for name, offset := range s.offsets {
			found := false
			for _, m := range layout.Members {
				if m.Name == name {
					found = true
					if m.Offset.Bytes() != offset {
						t.Errorf("%s.%s: at %d, here %d", s.name, name, m.Offset.Bytes(), offset)
					}
				}
			}
			if !found {
				t.Errorf("%s has no %s", s.name, name)
			}
		}
	}
	for name, values := range map[string][]uint64{
		"tsem_cell_type":    {uint64(cellAbsent), uint64(cellScalar), uint64(cellInode), uint64(cellPath), uint64(cellFile), uint64(cellCreds), uint64(cellSock), uint64(cellIPC), uint64(cellAddr), uint64(cellTask), uint64(cellText), uint64(cellBytes)},
		"tsem_kind":         {uint64(KindEvent), uint64(KindAsync), uint64(KindExec)},
		"tsem_digest_state": {uint64(digestEmpty), uint64(digestWanted), uint64(digestIMA), uint64(digestZero)},
		"tsem_path_flags":   {pathDev, pathCreated, pathNameOnly},
		"tsem_path_type":    {uint64(PathInFilesystem), uint64(PathRoot), uint64(PathNamespace), uint64(PathChroot)},
	} {
		var enum *btf.Enum
		if err := spec.Types.TypeByName(name, &enum); err != nil {
			t.Fatal(err)
		}
		if len(enum.Values) != len(values) {
			t.Errorf("%s: %d values, here %d", name, len(enum.Values), len(values))
			continue
		}
		for i, v := range enum.Values {
			if v.Value != values[i] {
				t.Errorf("%s %s: %d, here %d", name, v.Name, v.Value, values[i])
			}
		}
	}
}
