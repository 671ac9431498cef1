// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/fuse/fusetest"
)

func expect(t *testing.T, what string, answered chan fusetest.Answer, want fusetest.Answer) {
	t.Helper()
	if got := <-answered; got != want {
		t.Errorf("%s: %v %q, want %v %q", what, got.Errno, got.Body, want.Errno, want.Body)
	}
}

func expectVerdict(t *testing.T, s *Slots, slot uint32, want Verdict) {
	t.Helper()
	if _, v, err := s.Load(slot); v != want || err != nil {
		t.Errorf("slot %d: %s, %v, want %s", slot, v, err, want)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no slots":       func(c *Config) { c.Slots = nil },
		"no device":      func(c *Config) { c.Device = -1 },
		"no program":     func(c *Config) { c.Program = nil },
		"no look":        func(c *Config) { c.Look = nil },
		"beats too fast": func(c *Config) { c.BeatEvery = tickEvery - 1 },
		"no deadline":    func(c *Config) { c.Deadline = 0 },
	} {
		c := testConfig(2)
		spoil(&c)
		if _, err := New(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestServe is what the kernel asks from the mount to the end of the gate process.
func TestServe(t *testing.T) {
	_, k := serve(t, testConfig(2))
	want := func(opcode uint32, node uint64, in []byte) fusetest.Answer {
		f := fileSystem{[]byte("program")}
		out, errno, _ := f.answer(&fuse.Request{Opcode: opcode, Node: node, Body: in}, nil)
		return fusetest.Answer{Errno: errno, Body: string(out)}
	}
	for _, c := range []struct {
		opcode uint32
		node   uint64
		body   []byte
	}{
		{fuse.OpInit, 0, fusetest.Uint32s(7, 41, 4096, 0)},
		{fuse.OpGetattr, fuse.RootNode, make([]byte, 16)},
		{34, fuse.RootNode, fusetest.Uint32s(1, 0)},
		{fuse.OpLookup, fuse.RootNode, []byte("gate\x00")},
		{fuse.OpOpen, gateNode, fusetest.Uint32s(0, 0)},
		{fuse.OpRead, gateNode, append(fusetest.Uint64s(0, 0), fusetest.Uint32s(4096, 0, 0, 0, 0, 0)...)},
		{fuse.OpGetxattr, gateNode, getxattrBody(20, "security.capability")},
		{fuse.OpRelease, gateNode, make([]byte, 24)},
	} {
		k.tell(fuse.OpForget, fusetest.Uint64s(1)) // nobody answers, and what follows is answered
		expect(t, "request", k.request(c.opcode, c.node, c.body), want(c.opcode, c.node, c.body))
	}
}

func TestAskDecidedBefore(t *testing.T) {
	c := testConfig(2)
	c.Look = func() { t.Error("looked for what is decided") }
	g, k := serve(t, c)
	if outcome, err := g.Decide(1, begin(c.Slots, 1), Untrusted); !outcome.Won || err != nil {
		t.Fatal(outcome, err)
	}
	_, answered := k.ask(1, 1)
	expect(t, "answer", answered, fusetest.Answer{})
	if got, want := g.Stats(), (Stats{Asked: 1, Immediate: 1}); got != want {
		t.Errorf("%+v", got)
	}
}

// TestAskLookDecides: the event is judged because its task went to sleep.
func TestAskLookDecides(t *testing.T) {
	c := testConfig(2)
	ticket := begin(c.Slots, 1)
	var g *Gate
	made := make(chan struct{})
	c.Look = func() {
		<-made
		if outcome, err := g.Decide(1, ticket, Trusted); !outcome.Won || err != nil {
			t.Errorf("%s, %v", outcome, err)
		}
	}
	g, k := serve(t, c)
	close(made)
	_, answered := k.ask(1, 1)
	expect(t, "answer", answered, fusetest.Answer{})
	expect(t, "whatever follows", k.request(fuse.OpFlush, gateNode, nil), fusetest.Answer{})
	if got, want := g.Stats(), (Stats{Asked: 1, Immediate: 1}); got != want {
		t.Errorf("%+v", got)
	}
}

// TestAskDecidedMeanwhile: by somebody who does not know the gate, so that only the second
// look at the word finds it.
func TestAskDecidedMeanwhile(t *testing.T) {
	c := testConfig(2)
	ticket := begin(c.Slots, 1)
	c.Look = func() { _, _ = c.Slots.Decide(1, ticket, Trusted) }
	g, k := serve(t, c)
	_, answered := k.ask(1, 1)
	expect(t, "answer", answered, fusetest.Answer{})
	expect(t, "whatever follows", k.request(fuse.OpFlush, gateNode, nil), fusetest.Answer{})
	if got, want := g.Stats(), (Stats{Asked: 1, Immediate: 1}); got != want {
		t.Errorf("%+v", got)
	}
}

// TestAskSleeps lets tasks sleep, and decides about others first.
func TestAskSleeps(t *testing.T) {
	c := testConfig(4)
	g, k := serve(t, c)
	var tickets [4]uint64
	var answers [4]chan fusetest.Answer
	for slot := uint32(1); slot < 4; slot++ {
		tickets[slot] = begin(c.Slots, slot)
		_, answers[slot] = k.ask(slot, 100+slot)
	}
	expect(t, "whatever follows", k.request(fuse.OpFlush, gateNode, nil), fusetest.Answer{}) // now all sleep
	for i, p := range g.Pending() {
		if slot := uint32(i + 1); p.Slot != slot || p.Ticket != tickets[slot] || p.TID != 100+slot {
			t.Errorf("pending: %+v", p)
		}
	}
	if outcome, err := g.Decide(2, tickets[2]-1, Trusted); outcome != (Outcome{}) || err != nil {
		t.Errorf("a wait that is over: %s, %v", outcome, err)
	}
	if len(answers[2]) != 0 {
		t.Error("a decision about the wait before woke the task")
	}
	for _, slot := range []uint32{2, 3, 1} {
		if outcome, err := g.Decide(slot, tickets[slot], Untrusted); !outcome.Won || err != nil {
			t.Errorf("%s, %v", outcome, err)
		}
		expect(t, "answer", answers[slot], fusetest.Answer{})
		if got := len(g.Pending()); got != map[uint32]int{2: 2, 3: 1, 1: 0}[slot] {
			t.Errorf("%d sleep after slot %d was decided", got, slot)
		}
	}
	if got, want := g.Stats(), (Stats{Asked: 3, Slept: 3}); got != want {
		t.Errorf("%+v", got)
	}
}

func TestAskBadSlot(t *testing.T) {
	g, k := serve(t, testConfig(3))
	for _, slot := range []uint32{0, 3, 65536, math.MaxUint32} {
		_, answered := k.ask(slot, 1)
		expect(t, "answer", answered, fusetest.Answer{Errno: unix.EINVAL})
	}
	if got, want := g.Stats(), (Stats{Bad: 4}); got != want {
		t.Errorf("%+v", got)
	}
}

// TestAskTwice: two requests for one slot. Both are answered, and neither decides.
func TestAskTwice(t *testing.T) {
	c := testConfig(2)
	g, k := serve(t, c)
	ticket := begin(c.Slots, 1)
	_, first := k.ask(1, 1)
	_, second := k.ask(1, 2)
	expect(t, "the first", first, fusetest.Answer{})
	expectVerdict(t, c.Slots, 1, None)
	expect(t, "whatever follows", k.request(fuse.OpFlush, gateNode, nil), fusetest.Answer{})
	if _, err := g.Decide(1, ticket, Trusted); err != nil {
		t.Error(err)
	}
	expect(t, "the second", second, fusetest.Answer{})
	if got, want := g.Stats(), (Stats{Asked: 2, Slept: 2, Bad: 1}); got != want {
		t.Errorf("%+v", got)
	}
}

// TestClose: who sleeps is woken, who comes is not let to sleep.
func TestClose(t *testing.T) {
	c := testConfig(70)
	g, k := serve(t, c)
	begin(c.Slots, 1)
	begin(c.Slots, 69)
	_, first := k.ask(1, 1)
	_, last := k.ask(69, 1)
	expect(t, "whatever follows", k.request(fuse.OpFlush, gateNode, nil), fusetest.Answer{})
	g.Close()
	expect(t, "the first slot", first, fusetest.Answer{})
	expect(t, "the last slot", last, fusetest.Answer{})
	begin(c.Slots, 2)
	_, late := k.ask(2, 1)
	expect(t, "afterwards", late, fusetest.Answer{})
	for _, slot := range []uint32{1, 2, 69} {
		expectVerdict(t, c.Slots, slot, Closed)
	}
	g.Close()
}

// TestConnectionEnds: whoever sleeps when the connection ends is decided, too.
func TestConnectionEnds(t *testing.T) {
	c := testConfig(2)
	begin(c.Slots, 1)
	var answered chan fusetest.Answer
	t.Run("serve", func(t *testing.T) {
		_, k := serve(t, c)
		_, answered = k.ask(1, 1)
		expect(t, "whatever follows", k.request(fuse.OpFlush, gateNode, nil), fusetest.Answer{})
	})
	expect(t, "answer", answered, fusetest.Answer{})
	expectVerdict(t, c.Slots, 1, Closed)
}

// TestReadErrors feeds the loop what a read from /dev/fuse can return.
func TestReadErrors(t *testing.T) {
	for name, c := range map[string]struct {
		last unix.Errno
		b    []byte // read instead
		want error
	}{
		"unmounted":       {last: unix.ENODEV},
		"aborted":         {last: unix.ECONNABORTED},
		"not blocking":    {last: unix.EAGAIN, want: unix.EAGAIN},
		"anything else":   {last: unix.EIO, want: unix.EIO},
		"half a request":  {b: make([]byte, fuse.RequestHeader-1), want: fuse.ErrRequest},
		"nothing at all":  {b: []byte{}, want: fuse.ErrRequest},
		"a wrong request": {b: make([]byte, fuse.RequestHeader), want: fuse.ErrRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // in which time passes by itself
				errnos := []unix.Errno{unix.EPERM, unix.EPERM, unix.EINTR, unix.ENOENT, c.last}
				g, err := New(testConfig(2))
				if err != nil {
					t.Fatal(err)
				}
				g.read = func(fd int, b []byte) (int, unix.Errno) {
					if len(errnos) == 0 {
						t.Error("read again")
						return 0, unix.ENODEV
					}
					errno := errnos[0]
					errnos = errnos[1:]
					if len(errnos) == 0 && c.b != nil {
						return copy(b, c.b), 0
					}
					return -1, errno
				}
				start := time.Now()
				if err := g.Serve(); !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("%v, want %v", err, c.want)
				}
				if len(errnos) != 0 {
					t.Errorf("not read: %v", errnos)
				}
				if passed := time.Since(start); passed != 2*beforeMount {
					t.Errorf("%v passed", passed)
				}
			})
		})
	}
}

