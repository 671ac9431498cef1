// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/ringbuf"
	"github.com/tsem-bpf/tsem-bpf/tsemfs"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// host is a kernel with processes of one thread each, and the Plane that asks it.
type host struct {
	*Plane
	t *testing.T

	mu         sync.Mutex
	processes  map[uint32]*process
	prepared   []*space // all, those as well that have no id yet
	namespaces []*space // that have begun
	left       []*space // with tasks that are held back
	keptBy     error    // why TakeOver fails
	preparing  time.Duration
	refuses    error         // why Prepare fails
	begins     error         // why the first Begin fails
	enters     error         // why Enter fails
	orphans    bool          // a thread loses its parent while its namespace is made
	closing    time.Duration // how long the end of a namespace takes
	deciding   time.Duration // how long a decision takes
	said       bytes.Buffer
}

type process struct {
	loader.Caller
	end chan struct{}
}

// space is a namespace of such a kernel.
type space struct {
	host     *host
	id       uint64 // 0: it has not begun
	config   namespace.Config
	records  chan string
	fails    chan error
	shut     chan struct{}
	stop     func()
	enforced atomic.Bool
	sealed   atomic.Bool
	held     atomic.Bool // its tasks are held back
	ended    atomic.Bool // by another process
	closed   atomic.Bool
	rounds   atomic.Uint64
	balance  ringbuf.Balance

	orchestrator atomic.Uint32
	keys         [2][]byte

	mu      sync.Mutex
	tasks   uint64
	decided []string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, processes: make(map[uint32]*process)}
	h.Plane = New(h, bytes.Repeat([]byte{7}, 32), time.Minute, h)
	return h
}

// oneWaits makes a host on which process 5 orchestrates a namespace, of its child 10, that waits with its first event.
func oneWaits(t *testing.T) (*host, *space) {
	t.Helper()
	h := newHost(t)
	h.spawn(5, 1)
	h.spawn(10, 5)
	s := h.create(10, "external")
	s.raise(10, 1)
	return h, s
}

// spawn makes a process.
func (h *host) spawn(pid, parent uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes[pid] = &process{loader.Caller{Tgid: pid, Parent: parent, MacAdmin: 1}, make(chan struct{})}
}

func (h *host) Write(line []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.said.Write(line)
}

func (h *host) Caller(tid uint32) (loader.Caller, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.processes[tid]
	if !ok {
		return loader.Caller{}, unix.ESRCH
	}
	return p.Caller, nil
}

func (h *host) Prepare(config namespace.Config) (Namespace, error) {
	time.Sleep(h.preparing)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuses != nil {
		return nil, h.refuses
	}
	s := h.newSpace(config)
	h.prepared = append(h.prepared, s)
	return s, nil
}

func (h *host) newSpace(config namespace.Config) *space {
	s := &space{
		host: h, config: config,
		records: make(chan string), fails: make(chan error), shut: make(chan struct{}),
	}
	s.stop = sync.OnceFunc(func() { close(s.shut) })
	return s
}

func (h *host) Orphans() (orphans []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.left {
		orphans = append(orphans, s.id)
	}
	return orphans
}

// TakeOver takes one of these over. Its tasks are held back until Resume.
func (h *host) TakeOver(id uint64, config namespace.Config) (Namespace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keptBy != nil {
		return nil, h.keptBy
	}
	i := slices.IndexFunc(h.left, func(s *space) bool { return s.id == id })
	before := h.left[i]
	h.left = slices.Delete(h.left, i, i+1)
	config.Digest, config.Orchestrated = before.config.Digest, true // as in the kernel half
	s := h.newSpace(config)
	s.id, s.keys, s.tasks = id, before.keys, before.Tasks()
	s.enforced.Store(true)
	s.sealed.Store(before.sealed.Load())
	s.held.Store(true)
	h.namespaces = append(h.namespaces, s)
	return s, nil
}

// next is the same host when the next Plane comes.
func (h *host) next() {
	h.Plane = New(h, bytes.Repeat([]byte{7}, 32), time.Minute, h)
	h.Inherit()
	synctest.Wait()
}

func (h *host) refuse(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuses = err
}

func (s *space) Begin(hash crypto.Hash, nsrefCurrent bool) (err error) {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if err, h.begins = h.begins, nil; err != nil {
		return err
	}
	h.namespaces = append(h.namespaces, s)
	s.id, s.config.Digest, s.config.NSRefCurrent = uint64(len(h.namespaces)), hash, nsrefCurrent
	if h.orphans {
		for _, p := range h.processes {
			p.Parent = 1
		}
	}
	return nil
}

type closer func()

func (c closer) Close() error { c(); return nil }

func (h *host) Watch(pid uint32) (<-chan struct{}, io.Closer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.processes[pid]
	if !ok {
		return nil, nil, unix.ESRCH
	}
	return p.end, closer(func() {}), nil
}

func (s *space) ID() uint64 { return s.id }

