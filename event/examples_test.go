// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto"
	b64 "encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

type object = map[string]any

// inverse makes a record of a line: it is the TaskIDs of that record too, with
// identities made up for what the line has.
type inverse struct {
	eventtest.Builder

	t      testing.TB
	ids    [][]byte // TASK_ID of identity i+1
	digest []byte   // of the file
	other  []byte   // of an address of another family
}

func (v *inverse) TaskID(dst []byte, identity uint64) []byte {
	if identity == 0 {
		return append(dst, make([]byte, 32)...)
	}
	return append(dst, v.ids[identity-1]...)
}

func (v *inverse) bytes(digits any) []byte {
	b, err := hex.DecodeString(digits.(string))
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v *inverse) id(digits any) uint64 {
	v.ids = append(v.ids, v.bytes(digits))
	return uint64(len(v.ids))
}

// num reads any of the number formats of section 2.2; negative ones wrap.
func (v *inverse) num(text any) uint64 {
	if n, err := strconv.ParseUint(text.(string), 0, 64); err == nil {
		return n
	}
	n, err := strconv.ParseInt(text.(string), 0, 64)
	if err != nil {
		v.t.Fatal(err)
	}
	return uint64(n)
}

func (v *inverse) u32(o any, key string) uint32 { return uint32(v.num(o.(object)[key])) }

// scalars appends members of an object.
func (v *inverse) scalars(o any, keys ...string) {
	for _, key := range keys {
		v.Cell(eventtest.Scalar, v.num(o.(object)[key]))
	}
}

func fixed(text any, size int) []byte {
	b := make([]byte, size)
	copy(b, text.(string))
	return b
}

// add appends the cells of one member of an event.
func (v *inverse) add(s *shape, value any) {
	switch s {
	case u16, u32, s32, s64, u64, hex64, octal, spacedU32, nsidSet, nsid, prctlOption, prctlArg2:
		v.Cell(eventtest.Scalar, v.num(value))
	case mapType:
		v.Cell(eventtest.Scalar, v.num(value.(object)["map_type"]))
	case device:
		v.Cell(eventtest.Scalar, uint64(v.u32(value, "major"))<<20|uint64(v.u32(value, "minor")))
	case attributes:
		v.scalars(value, "valid", "mode", "uid", "gid", "size")
	case rlimit:
		v.scalars(value, "resource", "current", "max")
	case key:
		v.scalars(value, "possessed", "uid", "gid", "flags")
	case timeSpec:
		v.scalars(value, "seconds", "nsecs")
	case timeZone:
		v.scalars(value, "minuteswest", "dsttime")
	case bpfAttributes:
		v.scalars(value, "size")
	case bpfProgram:
		v.scalars(value, "type", "attach_type")
	case taskID, wideTaskID:
		v.Cell(eventtest.Task, v.id(value))
	case text, optionalText:
		v.Cell(eventtest.Text, []byte(value.(string)))
	case base64:
		b, err := b64.StdEncoding.DecodeString(value.(string))
		if err != nil {
			v.t.Fatal(err)
		}
		v.Cell(eventtest.Bytes, b)
	case inode:
		v.Cell(eventtest.Inode, v.u32(value, "uid"), v.u32(value, "gid"), v.u32(value, "mode"), v.u32(value, "s_magic"),
			make([]byte, 40), fixed(value.(object)["s_id"], 32), v.bytes(value.(object)["s_uuid"]))
	case path:
		v.path(value.(object))
	case dentry:
		if i, ok := value.(object)["inode"]; ok {
			v.add(inode, i)
		} else {
			v.Cell(eventtest.Absent)
		}
		v.add(path, value.(object)["path"])
	case superblock, quotaSuperblock:
		v.add(dentry, value.(object)["dentry"])
		v.add(text, value.(object)["fstype"])
		v.scalars(value, "s_flags")
	case file, optionalFile:
		f := value.(object)
		v.digest = v.bytes(f["digest"])
		v.Cell(eventtest.File, v.u32(f, "flags"), uint32(digestWanted), make([]byte, 32))
		v.add(inode, f["inode"])
		v.add(path, f["path"])
	case sock:
		v.Cell(eventtest.Sock, v.u32(value, "family"), v.u32(value, "type"), v.u32(value, "protocol"), uint32(0), v.id(value.(object)["owner"]))
	case ipc:
		v.Cell(eventtest.IPC, v.u32(value, "uid"), v.u32(value, "gid"), v.u32(value, "cuid"), v.u32(value, "cgid"),
			v.u32(value, "mode"), uint32(0), v.id(value.(object)["owner"]))
	case creds:
		var cells []any
		for _, id := range v.ids8(value) {
			cells = append(cells, id)
		}
		v.Cell(eventtest.Creds, append(cells, v.num(value.(object)["capeff"]), v.u32(value, "securebits"), uint32(0))...)
	case address, localAddress, messageAddress:
		v.address(value.(object))
	default:
		v.t.Fatal("a shape without inverse")
	}
}

