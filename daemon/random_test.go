// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/tsemfs"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// model is a host with what the rules of the control plane say of it: sections 4.1 to 4.6 as 0.1 has them, and what the
// documentation of the package says. It never looks at the Plane, but compares with it after each operation.
type model struct {
	*host
	choices []byte // what is done follows from these bytes alone
	done    []string

	init    *player
	players []*player // who lives
	waited  []*player // who has ever waited, the last ones of them
	homes   []*home
	opened  []*descriptor
	pid     uint32 // the last one
	number  uint64 // of the last event
}

// player is a process of one thread.
type player struct {
	pid    uint32
	parent *player
	admin  bool
	in     *home // nil: not modeled

	waits    *home // in which it has waited; nil: never
	latest   uint64
	released bool // from the latest event
	owed     int  // releases of events before the latest, whose deadlines have passed
}

// tnum returns the task number.
func (p *player) tnum() uint64 { return 1000 + uint64(p.pid) }

// known says whether anything is known of it in the control plane.
func (p *player) known() bool { return p.waits != nil && p.waits.orchestrator != nil && !p.waits.gone }

// home is a namespace.
type home struct {
	*space
	orchestrator *player // nil: it has ended
	successor    bool    // that is not the first one
	external     bool
	key          string
	inside       int
	sealed       bool
	records      []string
	over, gone   bool // nobody is inside any more; nor is anything left
	changes      int  // of what a poll says: records that came, and that it is over
	queue        weak.Pointer[tsemfs.Queue]
	decided      []string
}

// descriptor is an open file, which whoever inherited it may use.
type descriptor struct {
	fuse.Handle
	content string // of a file whose content does not change
	of      *home  // whose records are read; nil: nobody's
	record  string // the last one
	armed   bool   // somebody has polled, and is to be woken by the next change
	seen    int    // changes until then
	wakes   atomic.Int64
	wants   int64 // how often it should have been woken
}

// choose returns a number below n.
func (m *model) choose(n int) int {
	if len(m.choices) == 0 {
		return 0
	}
	choice := m.choices[0]
	m.choices = m.choices[1:]
	return int(choice) % n
}

// oneOf chooses among some; the zero value if there are none.
func oneOf[T any](m *model, all []T) (one T) {
	if len(all) > 0 {
		one = all[m.choose(len(all))]
	}
	return one
}

// fail ends the test, and says what was done last.
func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\nafter %s", fmt.Sprintf(format, args...), strings.Join(m.done[max(0, len(m.done)-30):], "\n      "))
}

// same compares an errno with the one that the rules allow.
func (m *model) same(err error, want unix.Errno, format string, args ...any) {
	m.t.Helper()
	got, _ := errors.AsType[unix.Errno](err)
	m.done = append(m.done, fmt.Sprintf(format, args...)+": "+unix.ErrnoName(want))
	if got != want || (err == nil) != (want == 0) {
		m.fail("%v, want %v", err, want)
	}
}

// orchestrated returns the namespaces that a player orchestrates, oldest first.
func (m *model) orchestrated(by *player) (all []*home) {
	for _, h := range m.homes {
		if !h.gone && h.orchestrator == by {
			all = append(all, h)
		}
	}
	return all
}

// id returns what a player reads in that file.
func (m *model) id(by *player) (string, unix.Errno) {
	mine := m.orchestrated(by)
	switch {
	case by.in != nil && by.in.sealed:
		return "", unix.EACCES
	case by.in != nil:
		return fmt.Sprintln(by.in.id), 0
	case len(mine) == 0:
		return "", unix.ENOENT
	}
	return fmt.Sprintln(mine[len(mine)-1].id), 0
}

func (m *model) open(by *player) {
	path, flags := []string{oneOf(m, []string{"control", "id", "aggregate", "external_tma", "README"})}, uint32(m.choose(3))
	d := new(descriptor)
	var want unix.Errno
	if !by.admin {
		want = unix.EACCES
	}
	switch path[0] {
	case "control":
		if flags != unix.O_WRONLY {
			want = unix.EACCES
		}
	case "id":
		d.content, want = m.id(by)
	case "aggregate":
		if d.content, want = strings.Repeat("07", 32)+"\n", 0; by.in != nil {
			want = unix.EACCES
		}
	case "external_tma":
		id := uint64(4711)
		if h := oneOf(m, m.homes[max(0, len(m.homes)-4):]); h != nil {
			id, d.of = h.id, h
		}
		if path = append(path, fmt.Sprint(id)); d.of == nil || d.of.gone {
			want = unix.ENOENT
		}
	default:
		d.content, want = string(m.host.open(by.pid, 0, "README").(fuse.Content)), 0
	}
	var err error
	d.Handle, err = m.tryOpen(by.pid, flags, path...)
	m.same(err, want, "%d opens %v with %d", by.pid, path, flags)
	if err == nil {
		m.opened = append(m.opened, d)
	}
}