func (s *space) Enter(c loader.Caller) error {
	if s.host.enters != nil {
		return s.host.enters
	}
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	s.host.processes[c.Tgid].Namespace = s.id
	s.add(1)
	return nil
}

func (s *space) add(tasks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks += uint64(tasks)
}

func (s *space) Export(_ context.Context, _ event.Dialect, w io.Writer) error {
	if !slices.Contains(s.host.Plane.Namespaces(), s.id) { // else one that ends at once would be put there when it has ended
		s.host.t.Errorf("namespace %d lives, and is not in the list", s.id)
	}
	for {
		select {
		case line := <-s.records:
			if _, err := io.WriteString(w, line); err != nil {
				return err
			}
		case err := <-s.fails:
			return err
		case <-s.shut:
			return nil
		}
	}
}

func (s *space) Decide(slot uint32, ticket uint64, v verdict.Verdict) (verdict.Outcome, error) {
	time.Sleep(s.host.deciding)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		s.host.t.Errorf("namespace %d is closed, and asked to decide", s.id)
	}
	s.decided = append(s.decided, fmt.Sprintf("%d.%d %v", slot, ticket, v))
	return verdict.Outcome{Won: true}, nil
}

func (s *space) DecideAsync(slot uint32, ticket, _ uint64, v verdict.Verdict) (verdict.Outcome, bool, error) {
	outcome, err := s.Decide(slot, ticket, v)
	return outcome, false, err
}

func (s *space) Enforce() error {
	if s.sealed.Load() {
		return namespace.ErrSealed
	}
	s.enforced.Store(true)
	return nil
}

func (s *space) Seal() error {
	if s.sealed.Swap(true) {
		return namespace.ErrSealed
	}
	return nil
}

func (s *space) Sealed() bool { return s.sealed.Load() }

func (s *space) Tasks() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks
}

func (s *space) Rounds() uint64 { return s.rounds.Load() }
func (s *space) Totals() namespace.Totals {
	return namespace.Totals{Held: s.held.Load(), Balance: s.balance}
}
func (s *space) Config() namespace.Config {
	c := s.config
	c.Enforce = s.enforced.Load()
	return c
}
func (s *space) Orchestrate(pid uint32)   { s.orchestrator.Store(pid) }
func (s *space) SetKeys(task, tma []byte) { s.keys = [2][]byte{task, tma} }
func (s *space) Keys() (task, tma []byte) { return s.keys[0], s.keys[1] }
func (s *space) Resume()                  { s.held.Store(false) }
func (s *space) Ended() bool              { return s.ended.Load() }

// Shut leaves a namespace with tasks that enforces.
func (s *space) Shut() {
	if s.enforced.Load() && s.config.Orchestrated && !s.ended.Load() && s.Tasks() > 0 {
		s.held.Store(true)
	}
	s.stop()
}

func (s *space) Close() error {
	time.Sleep(s.host.closing)
	s.closed.Store(true)
	if s.held.Load() {
		s.host.mu.Lock()
		s.host.left = append(s.host.left, s)
		s.host.mu.Unlock()
	}
	s.config.Judge = nil // nobody asks any more, and through it all of the namespace would be held
	s.stop()
	return nil
}

// raise raises an event of a task, which waits in a slot.
func (s *space) raise(pid uint32, tnum uint64) verdict.Verdict { return s.event(pid, tnum, 1, tnum) }

// event raises an event with a ticket and a number.
func (s *space) event(pid uint32, tnum, ticket, number uint64) verdict.Verdict {
	return s.eventOf(event.KindEvent, pid, tnum, ticket, number)
}

func (s *space) eventOf(kind event.Kind, pid uint32, tnum, ticket, number uint64) verdict.Verdict {
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 22, Kind: uint8(kind), Slot: pid, Ticket: ticket, TID: pid, Tnum: tnum, Number: number}}
	for range 4 {
		b.Scalar(0)
	}
	r, err := event.Parse(b.Record())
	if err != nil {
		s.host.t.Fatal(err)
	}
	return s.config.Judge(&r)
}

// want compares what was decided.
func (s *space) want(decided ...string) {
	s.host.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got, want := strings.Join(s.decided, ", "), strings.Join(decided, ", "); got != want {
		s.host.t.Errorf("decided %s, want %s", got, want)
	}
	s.decided = nil
}

// space returns the namespace with an id.
func (h *host) space(id string) *space {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.namespaces, func(s *space) bool { return fmt.Sprint(s.id) == id && !s.closed.Load() })
	return h.namespaces[i]
}

// create lets a process make a namespace.
func (h *host) create(pid uint32, command string) *space {
	h.t.Helper()
	h.write(pid, command, 0)
	if len(h.namespaces) == 0 {
		h.t.Fatal("no namespace")
	}
	return h.namespaces[len(h.namespaces)-1]
}

