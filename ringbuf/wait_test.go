// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is what a test waits for something that must happen.
const patience = 10 * time.Second

// async runs Wait in a goroutine and returns the channel of its result.
func async(m *Magazine, timeout time.Duration) chan error {
	result := make(chan error, 1)
	go func() { result <- m.Wait(timeout) }()
	return result
}

// await takes the result of async; it must come.
func await(t *testing.T, result chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		t.Fatal("Wait did not return")
		return nil
	}
}

// asleep gives a Wait in another goroutine time to fall asleep. If it has not,
// the test is weaker, not wrong.
func asleep() { time.Sleep(20 * time.Millisecond) }

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	check(t, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func TestWaitTimeout(t *testing.T) {
	_, m := newMagazineFor(t, os.Getpagesize())
	for _, timeout := range []time.Duration{0, time.Microsecond, 20 * time.Millisecond} {
		start := time.Now()
		if err := m.Wait(timeout); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Wait(%v) = %v", timeout, err)
		}
		if took := time.Since(start); took < timeout {
			t.Errorf("Wait(%v) took %v", timeout, took)
		}
	}
}

func TestWaitDataThere(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "a")
	check(t, m.Wait(0))
	check(t, m.Wait(-1))
	wantBatch(t, m, "a")
	if err := m.Wait(0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Wait of a drained magazine = %v", err)
	}
}

// A record that nobody announces is there for a Wait that begins later.
func TestWaitSeesUnannounced(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	r, _ := s.reserve(1)
	s.commit(r, noWakeup)
	check(t, m.Wait(-1))
}

func TestWaitSignal(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	for range 3 {
		result := async(m, -1)
		asleep()
		s.mustPut(t, "a")
		check(t, await(t, result))
		wantBatch(t, m, "a")
	}
}

func TestWaitWake(t *testing.T) {
	_, m := newMagazineFor(t, os.Getpagesize())
	result := async(m, -1)
	asleep()
	m.Wake()
	check(t, await(t, result))

	m.Wake()
	m.Wake()
	check(t, m.Wait(-1)) // kept until somebody waits, and once only
	if err := m.Wait(0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("second Wait after two Wakes = %v", err)
	}
	m.Wake()
	check(t, m.Wait(0)) // a look sees it too
}

func TestWaitBusyHeadUntilCommit(t *testing.T) {
	for name, flags := range map[string]commitFlags{
		"announced": 0, "unannounced": noWakeup, "discarded": discard,
	} {
		t.Run(name, func(t *testing.T) {
			s, m := newMagazineFor(t, os.Getpagesize())
			r, _ := s.reserve(1)
			result := async(m, -1)
			asleep()
			select {
			case err := <-result:
				t.Fatalf("Wait = %v while the record was busy", err)
			default:
			}
			s.commit(r, flags)
			check(t, await(t, result))
		})
	}
}

// A busy record at the head, with the map readable all the time, must not spin.
func TestWaitBusyHeadSleeps(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	_, _ = s.reserve(1)
	_, err := unix.Write(s.notify, one[:])
	check(t, err)
	before := processorTime(t)
	if err := m.Wait(300 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Wait = %v", err)
	}
	if used := processorTime(t) - before; used > 150*time.Millisecond {
		t.Errorf("300 ms of waiting took %v of processor time", used)
	}
}

func TestWaitClose(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	result := async(m, -1)
	asleep()
	check(t, m.Close())
	if err := await(t, result); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait = %v, want ErrClosed", err)
	}
	check(t, m.Close())
	m.Wake()
	if err := m.Wait(-1); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait after Close = %v", err)
	}
	if n, err := m.ReadBatch(nil); n != 0 || !errors.Is(err, ErrClosed) {
		t.Errorf("ReadBatch after Close = %d, %v", n, err)
	}
	s.mustPut(t, "too late")
	if !m.Drained() || m.Size() != uint64(os.Getpagesize()) {
		t.Errorf("after Close: used %d, size %d", m.Used(), m.Size())
	}
}

func TestCloseKeepsUsed(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "a")
	check(t, m.Close())
	if m.Used() != 16 || m.Drained() {
		t.Errorf("Used = %d, Drained = %v, want what was left unread", m.Used(), m.Drained())
	}
}

// Close ends a batch after the record that is being handled, and only then takes
// the memory away.
func TestCloseDuringReadBatch(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	s.mustPut(t, "a", "b")
	closed := make(chan error, 1)
	n, err := m.ReadBatch(func(record []byte) error {
		go func() { closed <- m.Close() }()
		for !m.closed.Load() {
			runtime.Gosched()
		}
		asleep()
		if string(record) != "a" {
			t.Errorf("record %q", record)
		}
		return nil
	})
	if n != 1 || err != ErrClosed {
		t.Errorf("ReadBatch = %d, %v", n, err)
	}
	check(t, <-closed)
	if m.Used() != 16 {
		t.Errorf("Used = %d, want that of the record left", m.Used())
	}
}

func TestConcurrentCallers(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for m.Wait(-1) == nil {
				_, _ = m.ReadBatch(func([]byte) error { return nil })
			}
		})
		group.Go(func() {
			for range 2000 {
				m.Wake()
				_ = m.Used() > m.Size()
				s.put("abc")
			}
		})
	}
	group.Go(func() {
		asleep()
		check(t, m.Close())
	})
	check(t, m.Close())
	group.Wait()
}

// The reader sleeps whenever it finds nothing; each record must come nonetheless,
// though the simulated kernel signals only commits at the consumer position.
func TestWaitMissesNothing(t *testing.T) {
	s, m := newMagazineFor(t, os.Getpagesize())
	const count = 20_000
	var numbers atomic.Uint64
	var producers sync.WaitGroup
	for seed := range uint64(2) {
		producers.Go(func() { produce(s, seed, &numbers, count) })
	}
	ledger := NewLedger(m.Window(16), 0)
	for ledger.delivered < count {
		if _, err := m.ReadBatch(booker(ledger)); err != nil {
			t.Fatal(err)
		}
		if ledger.delivered >= count {
			break
		}
		if err := m.Wait(patience); err != nil {
			t.Fatalf("after %d records, %d bytes unread: %v", ledger.delivered, m.Used(), err)
		}
	}
	producers.Wait()
	_, err := m.ReadBatch(booker(ledger))
	check(t, err)
	if err := ledger.Balance(numbers.Load(), nil).Err(); err != nil {
		t.Error(err)
	}
	t.Logf("%d records, %d signals", numbers.Load(), s.sent.Load())
}
