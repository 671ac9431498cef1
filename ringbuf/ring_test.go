// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// batch reads one batch into strings.
func batch(t testing.TB, m *Magazine) (texts []string) {
	t.Helper()
	n, err := m.ReadBatch(func(record []byte) error {
		texts = append(texts, string(record))
		return nil
	})
	check(t, err)
	if n != len(texts) {
		t.Fatalf("ReadBatch = %d, called fn %d times", n, len(texts))
	}
	return texts
}

func wantBatch(t testing.TB, m *Magazine, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, batch(t, m)); diff != "" {
		t.Fatalf("batch (-want +got):\n%s", diff)
	}
}

func TestReadBatchOrder(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	wantBatch(t, m)
	s.mustPut(t, "a", "", "12345678", "123456789")
	if got, want := m.Used(), uint64(16+8+16+24); got != want {
		t.Errorf("Used = %d, want %d", got, want)
	}
	wantBatch(t, m, "a", "", "12345678", "123456789")
	if !m.Drained() {
		t.Errorf("not drained, used %d", m.Used())
	}
}

func TestReadBatchStopsAtBusy(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "a")
	slow, _ := s.reserve(1)
	copy(slow.data, "b")
	s.mustPut(t, "c")
	wantBatch(t, m, "a")
	wantBatch(t, m)
	if m.Drained() {
		t.Error("drained with a record reserved")
	}
	s.commit(slow, 0)
	wantBatch(t, m, "b", "c")
}

func TestReadBatchSkipsDiscarded(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	for _, text := range []string{"a", "b"} {
		r, _ := s.reserve(100)
		s.commit(r, discard)
		s.mustPut(t, text)
	}
	last, _ := s.reserve(3)
	s.commit(last, discard)
	wantBatch(t, m, "a", "b")
	if !m.Drained() {
		t.Error("a discarded record at the end was not consumed")
	}
}

func TestReadBatchWrapsAround(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	text := strings.Repeat("0123456789", 100)
	for range 50 {
		s.mustPut(t, text, text[:333])
		wantBatch(t, m, text, text[:333])
	}
}

// The positions only ever rise; they must not matter at the end of 64 bits.
func TestReadPositionOverflow(t *testing.T) {
	s, r := heapRing(4096)
	atomic.StoreUint64(r.consumer, ^uint64(0)-15)
	atomic.StoreUint64(r.producer, ^uint64(0)-15)
	var closed atomic.Bool
	for range 10 {
		s.mustPut(t, "record")
	}
	if n, err := r.read(&closed, func([]byte) error { return nil }); n != 10 || err != nil {
		t.Fatalf("read = %d, %v", n, err)
	}
}

// The room of a record is given back before the next one is handed out, and
// records that come in meanwhile wait for the next batch.
func TestReadBatchGivesRoomEarly(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	text := strings.Repeat("x", 1000)
	for s.put(text) {
	}
	calls := 0
	n, err := m.ReadBatch(func([]byte) error {
		if room := s.put(text); room != (calls > 0) {
			t.Errorf("call %d: room %v", calls, room)
		}
		calls++
		return nil
	})
	if n != 4 || err != nil {
		t.Fatalf("ReadBatch = %d, %v, want the 4 records that were there", n, err)
	}
	if got := len(batch(t, m)); got != 3 {
		t.Fatalf("second batch has %d records, want 3", got)
	}
}

func TestReadBatchErrorConsumesRecord(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "a", "bad", "c")
	bad := errors.New("bad")
	n, err := m.ReadBatch(func(record []byte) error {
		if string(record) == "bad" {
			return bad
		}
		return nil
	})
	if n != 2 || err != bad {
		t.Fatalf("ReadBatch = %d, %v", n, err)
	}
	wantBatch(t, m, "c")
}

func TestReadBatchPanicLeavesRecord(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "a")
	func() {
		defer func() { _ = recover() }()
		_, _ = m.ReadBatch(func([]byte) error { panic("in fn") })
	}()
	wantBatch(t, m, "a")
}

func TestReadBatchRecordCannotGrow(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "abc")
	_, err := m.ReadBatch(func(record []byte) error {
		if cap(record) != 3 {
			t.Errorf("capacity %d: append would write to the ring", cap(record))
		}
		return nil
	})
	check(t, err)
}