func (v *inverse) ids8(o any) (ids [8]uint32) {
	for i, key := range []string{"uid", "euid", "suid", "gid", "egid", "sgid", "fsuid", "fsgid"} {
		ids[i] = v.u32(o, key)
	}
	return ids
}

func (v *inverse) path(p object) {
	var major, minor, flags uint32
	var owner, instance uint64
	if dev, ok := p["dev"]; ok {
		flags |= pathDev
		major, minor = v.u32(dev, "major"), v.u32(dev, "minor")
	}
	if o, ok := p["owner"]; ok {
		flags |= pathCreated
		owner, instance = v.id(o), v.num(p["instance"])
	}
	v.Cell(eventtest.Path, major, minor, owner, instance, flags, uint32(PathRoot), []byte(p["pathname"].(string)))
}

func (v *inverse) address(a object) {
	for family, value := range a {
		o := value.(object)
		switch family {
		case "af_inet":
			ip := o["address"]
			if ip == nil {
				ip = o["addrress"]
			}
			v.Cell(eventtest.Addr, uint32(2), uint32(16), uint16(2), uint16(v.num(o["port"])), uint32(v.num(ip)), make([]byte, 8))
		case "af_inet6":
			var flow, scope uint32
			if o["flow"] != nil {
				flow, scope = v.u32(o, "flow"), v.u32(o, "scope")
			}
			v.Cell(eventtest.Addr, uint32(10), uint32(28), uint16(10), uint16(v.num(o["port"])), flow, v.bytes(o["address"]), scope)
		case "af_unix":
			v.Cell(eventtest.Addr, uint32(1), uint32(110), uint16(1), fixed(o["address"], 108))
		case "af_other":
			v.other = v.bytes(o["address"])
			v.Cell(eventtest.Addr, uint32(40), uint32(16), uint16(40), make([]byte, 14))
		}
	}
}

// inverted returns the record of an example line, and its TASK_IDs.
func inverted(t testing.TB, line string) *inverse {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(line), &o); err != nil {
		t.Fatal(err)
	}
	v := &inverse{t: t}
	e := o["event"].(object)
	hook, ok := Lookup(e["type"].(string))
	if !ok {
		t.Fatalf("no hook %v", e["type"])
	}
	kinds := []string{"", "event", "async_event"}
	v.Header = eventtest.Header{
		Hook: uint16(hook), Kind: uint8(slices.Index(kinds, o["export"].(object)["type"].(string))),
		Number: 7, Namespace: 3, Tnum: 5, TID: uint32(v.num(e["pid"])), TGID: 1, Comm: e["process"].(string),
		TTD: v.num(e["ttd"]), ParentTTD: v.num(e["p_ttd"]), Time: v.num(e["ts"]),
		Identity: v.id(e["task_id"]), Parent: v.id(e["p_task_id"]),
		Creds: v.ids8(o["COE"]), CapEff: v.num(o["COE"].(object)["capeff"]),
	}
	body := o[hook.String()].(object)
	for _, m := range hook.row().members {
		if value, ok := body[m.name]; ok {
			v.add(m.shape, value)
		} else {
			v.Cell(eventtest.Absent)
		}
	}
	return v
}

