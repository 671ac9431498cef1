// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/ringbuf"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// enough is a time that only a defect uses up.
const enough = 30 * time.Second

// memory is a magazine in memory. Its records come from any goroutine.
type memory struct {
	mu      sync.Mutex
	records [][]byte
	closed  bool
	wake    chan struct{}
}

func (m *memory) put(record []byte) {
	m.mu.Lock()
	m.records = append(m.records, record)
	m.mu.Unlock()
	m.Wake()
}

func (m *memory) ReadBatch(fn func(record []byte) error) (n int, err error) {
	m.mu.Lock()
	records, closed := m.records, m.closed
	m.records = nil
	m.mu.Unlock()
	if closed {
		return 0, ringbuf.ErrClosed
	}
	for i, r := range records {
		if err := fn(r); err != nil {
			return i + 1, err
		}
		clear(r)
	}
	return len(records), nil
}

// Scan is for those who judge; nobody does here.
func (m *memory) Scan(func(record []byte) error) (n int, err error) { return 0, nil }

func (m *memory) Await(time.Duration) bool { return false }

func (m *memory) WaitScan(timeout time.Duration) error { return m.Wait(timeout) }

func (m *memory) Wait(timeout time.Duration) error {
	select {
	case <-m.wake:
		return nil
	case <-time.After(timeout):
		return os.ErrDeadlineExceeded
	}
}

func (m *memory) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *memory) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *memory) Drained() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records) == 0
}

func (m *memory) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.Wake()
	return nil
}

// newNamespace returns a namespace without a kernel half, whose files are read by d.
func newNamespace(t *testing.T, d digests) (*Namespace, *memory) {
	t.Helper()
	m := &memory{wake: make(chan struct{}, 1)}
	n := &Namespace{
		config:   Config{Digest: crypto.SHA256},
		state:    new(bpf.Namespace),
		magazine: m,
		ledger:   ringbuf.NewLedger(0, 0),
		digests:  digest.New(),
	}
	if d == nil {
		d = n.digests
	}
	n.joiner = newJoiner(crypto.SHA256, d, digestWait, alone{}, m.Wake)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, m
}

// raise puts an event into the magazine, as the kernel half does.
func raise(n *Namespace, m *memory, b *eventtest.Builder) {
	b.Number = atomic.AddUint64(&n.state.Raised, 1)
	m.put(b.Record())
}

func capable() *eventtest.Builder {
	return (&eventtest.Builder{Header: eventtest.Header{Hook: 85, Kind: 2}}).Scalar(21).Scalar(0)
}

// TestPause: a reader lets records come together, but not while somebody waits for one.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Namespace{urgent: make(chan struct{}, 1)}
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		pause := func(want time.Duration) {
			t.Helper()
			start := time.Now()
			n.pause(timer)
			if took := time.Since(start); took != want {
				t.Errorf("a pause of %v, want %v", took, want)
			}
		}
		pause(readEvery)
		n.hurry()
		n.hurry()
		pause(0)
		pause(readEvery)
		time.AfterFunc(readEvery/4, n.hurry)
		pause(readEvery / 4)
		pause(readEvery)
	})
}

// output is a writer that says which numbers came, in turn.
type output struct{ numbers chan string }

func (o output) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		var record struct{ Event struct{ Number string } }
		if err := json.Unmarshal(line, &record); err != nil {
			return 0, err
		}
		o.numbers <- record.Event.Number
	}
	return len(p), nil
}

func (o output) want(t *testing.T, number string) {
	t.Helper()
	select {
	case got := <-o.numbers:
		if got != number {
			t.Errorf("number %s was written, want %s", got, number)
		}
	case <-time.After(enough):
		t.Errorf("number %s was not written", number)
	}
}

// silent is a source of digests that never answers.
type silent struct{}

func (silent) Kept(*digest.Request) (event.Digest, bool) { return event.Digest{}, false }

func (silent) Ask(digest.Request, func(event.Digest)) func() { return func() {} }

