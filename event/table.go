// SPDX-License-Identifier: Apache-2.0

package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind is the kind of a record.
type Kind uint8

// Kinds of records (enum tsem_kind in bpf/record.h).
const (
	KindEvent Kind = 1 // of a hook that may sleep: "event"
	KindAsync Kind = 2 // of a hook that cannot: "async_event"
	KindExec  Kind = 3 // a task got a new TASK_ID; bookkeeping, never written
	KindLog   Kind = 4 // of an untrusted task, happens all the same: "log", action LOG
	KindDeny  Kind = 5 // of an untrusted task, refused: "log", action DENY
)

// Hook is an LSM hook, and the type of its events: the index of the type in TSEM's
// own table (security/tsem/tsem.h of TSEM v3), never reused. From firstLater on it is an
// ordinal of this project.
type Hook uint16

// firstLater is the first hook of those that TSEM v3 has no events of: from here on are those of
// later versions, whose own indices differ from version to version and are never exported
// (docs/spec/json-events.md, section 7).
const firstLater Hook = 88

// HookExec is the hook of the exec bookkeeping record.
const HookExec Hook = 1

// A row of the event table.
type row struct {
	hook    Hook
	name    string
	kind    Kind // as TSEM has it; what a record is, its header says
	members []member
}

// A member of the object of an event.
type member struct {
	name  string
	shape *shape
}