// write lets a process write to control, by way of the file.
func (h *host) write(pid uint32, command string, want unix.Errno) {
	h.t.Helper()
	handle := h.open(pid, unix.O_WRONLY, "control")
	err := handle.(fuse.Writer).Write(pid, []byte(command+"\n"))
	got, _ := errors.AsType[unix.Errno](err)
	if got != want || (err == nil) != (want == 0) {
		h.t.Errorf("process %d, %q: %v, want %v", pid, command, err, want)
	}
}

// open opens a file for a process.
func (h *host) open(pid, flags uint32, names ...string) fuse.Handle {
	h.t.Helper()
	handle, err := h.tryOpen(pid, flags, names...)
	if err != nil {
		h.t.Fatalf("process %d opens %v: %v", pid, names, err)
	}
	return handle
}

func (h *host) tryOpen(pid, flags uint32, names ...string) (fuse.Handle, error) {
	node := fuse.Node(tsemfs.New(h.Plane))
	for _, name := range names {
		if node = node.(fuse.Dir).Lookup(name); node == nil {
			return nil, unix.ENOENT
		}
	}
	return node.(fuse.File).Open(pid, flags)
}

// read returns what a process reads in a file, or the error.
func (h *host) read(pid uint32, names ...string) string {
	handle, err := h.tryOpen(pid, unix.O_RDONLY, names...)
	if err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	text, err := handle.(fuse.Reader).Read(0, 4096)
	if err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	return string(text)
}

func (h *host) wantRead(pid uint32, want string, names ...string) {
	h.t.Helper()
	if got := h.read(pid, names...); got != want {
		h.t.Errorf("process %d reads %q in %v, want %q", pid, got, names, want)
	}
}

// wantGone waits until nothing is left of any namespace.
func (h *host) wantGone() {
	h.t.Helper()
	time.Sleep(time.Second)
	if left := h.Plane.Namespaces(); len(left) > 0 {
		h.t.Errorf("namespaces %d are left", left)
	}
	for _, s := range h.namespaces {
		if !s.closed.Load() {
			h.t.Errorf("namespace %d is not closed", s.id)
		}
	}
}

// TestExternal: the life of a namespace as its orchestrator sees it.
func TestExternal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.spawn(5, 1)
		h.spawn(10, 5)
		h.spawn(6, 1)
		h.wantRead(5, "ENOENT", "id")
		s := h.create(10, "external nsref=current digest=sha384 cache=130")
		if c := s.config; c.Digest != crypto.SHA384 || !c.NSRefCurrent || c.Cache != 44 || c.Deadline != time.Minute || c.MaxLine != tsemfs.MaxRecord {
			t.Errorf("%+v", c)
		}
		h.wantRead(5, "1\n", "id")
		h.wantRead(10, "1\n", "id")
		h.wantRead(6, "ENOENT", "id")
		s.records <- "first\n"
		s.records <- "second\nthird\n"
		synctest.Wait()
		h.wantRead(5, "first\n", "external_tma", "1")
		h.wantRead(6, "second\n", "external_tma", "1")

		if v := s.raise(10, 70); v != verdict.None {
			t.Errorf("judged at once: %v", v)
		}
		h.write(6, "trusted pid=10 tnum=70", unix.EINVAL)
		h.write(5, "trusted pid=10 key=00", unix.EINVAL)
		h.write(5, "trusted pid=11 tnum=70", unix.EINVAL)
		s.want()
		h.write(5, "untrusted pid=10 tnum=70", 0)
		s.want("10.1 untrusted")
		h.write(5, "trusted pid=10 tnum=70", 0) // late
		h.write(5, "trusted pid=99 tnum=71", 0) // unknown
		h.write(6, "trusted pid=99 tnum=71", 0)
		s.want()

		s.add(-1)
		time.Sleep(time.Second)
		h.wantRead(5, "third\n", "external_tma", "1")
		h.wantGone()
		h.wantRead(5, "ENOENT", "external_tma", "1")
		h.write(5, "trusted pid=10 tnum=70", 0)
		if !strings.Contains(h.said.String(), "namespace 1 has ended: 0 events, 1 released by its orchestrator, 0 not in time, 2 releases late") {
			t.Error(h.said.String())
		}
	})
}

// TestTwo: each orchestrator releases the tasks of its own namespaces, by their keys.
func TestTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		for pid, parent := range map[uint32]uint32{5: 1, 6: 1, 10: 5, 11: 6, 12: 5} {
			h.spawn(pid, parent)
		}
		key := func(digit string) string { return " key=" + strings.Repeat(digit, 64) }
		first := h.create(10, "external"+key("1"))
		second := h.create(11, "external"+key("2"))
		third := h.create(12, "external"+key("3"))
		h.wantRead(5, "3\n", "id")
		h.wantRead(10, "1\n", "id")
		for i, s := range []*space{first, second, third} {
			s.raise(uint32(10+i), uint64(i+1))
		}
		h.write(5, "trusted pid=10"+key("2"), unix.EINVAL)
		h.write(5, "trusted pid=11"+key("2"), unix.EINVAL)
		h.write(6, "trusted pid=10"+key("1"), unix.EINVAL)
		h.write(5, "trusted pid=10 tnum=1", unix.EINVAL)
		for _, s := range []*space{first, second, third} {
			s.want()
		}
		h.write(5, "trusted pid=10"+key("1"), 0)
		h.write(6, "trusted pid=11 tnum=2"+key("2"), 0)
		h.write(5, "untrusted pid=12"+key("3"), 0)
		first.want("10.1 trusted")
		second.want("11.1 trusted")
		third.want("12.1 untrusted")
		second.raise(10, 9) // a task has the pid of one in the first namespace
		first.raise(11, 10)
		h.write(6, "trusted pid=10"+key("2"), 0)
		h.write(5, "trusted pid=11"+key("1"), 0)
		first.want("11.1 trusted")
		second.want("10.1 trusted")
		if strings.Contains(h.said.String(), "2222") {
			t.Errorf("a key is said: %s", h.said.String())
		}
		h.Close()
		h.wantGone()
		h.write(5, "export", unix.ESHUTDOWN)
	})
}

