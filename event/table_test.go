// SPDX-License-Identifier: Apache-2.0

package event

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

// TestTable: the event table, the specification and the list of the kernel half agree.
func TestTable(t *testing.T) {
	all := eventtest.Specification(t)
	kinds := map[string]Kind{"event": KindEvent, "async_event": KindAsync}
	for _, hook := range Hooks() {
		s, row := all[hook.String()], hook.row()
		if Hook(s.Ordinal) != hook || s.Later != (hook >= firstLater) || kinds[s.ExportType] != row.kind {
			t.Errorf("%s: %d, kind %d; specified %d, later: %t, %s", hook, hook, row.kind, s.Ordinal, s.Later, s.ExportType)
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
	// These may sleep in TSEM, and not in a BPF LSM; in task_alloc they may, and do not (bpf/hooks/task.c).
	if want := []string{
		"task_setioprio ATOMIC", "task_getioprio ATOMIC", "file_fcntl ATOMIC", "socket_setsockopt ATOMIC", "kernel_load_data ATOMIC",
		"sb_pivotroot ATOMIC", "move_mount ATOMIC", "quotactl ATOMIC", "quota_on ATOMIC", "key_alloc ATOMIC", "inode_link ATOMIC", "inode_mkdir ATOMIC",
		"inode_listxattr ATOMIC", "inode_killpriv ATOMIC", "tun_dev_create ATOMIC", "tun_dev_attach_queue ATOMIC",
		"tun_dev_attach ATOMIC", "tun_dev_open ATOMIC", "file_ioctl_compat ATOMIC", "file_truncate ATOMIC",
		"path_mknod ATOMIC", "task_alloc ATOMIC",
	}; !slices.Equal(differ, want) {
		t.Errorf("in hooks.h other than in the event table: %v, want %v", differ, want)
	}
	if len(listed) != len(Hooks()) {
		t.Errorf("%d hooks in hooks.h, %d in the event table", len(listed), len(Hooks()))
	}
}

// TestFormats: each number of the table is written in the format of the specification.
func TestFormats(t *testing.T) {
	all := eventtest.Specification(t)
	formats := map[*shape]string{
		u16: "%u", u32: "%u", s64: "%ld", spacedU32: "%u", s32: "%d", octal: "0%o", taskID: "%*phN", text: "%s", optionalText: "%s", base64: "%s",
		nsidSet: "%u", nsid: "%d", hex64: "0x%llx", wideTaskID: "%*phN", prctlOption: "%d", prctlArg2: "%llu",
	}
	// What the printer makes of a cell of ones.
	ones := map[string]string{
		"0x%llx": `"0xffffffffffffffff"`,
		"%u":     `"4294967295"`, "%d": `"-1"`, "%ld": `"-1"`, "0%o": `"037777777777"`, "%lu": `"18446744073709551615"`, "%llu": `"18446744073709551615"`,
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

// TestObjects: the members that the specification gives the name of an object have the shape of that
// object, and those in brackets may be missing.
func TestObjects(t *testing.T) {
	all := eventtest.Specification(t)
	objects := map[*shape]string{
		file: "FILE", optionalFile: "FILE", inode: "INODE", path: "PATH", dentry: "DENTRY", sock: "SOCK", ipc: "IPCPERM",
		creds: "CREDS", address: "ADDR", localAddress: "ADDR", messageAddress: "ADDR", taskID: "DIGEST", wideTaskID: "DIGEST",
	}
	for _, hook := range Hooks() {
		for _, m := range hook.row().members {
			layout := all[hook.String()].Shape
			form := regexp.MustCompile(`(\[?(?:, )?)"` + m.name + `": +([A-Z]*)`).FindStringSubmatch(layout)
			if form == nil || form[2] != objects[m.shape] || strings.HasPrefix(form[1], "[") != m.shape.optional {
				t.Errorf("%s.%s is %q, optional: %t; specified %s", hook, m.name, objects[m.shape], m.shape.optional, layout)
			}
		}
	}
}

func TestParseHooks(t *testing.T) {
	all, v3 := len(Hooks()), len(V3Hooks())
	if v3 != 86 || v3 == all {
		t.Errorf("%d events of TSEM v3, %d in all", v3, all)
	}
	for list, want := range map[string]struct {
		count int
		has   string
		err   string
	}{
		"file_open":                      {count: 1, has: "file_open"},
		"capable,file_open,capable":      {count: 2, has: "file_open"},
		"all":                            {count: all, has: "capable"},
		"all,!capable":                   {count: all - 1, has: "file_open"},
		"v3":                             {count: v3, has: "capset"},
		"v3,file_truncate":               {count: v3 + 1, has: "file_truncate"},
		"file_truncate,v3,!capable":      {count: v3, has: "file_truncate"},
		"!capable,!file_open":            {count: v3 - 2, has: "task_kill"},
		"!capable,capable":               {count: v3, has: "capable"},
		"!capable,all":                   {count: all, has: "capable"},
		"":                               {err: `"" is no type of event; one of task_kill `},
		"file_open,":                     {err: `"" is no type`},
		"file_open, capable":             {err: `" capable" is no type`},
		"!all":                           {err: `"!all": behind ! stands one type, of task_kill `},
		"file_open,!v3":                  {err: `"!v3": behind ! stands one type`},
		"file_open,bprm_committed_creds": {err: `"bprm_committed_creds" is no type`},
		"capable,!capable":               {err: "it leaves no type of event"},
	} {
		hooks, err := ParseHooks(list)
		if want.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), want.err) {
				t.Errorf("%q: %v, want %s", list, err, want.err)
			}
			continue
		}
		hook, _ := Lookup(want.has)
		if err != nil || len(hooks) != want.count || !slices.Contains(hooks, hook) || !slices.IsSorted(hooks) {
			t.Errorf("%q: %v, %v", list, hooks, err)
		}
	}
}

// FuzzParseHooks: whatever is accepted means the same when it is written out.
func FuzzParseHooks(f *testing.F) {
	f.Add("all,!capable")
	f.Add("v3,file_truncate")
	f.Add("file_open,,")
	f.Fuzz(func(t *testing.T, list string) {
		hooks, err := ParseHooks(list)
		if err != nil {
			return
		}
		var names []string
		for _, hook := range hooks {
			names = append(names, hook.String())
		}
		if again, err := ParseHooks(strings.Join(names, ",")); err != nil || !slices.Equal(again, hooks) {
			t.Errorf("%q: %v, then %v, %v", list, hooks, again, err)
		}
	})
}