// table is the one list of events, in the order of their ordinals. It says the same
// as bpf/hooks.h and the specification; a test holds them together.
var table = []row{
	{HookExec, "bprm_committed_creds", KindExec, []member{{"file", file}}},
	{2, "task_kill", KindAsync, []member{{"target", taskID}, {"sig", u32}, {"cross_ns", u32}}},
	{3, "task_setpgid", KindAsync, []member{{"task", wideTaskID}, {"source", wideTaskID}}},
	{4, "task_getpgid", KindAsync, []member{{"task", taskID}}},
	{5, "task_getsid", KindAsync, []member{{"task", taskID}}},
	{6, "task_setnice", KindAsync, []member{{"task", wideTaskID}, {"nice", s32}}},
	{7, "task_setioprio", KindEvent, []member{{"task", wideTaskID}, {"ioprio", s32}}},
	{8, "task_getioprio", KindEvent, []member{{"task", taskID}}},
	{9, "task_prlimit", KindAsync, []member{{"cred", creds}, {"tcred", creds}, {"flags", s32}}},
	{10, "task_setrlimit", KindAsync, []member{{"task", taskID}, {"new_rlim", rlimit}}},
	{11, "task_setscheduler", KindAsync, []member{{"task", taskID}}},
	{12, "task_getscheduler", KindAsync, []member{{"task", taskID}}},
	{13, "task_prctl", KindAsync, []member{{"option", prctlOption}, {"arg2", prctlArg2}, {"arg3", u64}, {"arg4", u64}, {"arg5", u64}}},
	{14, "file_open", KindEvent, []member{{"file", file}}},
	{15, "mmap_file", KindEvent, []member{{"file", optionalFile}, {"prot", u32}, {"flags", u32}}},
	{16, "file_ioctl", KindEvent, []member{{"file", file}, {"cmd", u32}}},
	{17, "file_lock", KindEvent, []member{{"file", file}, {"cmd", u32}}},
	{18, "file_fcntl", KindEvent, []member{{"file", file}, {"cmd", u32}}},
	{19, "file_receive", KindEvent, []member{{"file", file}}},
	{20, "unix_stream_connect", KindAsync, []member{{"sock", sock}, {"other", sock}}},
	{21, "unix_may_send", KindAsync, []member{{"sock", sock}, {"other", sock}}},
	{22, "socket_create", KindEvent, []member{{"family", u32}, {"type", u32}, {"protocol", u32}, {"kern", u32}}},
	{23, "socket_connect", KindEvent, []member{{"sock", sock}, {"addr", address}}},
	{24, "socket_bind", KindEvent, []member{{"sock", sock}, {"addr", address}}},
	{25, "socket_accept", KindEvent, []member{{"sock", sock}, {"addr", localAddress}}},
	{26, "socket_listen", KindEvent, []member{{"sock", sock}, {"backlog", s32}}},
	{27, "socket_socketpair", KindEvent, []member{{"socka", sock}, {"sockb", sock}}},
	{28, "socket_sendmsg", KindEvent, []member{{"sock", sock}, {"addr", messageAddress}}},
	{29, "socket_recvmsg", KindEvent, []member{{"sock", sock}, {"addr", messageAddress}}},
	{30, "socket_getsockname", KindEvent, []member{{"sock", sock}}},
	{31, "socket_getpeername", KindEvent, []member{{"sock", sock}}},
	{32, "socket_setsockopt", KindEvent, []member{{"sock", sock}, {"level", s32}, {"optname", s32}}},
	{33, "socket_shutdown", KindEvent, []member{{"sock", sock}, {"how", s32}}},
	{34, "ptrace_traceme", KindAsync, []member{{"source", taskID}}},
	{35, "kernel_module_request", KindEvent, []member{{"kmod_name", text}}},
	{36, "kernel_load_data", KindEvent, []member{{"id", s32}, {"contents", s32}}},
	{37, "kernel_read_file", KindEvent, []member{{"file", file}, {"id", s32}, {"contents", s32}}},
	{38, "sb_mount", KindEvent, []member{{"dev_name", optionalText}, {"path", path}, {"type", optionalText}, {"flags", u64}}},
	{39, "sb_umount", KindEvent, []member{{"mnt", dentry}, {"flags", s32}}},
	{40, "sb_remount", KindEvent, []member{{"sb", superblock}}},
	{41, "sb_pivotroot", KindEvent, []member{{"old_path", path}, {"new_path", path}}},
	{42, "sb_statfs", KindEvent, []member{{"dentry", dentry}}},
	{43, "move_mount", KindEvent, []member{{"from_path", path}, {"to_path", path}}},
	{44, "shm_associate", KindAsync, []member{{"perm", ipc}, {"shmflg", s32}}},
	{45, "shm_shmctl", KindAsync, []member{{"perm", ipc}, {"cmd", s32}}},
	{46, "shm_shmat", KindAsync, []member{{"perm", ipc}, {"shmflg", s32}}},
	{47, "sem_associate", KindAsync, []member{{"perm", ipc}, {"semflg", s32}}},
	{48, "sem_semctl", KindAsync, []member{{"perm", ipc}, {"cmd", s32}}},
	{49, "sem_semop", KindAsync, []member{{"perm", ipc}, {"nsops", u32}, {"alter", s32}}},
	{50, "syslog", KindEvent, []member{{"type", s32}}},
	{51, "settime", KindEvent, []member{{"ts", timeSpec}, {"tz", timeZone}}},
	{52, "quotactl", KindEvent, []member{{"cmds", s32}, {"type", s32}, {"id", s32}, {"sb", quotaSuperblock}}},
	{53, "quota_on", KindEvent, []member{{"dentry", dentry}}},
	{54, "msg_queue_associate", KindAsync, []member{{"perm", ipc}, {"msqflg", s32}}},
	{55, "msg_queue_msgctl", KindAsync, []member{{"perm", ipc}, {"cmd", s32}}},
	{56, "msg_queue_msgsnd", KindAsync, []member{{"perm", ipc}, {"msqflg", s32}}},
	{57, "msg_queue_msgrcv", KindAsync, []member{{"perm", ipc}, {"target", taskID}, {"type", s64}, {"mode", s32}}},
	{58, "ipc_permission", KindAsync, []member{{"ipcp", ipc}, {"flag", u16}}},
	{59, "key_alloc", KindEvent, []member{{"cred", creds}, {"flags", u64}}},
	{60, "key_permission", KindAsync, []member{{"key_ref", key}, {"cred", creds}, {"perm", u32}}},
	{61, "netlink_send", KindEvent, []member{{"sock", sock}, {"uid", u32}, {"gid", u32}, {"portid", u32},
		{"dst_group", u32}, {"flags", u32}, {"nsid_set", nsidSet}, {"nsid", nsid}}},
	{62, "inode_create", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"mode", octal}}},
	{63, "inode_link", KindEvent, []member{{"old_dentry", dentry}, {"dir", inode}, {"new_dentry", dentry}}},
	{64, "inode_unlink", KindEvent, []member{{"dir", inode}, {"dentry", dentry}}},
	{65, "inode_symlink", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"old_name", text}}},
	{66, "inode_mkdir", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"mode", octal}}},
	{67, "inode_rmdir", KindEvent, []member{{"dir", inode}, {"dentry", dentry}}},
	{68, "inode_mknod", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"mode", octal}, {"dev", device}}},
	{69, "inode_rename", KindEvent, []member{{"old_dir", inode}, {"old_dentry", dentry}, {"new_dir", inode}, {"new_dentry", dentry}}},
	{70, "inode_setattr", KindEvent, []member{{"dentry", dentry}, {"attr", attributes}}},
	{71, "inode_getattr", KindEvent, []member{{"path", dentry}}},
	{72, "inode_setxattr", KindEvent, []member{{"dentry", dentry}, {"name", text}, {"value", base64}, {"flags", s32}}},
	{73, "inode_getxattr", KindEvent, []member{{"dentry", dentry}, {"name", text}}},
	{74, "inode_listxattr", KindEvent, []member{{"dentry", dentry}}},
	{75, "inode_removexattr", KindEvent, []member{{"dentry", dentry}, {"name", text}}},
	{76, "inode_killpriv", KindEvent, []member{{"dentry", dentry}}},
	{77, "tun_dev_create", KindEvent, nil},
	{78, "tun_dev_attach_queue", KindEvent, nil},
	{79, "tun_dev_attach", KindEvent, []member{{"sock", sock}}},
	{80, "tun_dev_open", KindEvent, nil},
	{81, "bpf", KindEvent, []member{{"cmd", s32}, {"attr", bpfAttributes}}},
	{82, "bpf_map", KindEvent, []member{{"map", mapType}, {"fmode", u32}}},
	{83, "bpf_prog", KindEvent, []member{{"prog", bpfProgram}}},
	{84, "ptrace_access_check", KindAsync, []member{{"child", taskID}, {"mode", spacedU32}}},
	{85, "capable", KindAsync, []member{{"cap", s32}, {"opts", u32}}},
	{86, "capget", KindAsync, []member{{"target", taskID}, {"effective", hex64}, {"inheritable", hex64}, {"permitted", hex64}}},
	{87, "capset", KindAsync, []member{{"effective", hex64}, {"inheritable", hex64}, {"permitted", hex64}}},
	{88, "file_ioctl_compat", KindEvent, []member{{"file", file}, {"cmd", u32}}},
	{89, "file_truncate", KindEvent, []member{{"file", file}}},
	{90, "bprm_check_security", KindEvent, []member{{"file", file}}},
	{91, "userns_create", KindEvent, []member{{"cred", creds}}},
	{92, "path_truncate", KindEvent, []member{{"path", dentry}}},
	{93, "path_unlink", KindEvent, []member{{"dir", inode}, {"dentry", dentry}}},
	{94, "path_mkdir", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"mode", octal}}},
	{95, "path_rmdir", KindEvent, []member{{"dir", inode}, {"dentry", dentry}}},
	{96, "path_symlink", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"old_name", text}}},
	{97, "path_mknod", KindEvent, []member{{"dir", inode}, {"dentry", dentry}, {"mode", octal}, {"dev", device}}},
	{98, "path_link", KindEvent, []member{{"old_dentry", dentry}, {"dir", inode}, {"new_dentry", dentry}}},
	{99, "path_rename", KindEvent, []member{{"old_dir", inode}, {"old_dentry", dentry}, {"new_dir", inode}, {"new_dentry", dentry}, {"flags", u32}}},
	{100, "cred_prepare", KindEvent, []member{{"cred", creds}}},
	{101, "task_alloc", KindEvent, []member{{"flags", u64}}},
}