// TestAsync: a release of an event that nobody waits with is checked like any other one, also where its task has never waited.
func TestAsync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		for pid, parent := range map[uint32]uint32{5: 1, 6: 1, 10: 5, 11: 6} {
			h.spawn(pid, parent)
		}
		key := " key=" + strings.Repeat("1", 64)
		s := h.create(10, "external"+key)
		h.create(11, "external")
		s.eventOf(event.KindAsync, 10, 70, 1, 3)
		h.write(5, "untrusted pid=10 tnum=70 number=3", unix.EINVAL)
		h.write(5, "untrusted pid=10 tnum=70 number=3 key="+strings.Repeat("2", 64), unix.EINVAL)
		h.write(5, "untrusted pid=11 tnum=70 number=3"+key, unix.EINVAL)
		h.write(6, "untrusted pid=10 tnum=70 number=3", unix.EINVAL)
		s.want()
		h.write(5, "untrusted pid=10 tnum=70 number=3"+key, 0)
		s.want("10.1 untrusted")
		h.write(5, "untrusted pid=10 tnum=70 number=3"+key, 0) // late
		s.want()
		h.Close()
	})
}

// TestAtOnce lets four orchestrators and their workloads do what they do beside each other, some namespaces each: whoever
// answers the requests does so one after the other, but for the writes. The race detector looks on.
func TestAtOnce(t *testing.T) {
	const orchestrators, namespaces = 4, 25
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.spawn(1, 0)
		var serving sync.Mutex
		open := func(pid, flags uint32, names ...string) fuse.Handle {
			serving.Lock()
			defer serving.Unlock()
			return h.open(pid, flags, names...)
		}
		read := func(handle fuse.Handle) string {
			serving.Lock()
			defer serving.Unlock()
			text, err := handle.(fuse.Reader).Read(0, 4096)
			if err != nil {
				t.Error(err)
			}
			return string(text)
		}
		poll := func(handle fuse.Handle, want uint32) {
			for {
				woken := make(chan struct{})
				serving.Lock()
				got := handle.(fuse.Poller).Poll(func() { close(woken) })
				serving.Unlock()
				if got != 0 {
					if got != want {
						t.Errorf("polled %#x, want %#x", got, want)
					}
					return
				}
				<-woken
			}
		}
		write := func(pid uint32, command string, want unix.Errno) {
			err := open(pid, unix.O_WRONLY, "control").(fuse.Writer).Write(pid, []byte(command+"\n"))
			if got, _ := errors.AsType[unix.Errno](err); got != want {
				t.Errorf("process %d, %q: %v, want %v", pid, command, err, want)
			}
		}
		pid := func(i int) uint32 { return uint32(100 * (i%orchestrators + 1)) }
		for i := range orchestrators {
			h.spawn(pid(i), 1)
		}
		var all sync.WaitGroup
		for i := range orchestrators {
			all.Go(func() {
				for workload := pid(i) + 1; workload <= pid(i)+namespaces; workload++ {
					h.spawn(workload, pid(i))
					write(workload, "external", 0)
					id := strings.TrimSpace(read(open(pid(i), unix.O_RDONLY, "id")))
					records := open(pid(i), unix.O_RDONLY, "external_tma", id)
					s := h.space(id)
					s.raise(workload, uint64(workload))
					s.records <- "record of " + id + "\n"
					poll(records, unix.POLLIN|fuse.PollReadNormal)
					if got := read(records); got != "record of "+id+"\n" {
						t.Errorf("namespace %s: %q", id, got)
					}
					release := fmt.Sprintf("trusted pid=%d tnum=%d", workload, workload)
					write(pid(i+1), release, unix.EINVAL)
					s.want()
					write(pid(i), release, 0)
					s.want(fmt.Sprintf("%d.1 trusted", workload))
					s.add(-1)
					poll(records, unix.POLLHUP)
					records.Close()
				}
			})
		}
		all.Wait()
		h.Close()
		h.wantGone()
		if len(h.namespaces) != orchestrators*namespaces {
			t.Errorf("%d namespaces", len(h.namespaces))
		}
	})
}