// While a file hangs the events behind it are written. At the end the one that waits for
// it is written, too, and the account balances; it may be asked for at any time.
func TestExportGoesOn(t *testing.T) {
	n, m := newNamespace(t, silent{})
	var clock atomic.Int64
	n.joiner.now = func() time.Time { return time.Unix(0, clock.Load()) }
	out, exported := output{make(chan string, 16)}, make(chan error, 1)
	go func() { exported <- n.Export(context.Background(), event.Current, out) }()

	raise(n, m, addFile(&eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1}}, "/hangs"))
	for _, number := range []string{"2", "3", "4"} {
		raise(n, m, capable())
		out.want(t, number)
		if totals := n.Totals(); totals.Balance.Raised < totals.Balance.Delivered || totals.Written > totals.Balance.Delivered {
			t.Errorf("the account is %+v", totals)
		}
	}
	n.Shut()
	clock.Store(int64(digestWait))
	m.Wake()
	out.want(t, "1")
	if err := <-exported; err != nil {
		t.Error(err)
	}
	if totals := n.Totals(); totals.Err() != nil || !totals.Complete() || totals.Late != 1 || totals.Written != 4 {
		t.Errorf("not complete: %+v", totals)
	}
}

// Records that cannot be read are accounted for, and those behind them are written.
func TestUnreadable(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(raw []byte) []byte
		says  string
	}{
		"cell":     {func(raw []byte) []byte { raw[160] = 99; return raw }, "200 events raised: 200 delivered, 0 refused"},
		"header":   {func(raw []byte) []byte { return raw[:100] }, "200 events raised: 199 delivered, 0 refused, 1 without a number that could be read, missing numbers 2"},
		"version":  {func(raw []byte) []byte { raw[4]++; return raw }, "200 events raised: 199 delivered, 0 refused, 1 without a number that could be read, missing numbers 2"},
		"repeated": {func(raw []byte) []byte { raw[24] = 1; return raw }, "200 events raised: 199 delivered, 0 refused, 1 unaccounted for, missing numbers 2"},
	} {
		t.Run(name, func(t *testing.T) {
			n, m := newNamespace(t, nil)
			for number := uint64(1); number <= 200; number++ {
				b := capable()
				b.Number = number
				raw := b.Record()
				if number == 2 {
					raw = test.spoil(raw)
				}
				m.put(raw)
			}
			n.state.Raised = 200
			var out bytes.Buffer
			n.Shut()
			earlier := n.shut.Load().Add(-endWait)
			n.shut.Store(&earlier) // what is missing will not come
			if err := n.Export(context.Background(), event.Current, &out); err != nil {
				t.Fatal(err)
			}
			totals := n.Totals()
			if got := bytes.Count(out.Bytes(), []byte("\n")); got != 199 || totals.Written != 199 {
				t.Errorf("%d lines, %d written; want 199", got, totals.Written)
			}
			if totals.Balance.String() != test.says || totals.Unreadable != 1 || totals.Err() == nil || totals.Complete() {
				t.Errorf("%+v, complete: %v; want %s, 1 unreadable", totals, totals.Complete(), test.says)
			}
		})
	}
}

// A record counts as read from its share when the ring has moved on, and once; also one
// that cannot be read. What a foreign kernel half says of shares does no harm.
func TestShares(t *testing.T) {
	n, _ := newNamespace(t, nil)
	n.joiner.sink = &lines{encoder: event.NewEncoder(event.Current, crypto.SHA256, n.joiner.ids),
		w: io.Discard, written: &n.written, cut: &n.omitted}
	record := func(number uint64, share uint8) []byte {
		b := capable()
		b.Number, b.Share = number, share
		return b.Record()
	}
	first, unreadable := record(1, 3), record(2, 3)
	unreadable[4]++
	size := ringbuf.Taken(len(first))
	for i, step := range []struct {
		raw  []byte
		read uint64 // of share 3, before the ring moves on behind this record
	}{
		{first, 0},
		{unreadable, size},
		{unreadable[:40], 2 * size},
		{record(3, 0), 2 * size},
		{record(4, 255), 2 * size},
		{record(5, 3), 2 * size},
	} {
		if err := n.take(step.raw); err != nil {
			t.Fatal(err)
		}
		if got := n.state.Shares[3].Read; got != step.read {
			t.Errorf("record %d: %d bytes of its share are read, want %d", i, got, step.read)
		}
	}
	for range 2 {
		n.settle()
	}
	// What says nothing of a share, for it is too short, counts as of hooks that wait.
	want := [len(n.state.Shares)]uint64{0: ringbuf.Taken(40) + size, 3: 3 * size}
	for share, s := range n.state.Shares {
		if s.Read != want[share] {
			t.Errorf("share %d: %d bytes are read at the end, want %d", share, s.Read, want[share])
		}
	}
}