// A cellSet is a set of cell types.
type cellSet uint16

func oneOf(types ...cellType) cellSet {
	var s cellSet
	for _, t := range types {
		s |= 1 << t
	}
	return s
}

// A shape is a form of value: the cells it takes, how they are written as JSON, and how
// they are hashed. Names as in section 4 of the specification of the JSON.
type shape struct {
	cells    []cellSet
	optional bool // one absent cell instead: the member is left out
	print    printer
	layout   layout
}

// A printer appends the value whose cells are next.
type printer func(e *Encoder, dst []byte) []byte

// The shapes.
var (
	u16           = &shape{one(cellScalar), false, (*Encoder).u32, (*Mapper).u16}
	u32           = &shape{one(cellScalar), false, (*Encoder).u32, (*Mapper).u32}
	s32           = &shape{one(cellScalar), false, (*Encoder).s32, (*Mapper).u32}
	s64           = &shape{one(cellScalar), false, (*Encoder).s64, (*Mapper).u64}
	u64           = &shape{one(cellScalar), false, (*Encoder).u64, (*Mapper).u64}
	hex64         = &shape{one(cellScalar), false, (*Encoder).hex64, (*Mapper).u64}
	octal         = &shape{one(cellScalar), false, (*Encoder).octal, (*Mapper).u16}
	octal32       = &shape{one(cellScalar), false, (*Encoder).octal, (*Mapper).u32}
	spacedU32     = &shape{one(cellScalar), false, (*Encoder).u32, (*Mapper).u32}
	mapType       = objectOf(member{"map_type", s32})
	bpfAttributes = objectOf(member{"size", u32})
	bpfProgram    = objectOf(member{"type", s32}, member{"attach_type", s32})
	taskID        = &shape{one(cellTask), false, (*Encoder).taskID, (*Mapper).taskID}
	wideTaskID    = &shape{one(cellTask), false, (*Encoder).taskID, (*Mapper).wideTaskID}
	rlimit        = objectOf(member{"resource", u32}, member{"current", u64}, member{"max", u64})
	prctlOption   = &shape{one(cellScalar), false, (*Encoder).s32, (*Mapper).prctlOption}
	prctlArg2     = &shape{one(cellScalar), false, (*Encoder).u64, (*Mapper).hashed}
	inode         = &shape{one(cellInode), false, (*Encoder).inode, (*Mapper).inode}
	path          = &shape{one(cellPath), false, (*Encoder).path, (*Mapper).path}
	dentry        = &shape{[]cellSet{oneOf(cellInode, cellAbsent), oneOf(cellPath)}, false, (*Encoder).dentry, (*Mapper).dentry}
	device        = &shape{one(cellScalar), false, (*Encoder).device, (*Mapper).u32}
	attributes    = objectOf(member{"valid", u32}, member{"mode", octal32}, member{"uid", u32}, member{"gid", u32}, member{"size", u64})
	// Flags of 64 bits, of which quotactl writes half.
	narrow          = &shape{one(cellScalar), false, (*Encoder).s32, (*Mapper).u64}
	superblock      = objectOf(member{"dentry", dentry}, member{"fstype", text}, member{"s_flags", u64})
	quotaSuperblock = objectOf(member{"dentry", dentry}, member{"fstype", text}, member{"s_flags", narrow})
	file            = &shape{fileCells, false, (*Encoder).file, (*Mapper).file}
	optionalFile    = &shape{fileCells, true, (*Encoder).file, (*Mapper).file}
	sock            = &shape{one(cellSock), false, (*Encoder).sock, (*Mapper).sock}
	address         = &shape{one(cellAddr), false, (*Encoder).address, (*Mapper).address}
	localAddress    = &shape{one(cellAddr), false, (*Encoder).localAddress, (*Mapper).localAddress}
	messageAddress  = &shape{one(cellAddr), true, (*Encoder).messageAddress, (*Mapper).messageAddress}
	ipc             = &shape{one(cellIPC), false, (*Encoder).ipc, (*Mapper).ipc}
	creds           = &shape{one(cellCreds), false, (*Encoder).credentials, (*Mapper).credentials}
	text            = &shape{one(cellText), false, (*Encoder).text, (*Mapper).text}
	optionalText    = &shape{one(cellText), true, (*Encoder).text, (*Mapper).text}
	key             = objectOf(member{"possessed", u32}, member{"uid", u32}, member{"gid", u32}, member{"flags", u64})
	timeSpec        = optional(objectOf(member{"seconds", s64}, member{"nsecs", s64}))
	timeZone        = optional(objectOf(member{"minuteswest", s32}, member{"dsttime", s32}))
	nsidSet         = &shape{one(cellScalar), false, (*Encoder).u32, (*Mapper).nsidSet}
	nsid            = &shape{one(cellScalar), false, (*Encoder).s32, (*Mapper).hashed}
	base64          = &shape{one(cellBytes), false, (*Encoder).base64, (*Mapper).bytes}

	fileCells = []cellSet{oneOf(cellFile), oneOf(cellInode), oneOf(cellPath)}
)