// TestReady: who asks for a namespace waits for the one that is being made, and for no other one.
func TestReady(t *testing.T) {
	const takes = time.Hour // to make one
	for name, test := range map[string]struct {
		command string
		prepare func(h *host)
		waits   time.Duration // for the namespace, which is
		own     bool          // not the one that was kept ready
	}{
		"ready":       {"external nsref=current digest=sha512", func(*host) { time.Sleep(2 * takes) }, 0, false},
		"almost":      {"external", func(*host) { time.Sleep(takes - time.Minute) }, time.Minute, false},
		"other size":  {"external cache=500", func(*host) { time.Sleep(2 * takes) }, takes, true},
		"export":      {"export", func(*host) { time.Sleep(2 * takes) }, takes, true},
		"taken":       {"external", func(h *host) { k, _ := h.takeSpare()(); k.namespace.Close() }, takes, true},
		"has failed":  {"external", func(h *host) { h.refuse(unix.ENOMEM); time.Sleep(2 * takes); h.refuse(nil) }, takes, true},
		"was damaged": {"external", func(h *host) { h.begins = io.ErrUnexpectedEOF; time.Sleep(2 * takes) }, takes, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t)
				h.preparing = takes
				h.spawn(5, 1)
				h.spawn(10, 5)
				h.spawn(11, 5)
				h.Ready()
				test.prepare(h)
				synctest.Wait()
				if left := h.Plane.Namespaces(); len(left) > 0 {
					t.Errorf("namespaces %d before anybody asked for one", left)
				}
				start, ready := time.Now(), len(h.prepared)
				s := h.create(10, test.command)
				if waited := time.Since(start); waited != test.waits {
					t.Errorf("waited %v, want %v", waited, test.waits)
				}
				if own := s != h.prepared[0] || ready == 0 && name != "almost"; own != test.own {
					t.Errorf("a namespace of its own: %v, want %v", own, test.own)
				}
				h.wantRead(5, "1\n", "id")
				time.Sleep(2 * takes)
				synctest.Wait()
				start = time.Now()
				if s := h.create(11, "external"); s.id != 2 || time.Since(start) != 0 {
					t.Errorf("the next one has id %d, after %v", s.id, time.Since(start))
				}
				h.Close() // while another one is made
				for i, s := range h.prepared {
					if !s.closed.Load() {
						t.Errorf("namespace %d of %d is not closed", i, len(h.prepared))
					}
				}
			})
		})
	}
}

// TestOrchestratorEnds: nobody judges from then on, and nothing waits for a reader.
func TestOrchestratorEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := oneWaits(t)
		s.records <- "first\n"
		close(h.processes[5].end)
		synctest.Wait()
		s.want("10.1 closed")
		if v := s.raise(10, 1); v != verdict.Closed {
			t.Errorf("judged %v", v)
		}
		line := strings.Repeat("x", tsemfs.MaxRecord-1) + "\n"
		for range queueLimit/len(line) + 10 {
			s.records <- line
		}
		time.Sleep(time.Hour)
		if len(h.Plane.Namespaces()) != 1 {
			t.Error("the namespace has ended before its tasks")
		}
		s.add(-1)
		h.wantGone()
	})
}

// TestUnreadRecords: what an orchestrator has not read when it ends is gone with the namespace, and counted, whether it had room in the queue or not.
func TestUnreadRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := oneWaits(t)
		line := strings.Repeat("x", tsemfs.MaxRecord-1) + "\n"
		s.records <- line
		synctest.Wait()
		h.wantRead(5, line, "external_tma", "1")
		close(h.processes[5].end)
		synctest.Wait()
		unread := queueLimit/len(line) + 10
		for range unread {
			s.records <- line
		}
		s.add(-1)
		h.wantGone()
		synctest.Wait()
		if want := fmt.Sprintf(" releases late, %d records unread\n", unread); !strings.Contains(h.said.String(), want) {
			t.Errorf("%s, want %s", h.said.String(), want)
		}
	})
}

// TestRefused: what became of the events that have no record is said with the end of their namespace, unless the next Plane will read them.
func TestRefused(t *testing.T) {
	for held, want := range map[bool]string{
		false: " releases late; 5 events raised: 2 delivered, 2 refused (magazine_full 2), 1 unaccounted for, missing numbers 5\n",
		true:  " releases late\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			h, s := oneWaits(t)
			s.balance = ringbuf.Balance{
				Raised: 5, Delivered: 2, Refused: []ringbuf.Refusal{{Name: "magazine_full", Count: 2}, {Name: "describe"}},
				Missing: []ringbuf.Range{{First: 5, Last: 5}},
			}
			s.held.Store(held)
			s.add(-1)
			h.wantGone()
			synctest.Wait()
			if !strings.Contains(h.said.String(), want) {
				t.Errorf("held back: %v; %s, want %s", held, h.said.String(), want)
			}
		})
	}
}