// descriptors returns those of one kind.
func descriptors[T fuse.Handle](m *model) (all []*descriptor) {
	for _, d := range m.opened {
		if _, ok := d.Handle.(T); ok {
			all = append(all, d)
		}
	}
	return all
}

func (m *model) read() {
	d := oneOf(m, descriptors[fuse.Reader](m))
	if d == nil {
		return
	}
	offset, size := oneOf(m, []int{0, 0, 0, 1, 7, 4095, 1 << 40}), oneOf(m, []int{1, 5, 1536, 4096, 1 << 20})
	content, want := d.content, unix.Errno(0)
	if d.of != nil {
		if offset == 0 {
			if d.record = ""; len(d.of.records) == 0 {
				want = unix.ENODATA
			} else {
				d.record, d.of.records = d.of.records[0], d.of.records[1:]
			}
		}
		content = d.record
	}
	content = content[min(offset, len(content)):]
	content = content[:min(size, len(content))]
	got, err := d.Handle.(fuse.Reader).Read(uint64(offset), uint32(size))
	m.same(err, want, "a read of %d at %d", size, offset)
	if string(got) != content {
		m.fail("read %.40q, want %.40q", got, content)
	}
}

func (m *model) poll() {
	d := oneOf(m, descriptors[fuse.Poller](m))
	if d == nil {
		return
	}
	var want uint32
	switch {
	case len(d.of.records) > 0:
		want = unix.POLLIN | fuse.PollReadNormal
	case d.of.over:
		want = unix.POLLHUP
	}
	d.armed, d.seen = true, d.of.changes
	m.done = append(m.done, fmt.Sprintf("a poll of %d", d.of.id))
	if got := d.Handle.(fuse.Poller).Poll(func() { d.wakes.Add(1) }); got != want {
		m.fail("polled %#x, want %#x", got, want)
	}
}

func (m *model) close() {
	if d := oneOf(m, m.opened); d != nil {
		d.Close()
		m.opened = slices.DeleteFunc(m.opened, func(other *descriptor) bool { return other == d })
		m.done = append(m.done, "a descriptor is closed")
	}
}

// fork makes a child, which has all that its parent has.
func (m *model) fork(parent *player) {
	const most = 12
	if len(m.players) == most {
		return
	}
	m.pid++
	child := &player{pid: m.pid, parent: parent, admin: true}
	m.spawn(child.pid, parent.pid)
	m.grant(child, parent.admin)
	if child.in = parent.in; child.in != nil {
		m.processes[child.pid].Namespace = child.in.id
		child.in.inside++
		child.in.add(1)
	}
	m.players = append(m.players, child)
	m.done = append(m.done, fmt.Sprintf("%d forks %d", parent.pid, child.pid))
}

// grant gives a player CAP_MAC_ADMIN, or takes it away.
func (m *model) grant(p *player, admin bool) {
	p.admin, m.processes[p.pid].MacAdmin = admin, 0
	if admin {
		m.processes[p.pid].MacAdmin = 1
	}
}

// exit ends a player. Its children are those of the first process from then on.
func (m *model) exit(p *player) {
	if p == m.init {
		return
	}
	m.done = append(m.done, fmt.Sprintf("%d exits", p.pid))
	m.players = slices.DeleteFunc(m.players, func(other *player) bool { return other == p })
	for _, other := range m.players {
		if other.parent == p {
			other.parent, m.processes[other.pid].Parent = m.init, m.init.pid
		}
	}
	for _, h := range m.orchestrated(p) {
		h.orchestrator = nil
		m.decideClosed(h)
	}
	if p.in != nil {
		p.in.inside--
		p.in.add(-1)
	}
	close(m.processes[p.pid].end)
	delete(m.processes, p.pid)
}

