// SPDX-License-Identifier: Apache-2.0

package ringbuf

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// texts collects records.
func texts(into *[]string) func([]byte) error {
	return func(record []byte) error {
		*into = append(*into, string(record))
		return nil
	}
}

// TestScan: what is scanned is not consumed, what is not scanned is not read.
func TestScan(t *testing.T) {
	s, m := newMagazineFor(t, 4096)
	s.mustPut(t, "read before")
	var scanned, read []string
	if n, err := m.ReadBatch(texts(&read)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	s.mustPut(t, "a", "b")
	if n, err := m.Scan(texts(&scanned)); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s.mustPut(t, "c")
	if m.Drained() {
		t.Error("scanning consumed")
	}
	if n, err := m.ReadBatch(texts(&read)); n != 2 || err != nil {
		t.Error("read further than scanned:", n, err)
	}
	if n, err := m.Scan(texts(&scanned)); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n, err := m.Scan(texts(&scanned)); n != 0 || err != nil {
		t.Error("scanned twice:", n, err)
	}
	if n, err := m.ReadBatch(texts(&read)); n != 1 || err != nil {
		t.Error(n, err)
	}
	if !slices.Equal(scanned, []string{"a", "b", "c"}) || !slices.Equal(read, []string{"read before", "a", "b", "c"}) {
		t.Errorf("scanned %q, read %q", scanned, read)
	}
}

// TestScanStopsAtBusy: and goes on there; a discarded record is skipped.
func TestScanStopsAtBusy(t *testing.T) {
	s, m := newMagazineFor(t, 4096)
	busy, _ := s.reserve(8)
	gone, _ := s.reserve(8)
	s.commit(gone, discard)
	s.mustPut(t, "behind")
	var scanned []string
	if n, err := m.Scan(texts(&scanned)); n != 0 || err != nil || m.Scanned() {
		t.Fatal(n, err, m.Scanned())
	}
	copy(busy.data, "12345678")
	s.commit(busy, noWakeup)
	if m.Scanned() {
		t.Error("all is scanned before the scan")
	}
	if n, err := m.Scan(texts(&scanned)); n != 2 || err != nil || !slices.Equal(scanned, []string{"12345678", "behind"}) {
		t.Error(n, err, scanned)
	}
	if !m.Scanned() {
		t.Error("not all is scanned")
	}
	s.mustPut(t, "later")
	if m.Scanned() {
		t.Error("a later record is scanned")
	}
}

// TestScanErrorPassesRecord: as with ReadBatch, it does not come back for ever.
func TestScanErrorPassesRecord(t *testing.T) {
	s, m := newMagazineFor(t, 4096)
	s.mustPut(t, "a", "b")
	wrong := errors.New("wrong")
	if n, err := m.Scan(func([]byte) error { return wrong }); n != 1 || err != wrong {
		t.Error(n, err)
	}
	var scanned []string
	if n, err := m.Scan(texts(&scanned)); n != 1 || err != nil || scanned[0] != "b" {
		t.Error(n, err, scanned)
	}
}

func TestScanClosed(t *testing.T) {
	_, m := newMagazineFor(t, 4096)
	check(t, m.Close())
	if _, err := m.Scan(nil); err != ErrClosed {
		t.Error(err)
	}
}

// TestScanBesideRead: several scanners, a reader and a producer that the ring holds up.
func TestScanBesideRead(t *testing.T) {
	const records = 5000
	s, m := newMagazineFor(t, 4096)
	var scanned, read []string
	if _, err := m.Scan(texts(&scanned)); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for i := 0; i < records; {
			if s.put(fmt.Sprint("record ", i)) {
				i++
			}
		}
	})
	done := make(chan struct{})
	for range 2 {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if _, err := m.Scan(texts(&scanned)); err != nil { // under the lock of Scan
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for len(read) < records {
		_, err := m.ReadBatch(texts(&read))
		check(t, err)
	}
	close(done)
	group.Wait()
	for i, text := range read {
		if want := fmt.Sprint("record ", i); text != want || scanned[i] != want {
			t.Fatalf("number %d is %q, scanned %q", i, text, scanned[i])
		}
	}
}

func TestScanDoesNotAllocate(t *testing.T) {
	s, m := newMagazineFor(t, 4096)
	nothing := func([]byte) error { return nil }
	if n := testing.AllocsPerRun(100, func() {
		s.put("a record")
		_, _ = m.Scan(nothing)
		_, _ = m.ReadBatch(nothing)
	}); n != 0 {
		t.Error(n)
	}
}

// TestAwait: it sees a record that Scan has not had, complete, and none else; it gives up when
// the time is over, and when the magazine is closed.
func TestAwait(t *testing.T) {
	s, m := newMagazineFor(t, 4096)
	scan := func() {
		t.Helper()
		if _, err := m.Scan(func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	scan()
	if m.Await(time.Millisecond) {
		t.Error("a record in an empty magazine")
	}
	busy, _ := s.reserve(8)
	if m.Await(time.Millisecond) {
		t.Error("a record that is not complete")
	}
	go s.commit(busy, noWakeup)
	if !m.Await(time.Hour) || !m.Await(0) {
		t.Error("the record was not seen")
	}
	scan() // and leaves it in the ring
	if m.Await(0) {
		t.Error("a record that was scanned")
	}
	go m.Close()
	if m.Await(time.Hour) {
		t.Error("a record in a closed magazine")
	}
}