// TestFull: while nobody reads, the magazine is read no further than the queue has room.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.spawn(5, 1)
		h.spawn(10, 5)
		s := h.create(10, "export")
		if s.config.Judge != nil {
			t.Error("an export namespace has a judge")
		}
		line := strings.Repeat("x", tsemfs.MaxRecord-1) + "\n"
		for range queueLimit/len(line) + 1 {
			s.records <- line
		}
		select {
		case s.records <- line:
			t.Error("more than has room was read")
		case <-time.After(time.Hour):
		}
		h.wantRead(5, line, "external_tma", "1")
		s.records <- line
		h.write(5, "trusted pid=10 tnum=1", 0) // nobody waits
		h.Close()
		h.wantGone()
	})
}

// TestStuck: a reader that does nothing is stuck, unless nobody takes its records, or nothing is to be read.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.spawn(5, 1)
		h.spawn(10, 5)
		h.spawn(11, 5)
		want := func(when string, want ...uint64) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := h.Stuck(); !slices.Equal(got, want) {
				t.Errorf("%s: %d are stuck, want %d", when, got, want)
			}
		}
		want("without namespaces")
		first, second := h.create(10, "export"), h.create(11, "export")
		want("at the first look")
		want("when nothing moves", 1, 2)
		second.rounds.Add(1)
		want("when one has moved", 1)
		line := strings.Repeat("x", tsemfs.MaxRecord-1) + "\n"
		for range queueLimit/len(line) + 1 {
			first.records <- line
		}
		want("when one waits for who takes its records", 2)
		second.fails <- errors.New("no gate")
		want("when the other one is not read")
		h.Close()
		want("at the end")
	})
}

// TestCloseWaits: who closes the Plane may take the kernel half away then, so that nothing may still
// be on its way out, such as a namespace that has just ended by itself.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.closing = time.Hour
		h.spawn(5, 1)
		h.spawn(10, 5)
		s := h.create(10, "export")
		s.add(-1)
		time.Sleep(time.Minute)
		if len(h.Plane.Namespaces()) != 0 || s.closed.Load() {
			t.Error("the namespace is not on its way out")
		}
		h.Close()
		if !s.closed.Load() {
			t.Error("it was not waited for")
		}
	})
}

// TestReleaseAtTheEnd: a namespace whose last task ends while it is released is there until that is done and counted.
func TestReleaseAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := oneWaits(t)
		h.deciding = time.Hour
		var releases sync.WaitGroup
		releases.Go(func() { h.write(5, "trusted pid=10 tnum=1", 0) })
		synctest.Wait()
		s.add(-1)
		time.Sleep(time.Minute)
		if s.closed.Load() {
			t.Error("the namespace is closed while a task is released")
		}
		releases.Wait()
		h.wantGone()
		if !strings.Contains(h.said.String(), ", 1 released by its orchestrator, 0 not in time, 0 releases late") {
			t.Error(h.said.String())
		}
		h.Close()
	})
}

// TestExportFails: what is to be judged is not left to wait. Tasks that may do what they want are not modeled any more, for they
// would wait for room in a magazine that nobody reads; others are held until they exit.
func TestExportFails(t *testing.T) {
	for name, enforces := range map[string]bool{"enforces": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := oneWaits(t)
				if enforces {
					h.write(10, "enforce", 0)
				}
				s.records <- "last\n"
				s.fails <- errors.New("no gate")
				synctest.Wait()
				s.want("10.1 closed")
				time.Sleep(time.Hour)
				h.wantRead(5, "last\n", "external_tma", "1")
				time.Sleep(time.Hour)
				synctest.Wait()
				want := 0
				if enforces {
					want = 1
				}
				if got := len(h.Plane.Namespaces()); got != want || !strings.Contains(h.said.String(), "namespace 1: no gate") {
					t.Errorf("%d namespaces, want %d: %s", got, want, h.said.String())
				}
				s.add(-1)
				h.wantGone()
			})
		})
	}
}

// TestChange: enforce and seal are about the namespace of who writes.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		for pid, parent := range map[uint32]uint32{5: 1, 6: 1, 10: 5, 11: 6} {
			h.spawn(pid, parent)
		}
		first := h.create(10, "external")
		second := h.create(11, "external")
		h.spawn(7, 1)
		h.write(7, "enforce", unix.EINVAL)
		h.write(5, "enforce", 0)
		h.write(11, "seal", 0)
		if !first.enforced.Load() || second.enforced.Load() {
			t.Errorf("enforced: %v, %v", first.enforced.Load(), second.enforced.Load())
		}
		h.write(11, "seal", unix.EPERM)
		h.write(6, "enforce", unix.EPERM)
		h.wantRead(11, "EACCES", "id")
		h.wantRead(6, "2\n", "id")
		h.wantRead(10, "1\n", "id")
		h.write(10, "base value="+strings.Repeat("00", 32), unix.EINVAL)
		h.wantRead(5, strings.Repeat("07", 32)+"\n", "aggregate")
		h.wantRead(10, "EACCES", "aggregate")
		h.processes[5].MacAdmin = 0
		if _, err := h.tryOpen(5, unix.O_WRONLY, "control"); err != unix.EACCES {
			t.Errorf("without capability: %v", err)
		}
		h.wantRead(5, "EACCES", "external_tma", "1")
		if _, err := h.tryOpen(99, unix.O_WRONLY, "control"); err != unix.ESRCH {
			t.Errorf("a thread that there is not: %v", err)
		}
		h.Close()
		h.wantGone()
	})
}