func TestReadBatchCorrupt(t *testing.T) {
	for name, damage := range map[string]func(s *simulator){
		"consumer misaligned":        func(s *simulator) { *s.consumer = 4 },
		"consumer ahead of producer": func(s *simulator) { *s.consumer = 64 },
		"producer too far":           func(s *simulator) { *s.producer = s.size() + 8 },
		"producer misaligned":        func(s *simulator) { *s.producer = 12 },
		"record too long":            func(s *simulator) { *s.word(0) = 9 },
		"record longer than ring":    func(s *simulator) { *s.word(0) = lengthMask },
	} {
		t.Run(name, func(t *testing.T) {
			s, m := newMagazineFor(t, os.Getpagesize())
			s.mustPut(t, "12345678")
			damage(s)
			if err := m.Wait(-1); err != nil {
				t.Errorf("Wait = %v: it would hide the damage", err)
			}
			n, err := m.ReadBatch(func([]byte) error { return nil })
			if n != 0 || !errors.Is(err, ErrCorrupt) {
				t.Errorf("ReadBatch = %d, %v, want ErrCorrupt", n, err)
			}
		})
	}
}

// A successor goes on where the predecessor stopped.
func TestReadBatchSuccessor(t *testing.T) {
	s, r := heapRing(4096)
	s.mustPut(t, "a", "b", "c")
	var closed atomic.Bool
	stop := errors.New("stop")
	if n, err := r.read(&closed, func([]byte) error { return stop }); n != 1 || err != stop {
		t.Fatalf("read = %d, %v", n, err)
	}
	successor := newRing(r.consumer, r.producer, r.data)
	var got []string
	_, err := successor.read(&closed, func(record []byte) error {
		got = append(got, string(record))
		return nil
	})
	check(t, err)
	if diff := cmp.Diff([]string{"b", "c"}, got); diff != "" {
		t.Errorf("successor (-want +got):\n%s", diff)
	}
}

func TestOpenRefusesOtherMaps(t *testing.T) {
	if _, err := Open(&ebpf.Map{}); !errors.Is(err, ErrMap) {
		t.Errorf("Open of no ring = %v, want ErrMap", err)
	}
}

// produce writes records of random size until count of them are numbered, in
// the order of the kernel half: reserve, number, fill, submit; some are discarded.
func produce(s *simulator, seed uint64, numbers *atomic.Uint64, count uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for numbers.Load() < count {
		r, ok := s.reserve(16 + rng.IntN(300))
		if !ok {
			runtime.Gosched()
			continue
		}
		if rng.IntN(10) == 0 {
			s.commit(r, discard)
			continue
		}
		number := numbers.Add(1)
		if rng.IntN(20) == 0 {
			runtime.Gosched()
		}
		for i := range r.data[8:] {
			r.data[8+i] = byte(number)
		}
		binary.NativeEndian.PutUint64(r.data, number)
		s.commit(r, 0)
	}
}

// booker checks the content of a record and books it.
func booker(ledger *Ledger) func(record []byte) error {
	return func(record []byte) error {
		number := binary.NativeEndian.Uint64(record)
		for _, b := range record[8:] {
			if b != byte(number) {
				return errors.New("record is torn")
			}
		}
		return ledger.Saw(number)
	}
}

// Several producers against one reader in memory that the race detector sees.
func TestConcurrentProducers(t *testing.T) {
	s, r := heapRing(4096)
	const count = 20_000
	var numbers atomic.Uint64
	var producers sync.WaitGroup
	for seed := range uint64(3) {
		producers.Go(func() { produce(s, seed, &numbers, count) })
	}
	done := make(chan struct{})
	go func() { producers.Wait(); close(done) }()
	ledger := NewLedger(0, 0)
	var closed atomic.Bool
	for finished := false; ; {
		n, err := r.read(&closed, booker(ledger))
		check(t, err)
		if n > 0 {
			continue
		}
		if finished {
			break
		}
		select {
		case <-done:
			finished = true
		default:
			runtime.Gosched()
		}
	}
	if r.used() != 0 {
		t.Errorf("%d bytes left", r.used())
	}
	if err := ledger.Balance(numbers.Load(), nil).Err(); err != nil {
		t.Error(err)
	}
}

func BenchmarkReadBatch(b *testing.B) {
	s, m := newMagazineFor(b, 1<<20)
	text := strings.Repeat("x", 500)
	total := 0
	fn := func(record []byte) error { total += len(record); return nil }
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for read := 0; read < b.N; {
		b.StopTimer()
		for i := 0; i < 1000 && read+i < b.N; i++ {
			s.mustPut(b, text)
		}
		b.StartTimer()
		n, err := m.ReadBatch(fn)
		check(b, err)
		read += n
	}
}

func BenchmarkReadBatchEmpty(b *testing.B) {
	_, m := newMagazineFor(b, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = m.ReadBatch(nil)
	}
}