// decideClosed notes that nobody judges any more.
func (m *model) decideClosed(h *home) {
	for _, w := range m.waited {
		if w.waits == h && !w.released {
			h.decide(w, verdict.Closed)
		}
	}
}

// decide notes that a task is to be decided about.
func (h *home) decide(p *player, v verdict.Verdict) {
	p.released = true
	h.decided = append(h.decided, fmt.Sprintf("%d.%d %v", p.pid, p.latest, v))
}

// write lets a player write a command, whoever opened the file, and expects that the reason of an error is said.
func (m *model) write(by *player, command string, want unix.Errno) {
	d := oneOf(m, descriptors[fuse.Writer](m))
	if d == nil {
		d = &descriptor{Handle: m.host.open(m.init.pid, unix.O_WRONLY, "control")}
		m.opened = append(m.opened, d)
	}
	if len(command) > control.MaxCommand {
		want = unix.EINVAL
	}
	m.said.Reset()
	m.same(d.Handle.(fuse.Writer).Write(by.pid, []byte(command)), want, "%d writes %.130q", by.pid, command)
	said := m.said.String()
	if refused := strings.Contains(said, fmt.Sprintf("thread %d wrote to control: ", by.pid)); refused != (want != 0) {
		m.fail("said %q", said)
	}
	if _, key, ok := strings.Cut(strings.TrimSpace(command), "key="); ok && len(key) > 1 && strings.Contains(said, key) {
		m.fail("said the key: %q", said)
	}
}

// keyOf returns a key, for which there are few choices, so that two namespaces may have the same.
func keyOf(choice int) string { return strings.Repeat(fmt.Sprint(choice), 64) }

func (m *model) create(by *player) {
	h := &home{orchestrator: by.parent, inside: 1}
	kind := oneOf(m, []string{"external", "external", "external", "external", "export", "internal"})
	h.external = kind == "external"
	command := kind + oneOf(m, []string{"", " nsref=current", " nsref=initial model=x"}) + oneOf(m, []string{"", "", " cache=200"})
	var want unix.Errno
	switch m.choose(8) {
	case 0, 1:
		if h.key = keyOf(m.choose(3)); h.external {
			command += " key=" + h.key
		}
	case 2:
		command, want = command+oneOf(m, []string{" key=0", " cache=0", " digest=md5", " pid=1", " nsref=here", " "}), unix.EINVAL
		if kind != "external" && strings.Contains(command, " key=") {
			want = 0 // as in TSEM, of which nobody takes a key then
		}
	}
	switch {
	case want != 0:
	case by.in != nil:
		want = unix.EPERM
	case kind == "internal":
		want = unix.EOPNOTSUPP
	case by.parent == nil:
		want = unix.ESRCH
	}
	m.write(by, command+"\n", want)
	if want == 0 {
		h.space = m.namespaces[len(m.namespaces)-1]
		by.in, m.homes, h.queue = h, append(m.homes, h), weak.Make(m.Records(h.id))
	}
}

// change lets a player enforce or seal its namespace, or that which it orchestrates.
func (m *model) change(by *player) {
	mine, h := m.orchestrated(by), by.in
	if h == nil && len(mine) > 0 {
		h = mine[len(mine)-1]
	}
	var want unix.Errno
	switch {
	case h == nil:
		want = unix.EINVAL
	case h.sealed:
		want = unix.EPERM
	}
	command := oneOf(m, []string{"enforce", "enforce", "seal"})
	m.write(by, command+"\n", want)
	if want == 0 && command == "seal" {
		h.sealed = true
	}
}

// takeOver lets a player take a namespace over, or try to.
func (m *model) takeOver(by *player) {
	h := oneOf(m, m.homes[max(0, len(m.homes)-4):])
	if left := slices.DeleteFunc(slices.Clone(m.homes), func(h *home) bool { return h.gone || h.orchestrator != nil }); len(left) > 0 && m.choose(4) > 0 {
		h = oneOf(m, left)
	}
	if h == nil {
		return
	}
	if m.choose(4) > 0 {
		by = oneOf(m, slices.DeleteFunc(slices.Clone(m.players), func(p *player) bool { return p.in != nil || !p.admin }))
	}
	if by == nil {
		return
	}
	key := h.key
	switch m.choose(8) {
	case 0:
		key = keyOf(m.choose(4))
	case 1:
		key = ""
	}
	var want unix.Errno
	switch {
	case by.in != nil || !by.admin:
		want = unix.EPERM
	case h.gone:
		want = unix.ENOENT
	case !h.external:
		want = unix.EINVAL
	case h.over:
		want = unix.EIO
	case h.key != key:
		want = unix.EINVAL
	case h.orchestrator != nil:
		want = unix.EBUSY
	}
	command := fmt.Sprintf("takeover id=%d", h.id)
	if key != "" {
		command += " key=" + key
	}
	m.write(by, command+"\n", want)
	if want == 0 {
		h.orchestrator, h.successor = by, true
		m.waited = slices.DeleteFunc(m.waited, func(p *player) bool {
			if p.waits != h {
				return false
			}
			p.waits, p.owed = nil, 0
			return true
		})
	}
}