// objectOf returns the shape of an object that has members with shapes of their own.
func objectOf(members ...member) *shape {
	s := &shape{
		print: func(e *Encoder, dst []byte) []byte {
			return append(e.members(append(dst, '{'), members), '}')
		},
		layout: func(m *Mapper, b []byte) []byte { return m.members(b, members) },
	}
	for _, m := range members {
		s.cells = append(s.cells, m.shape.cells...)
	}
	return s
}

// optional makes a shape one that may be missing.
func optional(s *shape) *shape {
	s.optional = true
	return s
}

func one(t cellType) []cellSet { return []cellSet{oneOf(t)} }

// hooksMax is one more than the highest hook that there can be (TSEM_HOOK_MAX in bpf/record.h).
const hooksMax = 128

// The rows of the table, by hook and by name.
var rows, rowByName = index()

func index() (byHook [hooksMax]*row, byName map[string]*row) {
	byName = make(map[string]*row)
	for i := range table {
		r := &table[i]
		byHook[r.hook], byName[r.name] = r, r
	}
	return byHook, byName
}

// Hooks returns the hooks that have events, in the order of their ordinals.
func Hooks() []Hook {
	var hooks []Hook
	for _, r := range table {
		if r.kind != KindExec {
			hooks = append(hooks, r.hook)
		}
	}
	return hooks
}