// TestCloseBeforeMount: a gate that is never mounted ends as well.
func TestCloseBeforeMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(testConfig(2))
		if err != nil {
			t.Fatal(err)
		}
		g.read = func(int, []byte) (int, unix.Errno) { return -1, unix.EPERM }
		time.AfterFunc(time.Second, g.Close)
		if err := g.Serve(); err != nil {
			t.Error(err)
		}
	})
}

// TestServeWaitsForTheWatcher: nothing is called any more when Serve has returned.
func TestServeWaitsForTheWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConfig(2)
		beating := false
		c.Beat = func(int) {
			beating = true
			time.Sleep(time.Minute)
			beating = false
		}
		g, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		g.read = func(int, []byte) (int, unix.Errno) {
			time.Sleep(time.Second) // the first beat is under way
			return -1, unix.ENODEV
		}
		if err := g.Serve(); err != nil || beating {
			t.Errorf("%v, still beating: %t", err, beating)
		}
	})
}

// TestAnswerErrors: nobody wants the answer, or the kernel does not take it.
func TestAnswerErrors(t *testing.T) {
	for name, c := range map[string]struct {
		errno unix.Errno
		gone  uint64
		want  error
	}{
		"gone":    {unix.ENOENT, 1, nil},
		"refused": {unix.EINVAL, 0, unix.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig(2)
			g, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			g.reply = func(int, uint64, unix.Errno) unix.Errno { return c.errno }
			ticket := begin(config.Slots, 1)
			asked := false
			g.read = func(_ int, b []byte) (int, unix.Errno) {
				if asked {
					return -1, unix.ENODEV
				}
				asked = true
				return copy(b, fusetest.Request(fuse.OpGetxattr, 2, gateNode, 1, getxattrBody(1, xattr))), 0
			}
			g.config.Look = func() { _, _ = g.Decide(1, ticket, Trusted) }
			if err := g.Serve(); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			if got, want := g.Stats(), (Stats{Asked: 1, Immediate: 1, Gone: c.gone}); got != want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestAnswerFails: a request that is none of a waiting task, on a device that takes nothing.
func TestAnswerFails(t *testing.T) {
	g, err := New(testConfig(2)) // whose device is no descriptor
	if err != nil {
		t.Fatal(err)
	}
	err = g.handle(fusetest.Request(fuse.OpFlush, 2, gateNode, 1, nil), make([]byte, fuse.AnswerHeader))
	if !errors.Is(err, unix.EBADF) || !strings.Contains(err.Error(), "request 25") {
		t.Error(err)
	}
}

// events lets a task without a kernel wait: each call is one event.
type events struct {
	*Gate
	ticket       uint64
	unique       uint64
	looks        bool // Look decides
	request, out []byte
}

// newEvents makes a gate whose answers go to /dev/null.
func newEvents(t testing.TB) *events {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	e := &events{
		request: fusetest.Request(fuse.OpGetxattr, 2, gateNode, 1, getxattrBody(1, xattr)),
		out:     make([]byte, fuse.AnswerHeader, fuse.BufferSize),
	}
	c := testConfig(2)
	c.Device = int(null.Fd())
	c.Look = func() {
		if e.looks {
			e.decide()
		}
	}
	if e.Gate, err = New(c); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *events) begin()  { e.ticket = begin(e.slots, 1) }
func (e *events) decide() { _, _ = e.Decide(1, e.ticket, Trusted) }

func (e *events) ask() {
	e.unique += 2
	binary.NativeEndian.PutUint64(e.request[8:], e.unique)
	_ = e.handle(e.request, e.out)
}

// ways are those that an event may take.
func (e *events) ways() map[string]func() {
	return map[string]func(){
		"decided before": func() { e.begin(); e.decide(); e.ask() },
		"look decides":   func() { e.begin(); e.looks = true; e.ask(); e.looks = false },
		"sleeps":         func() { e.begin(); e.ask(); e.decide() },
	}
}

// TestHandleDoesNotAllocate is about what happens for each event.
func TestHandleDoesNotAllocate(t *testing.T) {
	e := newEvents(t)
	for name, event := range e.ways() {
		if n := testing.AllocsPerRun(100, event); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if got, want := e.Stats(), (Stats{Asked: 303, Immediate: 202, Slept: 101}); got != want || e.broken.Load() != 0 {
		t.Errorf("%+v, errno %d", got, e.broken.Load())
	}
}

// BenchmarkHandle measures the gate's share of an event, with the answer written to
// /dev/null and without the request's way from the kernel.
func BenchmarkHandle(b *testing.B) {
	e := newEvents(b)
	for name, event := range e.ways() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				event()
			}
		})
	}
}