// Each event is counted once by its type; a record that has the number of another one, and that of an
// exec, are no events.
func TestTypes(t *testing.T) {
	n, m := newNamespace(t, nil)
	raise(n, m, capable())
	raise(n, m, capable())
	again := capable()
	again.Number = 2
	m.put(again.Record())
	m.put((&eventtest.Builder{Header: eventtest.Header{Hook: uint16(event.HookExec), Kind: uint8(event.KindExec)}}).File(0, 0, [32]byte{}).
		Inode(eventtest.InodeCell{}).Path(eventtest.PathCell{}).Record())
	raise(n, m, (&eventtest.Builder{Header: eventtest.Header{Hook: 82, Kind: 1}}).Scalar(1).Scalar(0))
	n.Shut()
	if err := n.Export(context.Background(), event.Current, io.Discard); err != nil {
		t.Fatal(err)
	}
	want := [bpf.HookMax]uint64{82: 1, 85: 2} // bpf_map, capable
	if totals := n.Totals(); totals.Types != want || totals.Unreadable != 1 {
		t.Errorf("%v, %d unreadable", totals.Types, totals.Unreadable)
	}
}

// A number that never comes is given up, by name, and ends nothing.
func TestGap(t *testing.T) {
	n, m := newNamespace(t, nil)
	n.ledger = ringbuf.NewLedger(64, 0)
	for number := uint64(1); number <= 200; number++ {
		b := capable()
		b.Number = number
		if number != 7 {
			m.put(b.Record())
		}
	}
	n.state.Raised = 200
	var out bytes.Buffer
	n.Shut()
	if err := n.Export(context.Background(), event.Current, &out); err != nil {
		t.Fatal(err)
	}
	totals := n.Totals()
	if b := totals.Balance; totals.Written != 199 || b.Lost != 1 || b.Err() != nil || !errors.Is(totals.Err(), ringbuf.ErrGap) || totals.Complete() {
		t.Errorf("%+v, %v, complete: %v", totals, b.Err(), totals.Complete())
	}
}

// A real file is read beside the reading of events, and its digest comes home.
func TestExportWithFile(t *testing.T) {
	n, m := newNamespace(t, nil)
	path, err := filepath.EvalSymlinks("/bin/sh") // which did not change lately
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var boot unix.Timespec
	if err := errors.Join(unix.Stat(path, &st), unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b := &eventtest.Builder{Header: eventtest.Header{Hook: 14, Kind: 1, Time: uint64(boot.Nano())}}
	raise(n, m, b.File(0, 1, [32]byte{}).Inode(eventtest.InodeCell{
		Mode: st.Mode, DevMajor: unix.Major(st.Dev), DevMinor: unix.Minor(st.Dev), Ino: st.Ino, Size: uint64(st.Size),
		CtimeSec: uint64(st.Ctim.Sec), CtimeNsec: uint64(st.Ctim.Nsec),
	}).Path(eventtest.PathCell{Text: path}))
	n.Shut()
	if err := n.Export(context.Background(), event.Current, &out); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`"digest": "%x"}`, sha256.Sum256(content)); !strings.Contains(out.String(), want) {
		t.Errorf("no %s in %s", want, out.String())
	}
}