// V3Hooks returns the hooks that TSEM v3 has events of, in the order of their ordinals: what is
// raised where nobody chooses. Clients of TSEM may die of a type that they do not know
// (docs/spec/json-events.md, section 7).
func V3Hooks() []Hook {
	return slices.DeleteFunc(Hooks(), func(hook Hook) bool { return hook >= firstLater })
}

// Sets of event types, by the words that stand for them in a list.
var sets = map[string]func() []Hook{"v3": V3Hooks, "all": Hooks}

// ParseHooks returns the event types of a list like "file_open,socket_connect" or
// "all,!capable": each name adds one, "v3" adds those of TSEM v3, "all" all, and a name behind "!"
// takes one away. A list that begins with "!" begins with v3, which is the default of all who take
// a list. The error names the word and the rule; a list that leaves none is one, too.
func ParseHooks(list string) ([]Hook, error) {
	chosen := make(map[Hook]bool)
	add := func(hooks []Hook) {
		for _, hook := range hooks {
			chosen[hook] = true
		}
	}
	if strings.HasPrefix(list, "!") {
		add(V3Hooks())
	}
	for word := range strings.SplitSeq(list, ",") {
		if set, ok := sets[word]; ok {
			add(set())
			continue
		}
		name, without := strings.CutPrefix(word, "!")
		if _, set := sets[name]; set {
			return nil, fmt.Errorf("%q: behind ! stands one type, of %s", word, strings.Join(names(), " "))
		}
		hook, ok := Lookup(name)
		if !ok || hook == HookExec {
			return nil, fmt.Errorf("%q is no type of event; one of %s, or v3, or all", name, strings.Join(names(), " "))
		}
		chosen[hook] = !without
	}
	hooks := slices.DeleteFunc(Hooks(), func(hook Hook) bool { return !chosen[hook] })
	if len(hooks) == 0 {
		return nil, errors.New("it leaves no type of event")
	}
	return hooks, nil
}

func names() (names []string) {
	for _, hook := range Hooks() {
		names = append(names, hook.String())
	}
	return names
}

// Lookup returns the hook of a name.
func Lookup(name string) (Hook, bool) {
	r, ok := rowByName[name]
	if !ok {
		return 0, false
	}
	return r.hook, true
}

// String returns the name of the hook, which is the type of its events.
func (h Hook) String() string {
	if r := h.row(); r != nil {
		return r.name
	}
	return fmt.Sprintf("hook %d", uint16(h))
}

func (h Hook) row() *row {
	if int(h) >= len(rows) {
		return nil
	}
	return rows[h]
}
