// SPDX-License-Identifier: Apache-2.0

package tsemfs

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// queueOf makes a queue with records in it.
func queueOf(t *testing.T, records ...string) *Queue {
	t.Helper()
	q := NewQueue(1 << 20)
	for _, r := range records {
		if err := q.Append([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

// expectRead reads from a file and compares the text, or the error if want is none.
func expectRead(t *testing.T, r *reading, offset uint64, size uint32, want string, wantErr error) {
	t.Helper()
	b, err := r.Read(offset, size)
	if string(b) != want || err != wantErr {
		t.Errorf("at %d of at most %d: %q, %v, want %q, %v", offset, size, b, err, want, wantErr)
	}
}

func TestRead(t *testing.T) {
	r := &reading{queue: queueOf(t, "first\n", "second\n", "third\n")}
	expectRead(t, r, 6, 4096, "", nil) // nothing was read yet: the end of nothing
	expectRead(t, r, 0, 4096, "first\n", nil)
	expectRead(t, r, 6, 4096, "", nil)
	expectRead(t, r, 0, 3, "sec", nil)
	expectRead(t, r, 3, 2, "on", nil)
	expectRead(t, r, 5, 4096, "d\n", nil)
	expectRead(t, r, 7, 4096, "", nil)
	expectRead(t, r, 2, 4096, "cond\n", nil) // as often as wanted
	expectRead(t, r, 0, 1, "t", nil)
	expectRead(t, r, 0, 4096, "", unix.ENODATA) // the rest of the third is lost, as in TSEM
	expectRead(t, r, 1, 4096, "", nil)
	expectRead(t, r, 0, 4096, "", unix.ENODATA)
}

func TestUnread(t *testing.T) {
	q := queueOf(t, "first\n", "second\n")
	aborted, other := &reading{queue: q}, &reading{queue: q}
	expectRead(t, aborted, 0, 3, "fir", nil)
	aborted.Unread()
	expectRead(t, other, 0, 3, "fir", nil)
	expectRead(t, other, 3, 3, "st\n", nil)
	other.Unread() // of the rest: it can be read again, and is no record
	expectRead(t, other, 3, 3, "st\n", nil)
	expectRead(t, aborted, 3, 3, "", nil)
	expectRead(t, other, 0, 4096, "second\n", nil)
	expectRead(t, other, 0, 4096, "", unix.ENODATA)
	other.Unread() // of an error: it gave nothing away
	expectRead(t, other, 0, 4096, "", unix.ENODATA)
	if q.Len() != 0 {
		t.Errorf("%d records are left", q.Len())
	}
}

func TestAppend(t *testing.T) {
	q := NewQueue(MaxRecord + 10)
	for text, want := range map[string]string{
		"":                                    "0 bytes, 0 line feeds",
		"none":                                "4 bytes, 0 line feeds",
		"two\nlines\n":                        "10 bytes, 2 line feeds",
		"more\nof":                            "7 bytes, 1 line feeds",
		strings.Repeat("x", MaxRecord) + "\n": "4096 bytes, 1 line feeds; one line of at most 4095 bytes",
	} {
		if err := q.Append([]byte(text)); !errors.Is(err, ErrRecord) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	longest := strings.Repeat("x", MaxRecord-1) + "\n"
	for _, text := range []string{longest, "123456789\n"} {
		if err := q.Append([]byte(text)); err != nil {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if err := q.Append([]byte("\n")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "4105 bytes") {
		t.Error(err)
	}
	r := &reading{queue: q}
	expectRead(t, r, 0, 4096, longest, nil)
	if err := q.Append([]byte(longest)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestPoll(t *testing.T) {
	q := queueOf(t)
	var woken []string
	wake := func(name string) func() { return func() { woken = append(woken, name) } }
	expect := func(r *reading, wake func(), want uint32) {
		t.Helper()
		if got := r.Poll(wake); got != want {
			t.Errorf("%#x, want %#x", got, want)
		}
	}
	one, two, closed := &reading{queue: q}, &reading{queue: q}, &reading{queue: q}
	expect(one, nil, 0)
	expect(one, wake("replaced"), 0)
	expect(one, wake("one"), 0)
	expect(two, wake("two"), 0)
	expect(closed, wake("closed"), 0)
	closed.Close()
	if err := q.Append([]byte("record\n")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(woken, " "); got != "one two" && got != "two one" {
		t.Errorf("woken: %s", got)
	}
	// As long as there is a record, and whoever looks; who has looked is told of the next one all the same.
	expect(one, wake("by another"), 0x41)
	expect(two, nil, 0x41)
	if err := q.Append([]byte("another\n")); err != nil {
		t.Fatal(err)
	}
	expectRead(t, two, 0, 4096, "record\n", nil)
	expect(two, nil, 0x41)
	q.End()
	expect(one, nil, 0x41)
	expectRead(t, one, 0, 4096, "another\n", nil)
	expect(one, nil, unix.POLLHUP)
	one.Unread()
	expect(two, nil, 0x41)
	expectRead(t, two, 0, 4096, "another\n", nil)
	expectRead(t, two, 0, 4096, "", unix.ENODATA)
	expect(two, wake("in vain"), unix.POLLHUP)
	if got := strings.Join(woken[2:], ", "); got != "by another" {
		t.Errorf("woken: %s", got)
	}

	// The end wakes, and so does a record that comes back.
	q = queueOf(t, "record\n")
	one, two = &reading{queue: q}, &reading{queue: q}
	expectRead(t, one, 0, 4096, "record\n", nil)
	expect(two, wake("by the record"), 0)
	one.Unread()
	expectRead(t, one, 0, 4096, "record\n", nil)
	expect(two, wake("by the end"), 0)
	q.End()
	if got := strings.Join(woken[3:], ", "); got != "by the record, by the end" {
		t.Errorf("woken: %s", got)
	}
}

// TestQueue lets many append and many read, some of whose reads are aborted: each record is read
// once, and nobody who polls is forgotten.
func TestQueue(t *testing.T) {
	const writers, readers, each = 4, 3, 500
	q := NewQueue(1 << 20)
	var writing, reads sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				if err := q.Append(fmt.Appendf(nil, "%d %d\n", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	got := make([][]string, readers)
	for i := range readers {
		reads.Go(func() {
			r := &reading{queue: q}
			defer r.Close()
			woken := make(chan struct{}, 1)
			for n := 0; ; n++ {
				b, err := r.Read(0, 4096)
				switch {
				case err == nil && n%7 == 0:
					r.Unread()
				case err == nil:
					got[i] = append(got[i], string(b))
				default:
					switch r.Poll(func() { woken <- struct{}{} }) {
					case 0:
						<-woken
					case unix.POLLHUP:
						return
					}
				}
			}
		})
	}
	writing.Wait()
	q.End()
	reads.Wait()
	seen := make(map[string]int)
	for _, records := range got {
		for _, record := range records {
			seen[record]++
		}
	}
	for w := range writers {
		for i := range each {
			if record := fmt.Sprintf("%d %d\n", w, i); seen[record] != 1 {
				t.Errorf("%q was read %d times", record, seen[record])
			}
		}
	}
}
