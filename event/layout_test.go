// SPDX-License-Identifier: Apache-2.0

package event

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// layoutConstants returns the offset and size constants of this package from its
// source, so that one which is added cannot be forgotten here.
func layoutConstants(t *testing.T) map[string]uint32 {
	t.Helper()
	found := make(map[string]uint32)
	wanted := regexp.MustCompile(`^(off|size)[A-Z]`)
	for _, name := range []string{"record.go", "cells.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !wanted.MatchString(spec.Names[0].Name) {
				return true
			}
			value, ok := spec.Values[0].(*ast.BasicLit)
			if !ok || len(spec.Names) != 1 {
				t.Fatalf("%s is not one literal", spec.Names[0].Name)
			}
			v, err := strconv.ParseUint(value.Value, 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			found[spec.Names[0].Name] = uint32(v)
			return true
		})
	}
	return found
}

// objectTypes returns the BTF of the object that the daemon loads.
func objectTypes(t *testing.T) *btf.Spec {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("../bpf/tsem_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	return spec.Types
}

// TestLayoutConstants: each constant offXY is where field y of struct tsem_x is, and
// each sizeX is the size of that struct.
func TestLayoutConstants(t *testing.T) {
	want := make(map[string]uint32) // by name in lower case
	types := objectTypes(t)
	for _, name := range []string{"record", "cell", "creds", "inode", "path", "file", "sock", "ipc", "addr"} {
		var layout *btf.Struct
		if err := types.TypeByName("tsem_"+name, &layout); err != nil {
			t.Fatal(err)
		}
		want["size"+name] = layout.Size
		for _, m := range layout.Members {
			want["off"+name+strings.ReplaceAll(m.Name, "_", "")] = m.Offset.Bytes()
		}
	}
	constants := layoutConstants(t)
	// Where the code has no constants: the head of a cell, and the ids one after the other.
	for i, field := range []string{"Type", "Flags", "Size"} {
		constants["offCell"+field] = uint32(2 * i)
	}
	for i, id := range []string{"Uid", "Euid", "Suid", "Gid", "Egid", "Sgid", "Fsuid", "Fsgid"} {
		constants["offCreds"+id] = uint32(4 * i)
	}
	if len(constants) < 9 {
		t.Fatalf("only %v found", constants)
	}
	for name, got := range constants {
		at, ok := want[strings.ToLower(name)]
		switch {
		case !ok:
			t.Errorf("%s: no such struct or field in the object", name)
		case at != got:
			t.Errorf("%s is %d, %d in the object", name, got, at)
		}
	}
}

// TestEnums compares enum values with those of the object, by name: the constants of
// this package and those of the builder, which stand for themselves.
func TestEnums(t *testing.T) {
	types := objectTypes(t)
	for constant, same := range map[uint64]uint64{
		uint64(cellAbsent): eventtest.Absent, uint64(cellScalar): eventtest.Scalar, uint64(cellInode): eventtest.Inode,
		uint64(cellPath): eventtest.Path, uint64(cellFile): eventtest.File, uint64(cellCreds): eventtest.Creds,
		uint64(cellSock): eventtest.Sock, uint64(cellIPC): eventtest.IPC, uint64(cellAddr): eventtest.Addr,
		uint64(cellTask): eventtest.Task, uint64(cellText): eventtest.Text, uint64(cellBytes): eventtest.Bytes,
	} {
		if constant != same {
			t.Errorf("cell type %d, %d in the builder", constant, same)
		}
	}
	if pathDev != eventtest.PathDev || pathCreated != eventtest.PathCreated || pathNameOnly != eventtest.PathNameOnly {
		t.Error("the path flags are not those of the builder")
	}
	for enum, want := range map[string]map[string]uint64{
		"tsem_cell_type": {
			"TSEM_CELL_ABSENT": eventtest.Absent, "TSEM_CELL_SCALAR": eventtest.Scalar, "TSEM_CELL_INODE": eventtest.Inode,
			"TSEM_CELL_PATH": eventtest.Path, "TSEM_CELL_FILE": eventtest.File, "TSEM_CELL_CREDS": eventtest.Creds,
			"TSEM_CELL_SOCK": eventtest.Sock, "TSEM_CELL_IPC": eventtest.IPC, "TSEM_CELL_ADDR": eventtest.Addr,
			"TSEM_CELL_TASK": eventtest.Task, "TSEM_CELL_TEXT": eventtest.Text, "TSEM_CELL_BYTES": eventtest.Bytes,
		},
		"tsem_path_flags": {
			"TSEM_PATH_DEV": eventtest.PathDev, "TSEM_PATH_CREATED": eventtest.PathCreated, "TSEM_PATH_NAME_ONLY": eventtest.PathNameOnly,
		},
		"tsem_kind": {
			"TSEM_KIND_EVENT": uint64(KindEvent), "TSEM_KIND_ASYNC": uint64(KindAsync), "TSEM_KIND_EXEC": uint64(KindExec),
			"TSEM_KIND_LOG": uint64(KindLog), "TSEM_KIND_DENY": uint64(KindDeny),
		},
		"tsem_path_type": {
			"TSEM_PATH_TYPE_NONE": uint64(PathInFilesystem), "TSEM_PATH_TYPE_ROOT": uint64(PathRoot),
			"TSEM_PATH_TYPE_NAMESPACE": uint64(PathNamespace), "TSEM_PATH_TYPE_CHROOT": uint64(PathChroot),
		},
		"tsem_digest_state": {
			"TSEM_DIGEST_EMPTY": uint64(digestEmpty), "TSEM_DIGEST_WANTED": uint64(digestWanted),
			"TSEM_DIGEST_IMA": uint64(digestIMA), "TSEM_DIGEST_ZERO": uint64(digestZero),
			"TSEM_DIGEST_VOLATILE": uint64(digestVolatile),
		},
	} {
		var e *btf.Enum
		if err := types.TypeByName(enum, &e); err != nil {
			t.Fatal(err)
		}
		if len(e.Values) != len(want) {
			t.Errorf("%s has %d values, %d here", enum, len(e.Values), len(want))
		}
		for _, v := range e.Values {
			if w, ok := want[v.Name]; !ok || w != v.Value {
				t.Errorf("%s is %d, here %d (known: %t)", v.Name, v.Value, w, ok)
			}
		}
	}
}

// TestContract: what leaves no trace in BTF is read from the header.
func TestContract(t *testing.T) {
	header, err := os.ReadFile("../bpf/record.h")
	if err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]int{
		`#define TSEM_RECORD_VERSION (\d+)`: recordVersion,
		`#define TSEM_TEXT_MAX (\d+)`:       textMax,
		`#define TSEM_VALUE_MAX (\d+)`:      valueMax,
		`\bTSEM_CELL_CUT = (\d+)`:           cellCut,
		`at most (\d+) bytes follow`:        addressMax,
		`\bTSEM_HOOK_LATER = (\d+)`:         int(firstLater),
		`\bTSEM_HOOK_MAX = (\d+)`:           hooksMax,
	} {
		m := regexp.MustCompile(pattern).FindSubmatch(header)
		if m == nil || string(m[1]) != strconv.Itoa(want) {
			t.Errorf("%s: %q, here %d", pattern, m, want)
		}
	}
}