// raise lets somebody in a namespace do something. If it waits already, its deadline has passed.
func (m *model) raise() {
	p := oneOf(m, slices.DeleteFunc(slices.Clone(m.players), func(p *player) bool { return p.in == nil }))
	if p == nil {
		return
	}
	h := p.in
	m.number++
	m.done = append(m.done, fmt.Sprintf("event %d of %d in %d", m.number, p.pid, h.id))
	record := fmt.Sprintf("%d %s\n", m.number, strings.Repeat("x", oneOf(m, []int{0, 10, 2000, 4000})))
	h.records = append(h.records, record)
	h.changes++
	want := verdict.None
	switch {
	case !h.external:
	case h.orchestrator == nil:
		want = verdict.Closed
	default:
		if p.waits != nil && !p.released {
			p.owed++
		}
		p.waits, p.latest, p.released = h, m.number, false
		if !slices.Contains(m.waited, p) {
			m.waited = append(m.waited[max(0, len(m.waited)-20):], p)
		}
	}
	if h.external {
		if got := h.event(p.pid, p.tnum(), m.number, m.number); got != want {
			m.fail("judged %v, want %v", got, want)
		}
	}
	h.space.records <- record
}

// release lets a player release a task, or try to.
func (m *model) release(by *player) {
	target, other := oneOf(m, m.waited), oneOf(m, m.players)
	if target == nil {
		return
	}
	waiting := slices.DeleteFunc(slices.Clone(m.waited), func(p *player) bool { return p.released || !p.known() })
	if len(waiting) > 0 && m.choose(4) > 0 {
		if target = oneOf(m, waiting); m.choose(4) > 0 {
			by = target.waits.orchestrator
		}
	}
	pid, tnum, number, key := target.pid, target.tnum(), uint64(0), ""
	if key = target.waits.key; key != "" && m.choose(2) == 0 {
		tnum = 0 // as clients of TSEM v3 do
	}
	if target.waits.successor {
		number = target.latest
	}
	switch m.choose(16) { // some of which change nothing
	case 0:
		pid = other.pid
	case 1:
		tnum = other.tnum()
	case 2:
		tnum = 0
	case 3:
		key = keyOf(m.choose(4))
	case 4:
		key = ""
	case 5:
		key = oneOf(m, []string{"0", "00", "0g"})
	case 6:
		number = target.latest
	case 7:
		number = oneOf(m, []uint64{target.latest - 1, 1 << 63})
	}
	v := oneOf(m, []verdict.Verdict{verdict.Trusted, verdict.Untrusted})
	command := fmt.Sprintf("%v pid=%d", v, pid)
	for name, value := range map[string]uint64{"tnum": tnum, "number": number} {
		if value != 0 {
			command += fmt.Sprintf(" %s=%d", name, value)
		}
	}
	if key != "" {
		command += " key=" + key
	}
	command += "\n"

	// Whom it names: of a task without any number it is the pid that says so.
	var named *player
	for _, p := range m.waited {
		if p.known() && (tnum == p.tnum() || tnum == 0 && pid == p.pid) {
			named = p
		}
	}
	external := slices.ContainsFunc(m.orchestrated(by), func(h *home) bool { return h.external })
	var want unix.Errno
	decides := false
	switch {
	case tnum == 0 && key == "" || key == "0" || key == "0g":
		want = unix.EINVAL // no command
	case named == nil: // gone
	case !external, named.waits.orchestrator != by:
		want = unix.EINVAL
	case named.waits.successor && (tnum == 0 || number == 0):
		want = unix.EINVAL
	case named.waits.key != key && !(named.waits.successor && key == ""), key == "" && tnum == 0:
		want = unix.EINVAL
	case number != 0 && number != named.latest: // of an event that is over
	case number == 0 && named.owed > 0:
		named.owed--
	case named.released: // late
	case pid != named.pid:
		want = unix.EINVAL
	default:
		decides = true
	}
	m.write(by, command, want)
	if decides {
		named.waits.decide(named, v)
	}
}

