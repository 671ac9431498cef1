// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lastingOutput returns one that is open, and what it says.
func lastingOutput(t *testing.T, name string, stdout io.Writer) (*lasting, *bytes.Buffer) {
	t.Helper()
	said := &bytes.Buffer{}
	l, err := newLasting(name, &streams{stdout, said})
	if err == nil {
		err = l.open()
	}
	if err != nil {
		t.Fatal(err)
	}
	return l, said
}

// put writes lines as Export does, at once also after an error.
func put(t *testing.T, l *lasting, lines string) {
	t.Helper()
	l.mu.Lock()
	l.tried = time.Time{}
	l.mu.Unlock()
	if n, err := l.Write([]byte(lines)); n != len(lines) || err != nil {
		t.Errorf("%d of %d bytes, %v", n, len(lines), err)
	}
}

// TestLastingAppends: what is there stays, with its mode, and what comes begins on a line of its own. A new file is for its owner.
func TestLastingAppends(t *testing.T) {
	folder := t.TempDir()
	there, anew := existing(t, folder), filepath.Join(folder, "new")
	for _, content := range []string{"", "one\n", "one\ncut"} {
		if err := os.WriteFile(there, []byte(content), 0); err != nil {
			t.Fatal(err)
		}
		l, _ := lastingOutput(t, there, nil)
		put(t, l, "two\n")
		want := content + "two\n"
		if strings.HasSuffix(content, "cut") {
			want = content + "\ntwo\n"
		}
		mustBe(t, there, want, 0o666)
		if err := l.close(); err != nil {
			t.Error(err)
		}
	}
	l, said := lastingOutput(t, anew, nil)
	put(t, l, "one\ntwo\n")
	if err := os.Rename(anew, anew+".1"); err != nil {
		t.Fatal(err)
	}
	put(t, l, "three\n")
	l.again()
	put(t, l, "four\n")
	mustBe(t, anew+".1", "one\ntwo\nthree\n", 0o600)
	mustBe(t, anew, "four\n", 0o600)
	// One that cannot be opened is no reason to leave the one that there is.
	if err := os.Remove(anew); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(there, anew); err != nil {
		t.Fatal(err)
	}
	l.again()
	put(t, l, "five\n")
	if written := l.written.Load(); written != 5 || l.wrong.Load() != nil || !strings.Contains(said.String(), "not opened anew: output "+anew+": "+errSymlink.Error()) {
		t.Errorf("%d written, %v: %s", written, l.wrong.Load(), said)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
}

// TestLastingStart: what is certainly wrong ends a service before it begins.
func TestLastingStart(t *testing.T) {
	folder := t.TempDir()
	if _, err := newLasting(folder, &streams{}); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Error(err)
	}
	l, err := newLasting(filepath.Join(folder, "sub", "file"), &streams{})
	if err == nil {
		t.Error("no folder is no error")
	}
	if l.open() == nil {
		t.Error("it was opened")
	}
}

// TestLastingFails: an error is said once, what comes meanwhile is not written, and writing goes on when it can.
func TestLastingFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	l, said := lastingOutput(t, file, nil)
	expect := func(text string, written uint64, wrong bool) {
		t.Helper()
		if got := said.String(); got != text || l.written.Load() != written || (l.wrong.Load() != nil) != wrong {
			t.Errorf("%d written, wrong %v, says %q; want %d, %v, %q", l.written.Load(), l.wrong.Load(), got, written, wrong, text)
		}
		said.Reset()
	}
	expect("tsem-bpf: output "+file+": nobody reads from this FIFO; records are not written until that is mended\n", 0, true)
	put(t, l, "one\n")
	expect("", 0, true)
	read := func() *os.File {
		reader, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return reader
	}
	reader := read()
	put(t, l, "two\nthree\n")
	expect("tsem-bpf: records are written to "+file+" again\n", 2, false)
	got := make([]byte, 100)
	if n, err := reader.Read(got); string(got[:n]) != "two\nthree\n" || err != nil {
		t.Errorf("%q, %v", got[:n], err)
	}
	reader.Close()
	put(t, l, "four\n")
	expect("tsem-bpf: write "+file+": broken pipe; records are not written until that is mended\n", 2, true)
	reader = read()
	defer reader.Close()
	put(t, l, "five\n")
	expect("tsem-bpf: records are written to "+file+" again\n", 3, false)
	if err := l.close(); err != nil {
		t.Error(err)
	}
	if all, err := io.ReadAll(reader); string(all) != "five\n" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	l, said = lastingOutput(t, "/dev/full", nil)
	put(t, l, "one\n")
	put(t, l, "two\n")
	expect("tsem-bpf: write /dev/full: no space left on device; records are not written until that is mended\n", 0, true)
	var stdout bytes.Buffer
	l, _ = lastingOutput(t, "-", &stdout)
	put(t, l, "one\n")
	l.again()
	put(t, l, "two\n")
	if stdout.String() != "one\ntwo\n" {
		t.Errorf("%q", stdout.String())
	}
}

// smallDisk has room for some bytes.
type smallDisk struct {
	bytes.Buffer
	room int
}

func (d *smallDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, unix.ENOSPC
	}
	return n, nil
}

// TestLastingCut: behind a part of a line that cannot be taken back the next one begins on a line of its own, as soon as there is room.
func TestLastingCut(t *testing.T) {
	disk := &smallDisk{room: len("one\ntw")}
	l, _ := lastingOutput(t, "-", disk)
	put(t, l, "one\ntwo\nthree\n")
	put(t, l, "four\n") // and no room for any
	disk.room = 100
	put(t, l, "five\n")
	put(t, l, "six\n")
	if want := "one\ntw\nfive\nsix\n"; disk.String() != want || l.written.Load() != 3 {
		t.Errorf("%d written, %q; want 3, %q", l.written.Load(), disk.String(), want)
	}
}

// TestLastingStalls: who raises events learns that a write takes long, and that it does no more; the end waits for none.
func TestLastingStalls(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	l, _ := lastingOutput(t, file, nil)
	stalls := make(chan bool)
	l.stalled = func(holds bool) { stalls <- holds }
	line := strings.Repeat("x", pipeWrite-1) + "\n"
	const lines = 100 // more than a pipe holds
	var done atomic.Bool
	go func() {
		put(t, l, strings.Repeat(line, lines))
		done.Store(true)
	}()
	if !<-stalls || done.Load() {
		t.Error("not stalled")
	}
	if l.stuckFor() == 0 {
		t.Error("no write is stuck")
	}
	drained := make(chan int64)
	go func() {
		n, _ := io.CopyN(io.Discard, reader, lines*pipeWrite)
		drained <- n
	}()
	if <-stalls {
		t.Error("stalled again")
	}
	if n := <-drained; n != lines*pipeWrite {
		t.Errorf("%d bytes", n)
	}
	ended := make(chan struct{})
	go func() {
		put(t, l, strings.Repeat(line, lines))
		close(ended)
	}()
	if !<-stalls {
		t.Error("not stalled")
	}
	l.giveUp()
	if <-stalls {
		t.Error("stalled again")
	}
	if <-ended; l.wrong.Load() == nil || l.written.Load() <= lines {
		t.Errorf("%d written, %v", l.written.Load(), l.wrong.Load())
	}
}