// TestCreateRefused: what cannot be made leaves nothing behind.
func TestCreateRefused(t *testing.T) {
	for name, test := range map[string]struct {
		command string
		prepare func(h *host)
		want    unix.Errno
	}{
		"nested":      {"external", func(h *host) { h.processes[10].Namespace = 3 }, unix.EPERM},
		"io_uring":    {"external", func(h *host) { h.processes[10].IoWorker = 1 }, unix.EOPNOTSUPP},
		"internal":    {"internal", func(*host) {}, unix.EOPNOTSUPP},
		"full":        {"external", func(h *host) { h.refuses = fmt.Errorf("make: %w", loader.ErrFull) }, unix.ENOSPC},
		"no sleep":    {"external", func(h *host) { h.refuses = namespace.ErrNoSleep }, unix.EOPNOTSUPP},
		"other":       {"external", func(h *host) { h.refuses = io.ErrUnexpectedEOF }, unix.EIO},
		"no parent":   {"external", func(h *host) { delete(h.processes, 5) }, unix.ESRCH},
		"lost parent": {"external", func(h *host) { h.orphans = true }, unix.ESRCH},
		"not entered": {"external", func(h *host) { h.enters = unix.EBUSY }, unix.EBUSY},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t)
				h.spawn(5, 1)
				h.spawn(10, 5)
				test.prepare(h)
				h.write(10, test.command, test.want)
				h.wantGone()
				if !strings.Contains(h.said.String(), "thread 10 wrote to control: ") {
					t.Errorf("said %q", h.said.String())
				}
				h.Close()
			})
		})
	}
}

// TestTakeOver: when an orchestrator has ended nobody judges, until another one with the key takes its place. A pid that comes
// again opens nothing.
func TestTakeOver(t *testing.T) {
	key := func(digit string) string { return " key=" + strings.Repeat(digit, 64) }
	for name, test := range map[string]struct{ key, wrong string }{
		"with a key":    {key("1"), key("2")},
		"without a key": {"", key("2")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t)
				for pid, parent := range map[uint32]uint32{5: 1, 6: 1, 7: 1, 10: 5} {
					h.spawn(pid, parent)
				}
				s := h.create(10, "external"+test.key)
				s.raise(10, 70)
				s.records <- "first\n"
				start := time.Now()
				h.write(6, "takeover id=1"+test.key, unix.EBUSY)
				if took := time.Since(start); took != formerWait || s.orchestrator.Load() != 5 {
					t.Errorf("refused after %v, of process %d", took, s.orchestrator.Load())
				}
				s.want()
				// It may have ended a moment before.
				var takeover sync.WaitGroup
				takeover.Go(func() { h.write(6, "takeover id=1"+test.key, 0) })
				time.Sleep(formerWait / 2)
				close(h.processes[5].end)
				takeover.Wait()
				s.want("10.1 closed")
				if pid := s.orchestrator.Load(); pid != 6 {
					t.Errorf("process %d orchestrates it", pid)
				}
				h.wantRead(6, "1\n", "id")
				h.wantRead(6, "first\n", "external_tma", "1")

				s.event(10, 70, 2, 8)
				h.spawn(5, 1)
				h.write(5, "trusted pid=10 tnum=70 number=8"+test.key, unix.EINVAL)
				h.write(6, "trusted pid=10 tnum=70"+test.key, unix.EINVAL) // perhaps about the event before
				h.write(6, "trusted pid=10 tnum=70 number=7", 0)           // about that, which was decided
				h.write(6, "trusted pid=10 tnum=70 number=8"+test.wrong, unix.EINVAL)
				s.want()
				h.write(6, "untrusted pid=10 tnum=70 number=8", 0)
				s.want("10.2 untrusted")
				h.write(6, "enforce", 0)

				close(h.processes[6].end)
				synctest.Wait()
				if v := s.raise(10, 70); v != verdict.Closed || s.orchestrator.Load() != 0 {
					t.Errorf("judged %v, process %d orchestrates it", v, s.orchestrator.Load())
				}
				h.processes[7].MacAdmin = 0
				h.write(5, "takeover id=2"+test.key, unix.ENOENT)
				h.write(5, "takeover id=1"+test.wrong, unix.EINVAL)
				h.write(10, "takeover id=1"+test.key, unix.EPERM)
				if err := h.Command(7, control.Takeover{Namespace: 1}); !errors.Is(err, unix.EPERM) {
					t.Errorf("without capability, through a descriptor of somebody else: %v", err)
				}
				h.write(5, "takeover id=1"+test.key, 0)
				if v := s.event(10, 70, 3, 9); v != verdict.None {
					t.Errorf("judged %v", v)
				}
				h.write(5, "trusted pid=10 tnum=70 number=9", 0)
				s.want("10.3 trusted")
				s.add(-1)
				h.wantGone()
				h.write(5, "takeover id=1"+test.key, unix.ENOENT)
				h.Close()
			})
		})
	}
}