// Close ends an export that is under way, and the account can be asked for during it
// and afterwards.
func TestCloseWhileExporting(t *testing.T) {
	n, m := newNamespace(t, silent{})
	out, exported := output{make(chan string, 1)}, make(chan error, 1)
	go func() { exported <- n.Export(context.Background(), event.Current, out) }()
	raise(n, m, capable())
	out.want(t, "1")
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for range 1000 {
			n.Totals()
			n.Tasks()
		}
	}()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-exported; !errors.Is(err, ringbuf.ErrClosed) {
		t.Errorf("Export returned %v", err)
	}
	<-asked
	if totals := n.Totals(); totals.Balance.Raised != 1 || totals.Written != 1 {
		t.Errorf("after the end the account is %+v", totals)
	}
	if err := n.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
}

// judged is a magazine that has another event to judge each time, also while it is being closed.
type judged struct {
	*memory
	closing atomic.Bool
	once    sync.Once
	scanned chan struct{}
}

func (j *judged) Scan(fn func(record []byte) error) (n int, err error) {
	if j.memory.isClosed() {
		return 0, ringbuf.ErrClosed
	}
	if j.closing.Load() {
		defer j.once.Do(func() { close(j.scanned) })
	}
	return 1, fn((&eventtest.Builder{Header: eventtest.Header{Hook: 82, Kind: 1, Slot: 1, Ticket: 1}}).Scalar(1).Scalar(0).Record())
}

func (j *judged) Close() error {
	j.closing.Store(true)
	<-j.scanned
	return j.memory.Close()
}

// TestCloseWhileJudging: Close takes nothing away from who judges meanwhile.
func TestCloseWhileJudging(t *testing.T) {
	n, m := newNamespace(t, nil)
	n.magazine = &judged{memory: m, scanned: make(chan struct{})}
	n.config.Judge = func(*event.Record) verdict.Verdict { return verdict.Trusted }
	n.door = &doorkeeper{judge: n.judge, decisions: newDecisions(), slots: verdict.NewSlots(make([]bpf.Slot, 2))}
	n.state.Raised = 1 // which keeps the reader waiting
	exported := make(chan error, 1)
	go func() { exported <- n.Export(context.Background(), event.Current, io.Discard) }()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-exported; !errors.Is(err, ringbuf.ErrClosed) {
		t.Errorf("Export returned %v", err)
	}
}

// TestExportCancelled: an export ends with its context also while one record follows another.
func TestExportCancelled(t *testing.T) {
	n, _ := newNamespace(t, nil)
	n.magazine = &endless{memory{wake: make(chan struct{}, 1)}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.Export(ctx, event.Current, io.Discard); !errors.Is(err, context.Canceled) || n.Rounds() > 1 {
		t.Errorf("%v after %d rounds", err, n.Rounds())
	}
}

// endless is a magazine with many records.
type endless struct{ memory }

func (e *endless) ReadBatch(func(record []byte) error) (n int, err error) { return manyRecords, nil }

// TestExportAggregate: the records of an external namespace begin with the aggregate, and
// it is not counted as an event.
func TestExportAggregate(t *testing.T) {
	n, _ := newNamespace(t, nil)
	n.aggregate = []byte{1, 0xab}
	n.Shut()
	var out bytes.Buffer
	if err := n.Export(context.Background(), event.Current, &out); err != nil {
		t.Fatal(err)
	}
	const want = `{"export": {"type": "aggregate"}, "aggregate": {"value": "01ab"}}` + "\n"
	if out.String() != want || n.Totals().Written != 0 {
		t.Errorf("%q, %d written", out.String(), n.Totals().Written)
	}
}

// TestBeginClosed: what was closed since it was prepared stays closed, and does not begin.
func TestBeginClosed(t *testing.T) {
	n, _ := newNamespace(t, nil)
	atomic.OrUint32(&n.state.Flags, bpf.NamespaceClosed)
	if err := n.Begin(0, false); !errors.Is(err, loader.ErrRemoved) {
		t.Errorf("Begin returned %v", err)
	}
	if n.state.Flags&bpf.NamespaceClosed == 0 || n.state.Id != 0 {
		t.Errorf("it has the flags %#x and the id %d", n.state.Flags, n.state.Id)
	}
}