// nonsense lets a player write what is no command most often.
func (m *model) nonsense(by *player) {
	b := make([]byte, m.choose(140))
	for i := range b {
		b[i] = byte(m.choose(256))
	}
	if _, err := control.Parse(b); err == nil {
		return
	}
	m.write(by, string(b), unix.EINVAL)
}

// compare lets time pass, until all that follows from an operation has happened, and compares.
func (m *model) compare() {
	time.Sleep(2 * lookEvery)
	synctest.Wait()
	var left []uint64
	for _, h := range m.homes {
		if !h.gone {
			if !h.over && h.inside == 0 {
				h.over = true
				h.changes++
			}
			if h.gone = h.over && (len(h.records) == 0 || h.orchestrator == nil); h.gone {
				m.decideClosed(h) // about who has ended while it waited
			}
		}
		if !h.gone {
			left = append(left, h.id)
		}
		slices.Sort(h.decided)
		slices.Sort(h.space.decided)
		if !slices.Equal(h.space.decided, h.decided) || h.closed.Load() != h.gone || h.space.sealed.Load() != h.sealed {
			m.fail("namespace %d: decided %v, closed %v, sealed %v; want %v, %v, %v",
				h.id, h.space.decided, h.closed.Load(), h.space.sealed.Load(), h.decided, h.gone, h.sealed)
		}
		h.decided, h.space.decided = nil, nil
	}
	all := m.Plane.Namespaces()
	if slices.Sort(all); !slices.Equal(all, left) {
		m.fail("namespaces %d, want %d", all, left)
	}
	for _, d := range m.opened {
		if d.armed && d.of.changes > d.seen {
			d.armed = false
			d.wants++
		}
		if d.wakes.Load() != d.wants {
			m.fail("a poll of %d was woken %d times, want %d", d.of.id, d.wakes.Load(), d.wants)
		}
	}
}

// nothingHeld expects that no memory is held of namespaces that are gone.
func (m *model) nothingHeld() {
	m.compare()
	runtime.GC()
	for _, h := range m.homes {
		if h.gone && h.queue.Value() != nil {
			m.fail("the records of namespace %d are still held", h.id)
		}
	}
}

// FuzzPlane does random operations on the files: as orchestrators, their workloads and strangers do them, rightly and
// wrongly, with descriptors of their own and inherited ones. No task is released but by its orchestrator, with the
// right key or task number, every errno is the one that the rules say, and nothing is left in the end. The seeds are
// more than 10,000 operations.
func FuzzPlane(f *testing.F) {
	for seed := range uint8(40) {
		choices := make([]byte, 2000)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(choices)
		f.Add(choices)
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{host: newHost(t), choices: choices, init: &player{pid: 1, admin: true}, players: make([]*player, 1), pid: 1}
			defer m.Close() // also after a failure
			m.players[0] = m.init
			m.spawn(1, 0)
			for range 4 {
				m.fork(m.init)
			}
			operations := 0
			for ; len(m.choices) > 0; operations++ {
				m.operation(oneOf(m, m.players))
				m.compare()
			}
			t.Logf("%d operations, %d namespaces", operations, len(m.homes))
			for len(m.opened) > 0 {
				m.close()
			}
			for len(m.players) > 1 {
				m.exit(m.players[1])
			}
			m.nothingHeld()
			m.Close()
			m.wantGone()
		})
	})
}

// operation does one, most often what happens most often.
func (m *model) operation(by *player) {
	switch choice := m.choose(68); {
	case choice < 6:
		m.open(by)
	case choice < 15:
		m.read()
	case choice < 18:
		m.poll()
	case choice < 20:
		m.close()
	case choice < 25:
		m.fork(by)
	case choice < 30:
		m.create(by)
	case choice < 32:
		m.change(by)
	case choice < 44:
		m.raise()
	case choice < 58:
		m.release(by)
	case choice < 61:
		m.exit(by)
	case choice < 63:
		m.nonsense(by)
	case choice < 67:
		m.takeOver(by)
	case by != m.init:
		m.grant(by, !by.admin)
	}
}