// TestTakeOverRefused: what nobody could judge in has no successor.
func TestTakeOverRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := oneWaits(t)
		h.spawn(11, 5)
		h.create(11, "export")
		h.spawn(6, 1)
		h.write(10, "enforce", 0) // else it would end
		s.fails <- errors.New("no gate")
		close(h.processes[5].end)
		synctest.Wait()
		h.write(6, "takeover id=1", unix.EIO)
		h.write(6, "takeover id=2", unix.EINVAL)
		h.Close()
		h.write(6, "takeover id=1", unix.ESHUTDOWN)
	})
}

// TestInherit: what enforces is left with its tasks by one Plane, and taken over by the next one. Events wait there for an
// orchestrator, but not for long; nor does it need to come in that time.
func TestInherit(t *testing.T) {
	key := " key=" + strings.Repeat("1", 96)
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t)
			for pid, parent := range map[uint32]uint32{5: 1, 6: 1, 10: 5, 11: 5, 12: 5} {
				h.spawn(pid, parent)
			}
			first := h.create(10, "external digest=sha384"+key)
			h.write(10, "enforce", 0)
			h.write(10, "seal", 0)
			first.raise(10, 70)
			h.create(11, "external") // it does not enforce
			h.create(12, "external")
			h.write(12, "enforce", 0)
			h.processes[12].Namespace = 0
			h.namespaces[2].add(-1) // it has no tasks
			left, ended := h.open(5, unix.O_RDONLY, "external_tma", "1"), h.open(5, unix.O_RDONLY, "external_tma", "2")
			h.Close()
			if one, other := left.(fuse.Poller).Poll(nil), ended.(fuse.Poller).Poll(nil); one != 0 || other != unix.POLLHUP {
				t.Errorf("polled %#x and %#x", one, other)
			}
			first.want("10.1 closed")
			if orphans := h.Orphans(); !slices.Equal(orphans, []uint64{1}) || !strings.Contains(h.said.String(), "namespace 1 is left") || !strings.Contains(h.said.String(), "namespace 2 has ended") {
				t.Errorf("left %d: %s", orphans, h.said.String())
			}
			h.keptBy = fmt.Errorf("%w: process 99", loader.ErrKept)
			h.next()
			if names := h.Plane.Namespaces(); len(names) > 0 || !strings.Contains(h.said.String(), "process 99") {
				t.Errorf("%d: %s", names, h.said.String())
			}
			h.write(6, "takeover id=1"+key, unix.EBUSY)
			h.keptBy = nil
			h.next()
			s := h.space("1")
			if s == first || s.held.Load() || s.config.Deadline != time.Minute || s.config.MaxLine != tsemfs.MaxRecord || !s.Sealed() {
				t.Errorf("%+v", s)
			}
			h.wantRead(5, "ENOENT", "id") // it has to say that it is there
			if v := s.raise(10, 70); v != verdict.None {
				t.Errorf("judged %v", v)
			}
			s.records <- "first\n"
			h.write(5, "trusted pid=10 tnum=70", unix.EINVAL)
			if late {
				time.Sleep(31 * time.Second)
				synctest.Wait()
				s.want("10.1 closed")
				if v := s.raise(10, 70); v != verdict.Closed {
					t.Errorf("judged %v", v)
				}
				if !strings.Contains(h.said.String(), "nobody has taken namespace 1 over for 30s") {
					t.Error(h.said.String())
				}
			} else {
				time.Sleep(29 * time.Second)
			}
			h.write(6, "takeover id=1 key="+strings.Repeat("2", 96), unix.EINVAL)
			h.write(6, "takeover id=1"+key, 0)
			h.wantRead(6, "1\n", "id")
			h.wantRead(6, "first\n", "external_tma", "1")
			ticket := uint64(1)
			if late {
				ticket = 2
				s.event(10, 70, ticket, 70)
			}
			time.Sleep(time.Hour) // nobody else's business any more
			s.want()
			h.write(6, "trusted pid=10 tnum=70 number=70", 0)
			s.want(fmt.Sprintf("10.%d trusted", ticket))
			h.Close()
			h.next() // the key is the same
			h.write(6, "takeover id=1 key="+strings.Repeat("2", 96), unix.EINVAL)
			h.write(6, "takeover id=1"+key, 0)
			s = h.space("1")
			s.ended.Store(true) // tsem-bpf ns end
			h.wantGone()
			if orphans := h.Orphans(); len(orphans) > 0 {
				t.Errorf("left %d", orphans)
			}
			h.Close()
		})
	}
}