// otherHash stands for the digest function where only the digest of an example is
// known, and not the address that it is of.
type otherHash struct {
	hash.Hash
	sum []byte
}

func (h otherHash) Sum(b []byte) []byte { return append(b, h.sum...) }

// TestExamples: every line of the specification comes out byte by byte.
func TestExamples(t *testing.T) {
	all := eventtest.Specification(t)
	for _, hook := range Hooks() {
		s := all[hook.String()]
		lines := map[string]string{"example": s.Example}
		for _, variant := range s.Variants {
			lines[variant.Label] = variant.Example
		}
		for label, line := range lines {
			t.Run(fmt.Sprintf("%s/%s", hook, label), func(t *testing.T) {
				v := inverted(t, line)
				r, err := Parse(v.Record())
				if err != nil {
					t.Fatal(err)
				}
				e := NewEncoder(V3, crypto.SHA256, v)
				if v.other != nil {
					e.hasher = otherHash{e.hasher, v.other}
				}
				got, err := e.Append(nil, &r, Digest{v.digest, DigestExact})
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != line+"\n" {
					t.Errorf("got  %swant %s", got, line)
				}
			})
		}
	}
}

// TestCoefficientOfLine: the coefficient in a line can be computed from what else is in it.
func TestCoefficientOfLine(t *testing.T) {
	all := eventtest.Specification(t)
	for _, hook := range Hooks() {
		v := inverted(t, all[hook.String()].Example)
		r := mustParse(t, &v.Builder)
		line, err := NewEncoder(Coefficients, crypto.SHA256, v).Append(nil, &r, Digest{v.digest, DigestExact})
		if err != nil {
			t.Fatal(err)
		}
		var written struct{ Event struct{ Coefficient string } }
		if err := json.Unmarshal(line, &written); err != nil {
			t.Fatal(err)
		}
		v = inverted(t, string(line))
		r = mustParse(t, &v.Builder)
		p, err := NewMapper(Current, crypto.SHA256, v).Map(&r, Digest{v.digest, DigestExact})
		if got := hex.EncodeToString(p.Coefficient); err != nil || got != written.Event.Coefficient {
			t.Errorf("%s: %s, %v; the line is %s", hook, got, err, line)
		}
	}
}

// TestNoAllocation: in every dialect, for every hook.
func TestNoAllocation(t *testing.T) {
	all := eventtest.Specification(t)
	for _, hook := range Hooks() {
		v := inverted(t, all[hook.String()].Example)
		raw, buffer := v.Record(), make([]byte, 0, 16<<10)
		for _, dialect := range []Dialect{Current, V3, Coefficients} {
			e := NewEncoder(dialect, crypto.SHA256, v)
			if n := testing.AllocsPerRun(100, func() {
				r, _ := Parse(raw)
				_, _ = e.Append(buffer, &r, Digest{v.digest, DigestExact})
			}); n != 0 {
				t.Errorf("%s: %v allocations", hook, n)
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	all := eventtest.Specification(b)
	for name, dialect := range map[string]Dialect{"current": Current, "coefficients": Coefficients} {
		for _, hook := range Hooks() {
			b.Run(name+"/"+hook.String(), func(b *testing.B) {
				v := inverted(b, all[hook.String()].Example)
				raw, buffer := v.Record(), make([]byte, 0, 16<<10)
				e := NewEncoder(dialect, crypto.SHA256, v)
				b.ReportAllocs()
				for b.Loop() {
					r, err := Parse(raw)
					if err == nil {
						_, err = e.Append(buffer, &r, Digest{v.digest, DigestExact})
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
