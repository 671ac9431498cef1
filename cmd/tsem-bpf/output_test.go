// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const before = "what was there before\n"

func mustBe(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != content || info.Mode() != mode {
		t.Errorf("%s has mode %v and %q, want %v and %q", path, info.Mode(), text, mode, content)
	}
}

func mustBeGone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
}

// existing makes a file that all may read.
func existing(t *testing.T, folder string) string {
	t.Helper()
	path := filepath.Join(folder, "existing")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// opened returns an output that is open and not committed.
func opened(t *testing.T, path string) *output {
	t.Helper()
	o, err := newOutput(path, nil)
	if err == nil {
		err = o.open(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestOutputUntouched: nothing happens to a file before commit.
func TestOutputUntouched(t *testing.T) {
	folder := t.TempDir()
	there, absent := existing(t, folder), filepath.Join(folder, "absent")
	for _, path := range []string{there, absent} {
		if _, err := newOutput(path, nil); err != nil {
			t.Fatal(err)
		}
	}
	mustBeGone(t, absent)
	for _, path := range []string{there, absent} {
		if err := opened(t, path).close(); err != nil {
			t.Error(err)
		}
	}
	mustBe(t, there, before, 0o666)
	mustBeGone(t, absent)
}

// TestOutputAnew: a file is empty and its owner's alone when it is written to.
func TestOutputAnew(t *testing.T) {
	defer unix.Umask(unix.Umask(0o777))
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{existing(t, folder), filepath.Join(folder, "absent")} {
		o := opened(t, path)
		if err := o.commit(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(o, "1\n2\n")
		if err := errors.Join(o.end(), o.close()); err != nil {
			t.Error(err)
		}
		if got := o.written.Load(); got != 2 {
			t.Errorf("%d lines written, want 2", got)
		}
		mustBe(t, path, "1\n2\n", 0o600)
	}
}

// TestOutputKinds: what cannot be written to is refused before anything is loaded.
func TestOutputKinds(t *testing.T) {
	folder := t.TempDir()
	there := existing(t, folder)
	link, dangling := filepath.Join(folder, "link"), filepath.Join(folder, "dangling")
	socket := filepath.Join(folder, "socket")
	for name, to := range map[string]string{link: there, dangling: folder + "/elsewhere"} {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(socket, unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		link:                errSymlink.Error(),
		dangling:            errSymlink.Error(),
		folder:              "is a folder",
		socket:              "is a socket",
		folder + "/no/file": "cannot be made in the folder " + folder + "/no: no such file",
		there + "/file":     "not a directory",
		"":                  "no such file",
		"/dev/fd/1000":      "bad file descriptor",
	} {
		if _, err := newOutput(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("output %q: %v, want %q in it", path, err, want)
		}
	}
	// One that has become a link since.
	if _, _, err := openFile(link, false); !errors.Is(err, errSymlink) {
		t.Errorf("open a link: %v", err)
	}
	mustBe(t, there, before, 0o666)
	mustBeGone(t, folder+"/elsewhere")
}

// TestOutputDescriptor: /dev/fd/N is what the shell left open as N.
func TestOutputDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o := opened(t, fmt.Sprintf("/dev/fd/%d", w.Fd()))
	fmt.Fprint(o, "line\n")
	if err := errors.Join(o.end(), o.close(), w.Close()); err != nil {
		t.Error(err)
	}
	if text, _ := io.ReadAll(r); string(text) != "line\n" {
		t.Errorf("%q", text)
	}
}

// TestOutputFIFO: a FIFO that nobody reads holds up no signal, and gets the records
// once somebody does.
func TestOutputFIFO(t *testing.T) {
	// The open of the first one stays behind, and would take the reader of the second.
	folder := t.TempDir()
	unread, path := filepath.Join(folder, "unread"), filepath.Join(folder, "read")
	if err := errors.Join(unix.Mkfifo(unread, 0o600), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	o, err := newOutput(unread, nil)
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGUSR1 // not one that ends
	signals <- syscall.SIGTERM
	if err := o.open(signals); err == nil || !strings.Contains(err.Error(), "came before a reader") {
		t.Errorf("with nobody reading: %v", err)
	}
	read := make(chan string)
	go func() {
		text, _ := os.ReadFile(path)
		read <- string(text)
	}()
	o = opened(t, path)
	if err := o.commit(); err != nil {
		t.Error(err)
	}
	fmt.Fprint(o, "line\n")
	if err := errors.Join(o.end(), o.close()); err != nil {
		t.Error(err)
	}
	if text := <-read; text != "line\n" {
		t.Errorf("%q", text)
	}
}

// TestOutputStuck: a reader that stops is given up, and it is known what it has got.
func TestOutputStuck(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOutput("-", w)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 999) + "\n"
	done := make(chan bool)
	go func() {
		// More than a pipe holds.
		n, err := io.WriteString(o, strings.Repeat(line, 1000))
		done <- n == 1000*len(line) && err == nil
	}()
	for o.stuckFor() < 100*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	o.giveUp()
	if !<-done {
		t.Error("Write has to take all, and drop what nobody reads")
	}
	if err := o.end(); !errors.Is(err, errGivenUp) {
		t.Errorf("given up: %v", err)
	}
	if err := o.close(); err != nil {
		t.Error(err)
	}
	written := o.written.Load()
	if written == 0 {
		t.Error("nothing was written")
	}
	// Exactly that is in the pipe.
	got := make([]byte, 1<<20)
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := raw.Read(func(fd uintptr) bool { n, err = unix.Read(int(fd), got); return true }); err != nil || n < 0 {
		t.Fatal(err, n)
	}
	if want := strings.Repeat(line, int(written)); string(got[:n]) != want {
		t.Errorf("%d bytes are in the pipe, written are %d lines of %d", n, written, len(line))
	}
}

// shortWriter takes some bytes and then fails.
type shortWriter struct {
	bytes.Buffer
	room int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n, _ := w.Buffer.Write(p[:min(len(p), w.room)])
	w.room -= n
	if n < len(p) {
		return n, unix.ENOSPC
	}
	return n, nil
}

// TestOutputCount: what is said to be written is what is there in whole lines, also
// of a write that was cut; nothing follows it.
func TestOutputCount(t *testing.T) {
	for room := range 12 {
		w := &shortWriter{room: room}
		o, err := newOutput("-", w)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(o, "123\n456\n")
		w.room += 100
		fmt.Fprint(o, "789\n")
		if got, want := o.written.Load(), uint64(strings.Count(w.String(), "\n")); got != want {
			t.Errorf("room for %d: %d lines are written, %d are there", room, got, want)
		}
		err = o.end()
		if room >= 8 {
			if err != nil {
				t.Error(err)
			}
		} else if want := fmt.Sprintf("standard output: no space left on device; %d records are written", room/4) + map[bool]string{true: ", and a part of one more"}[room%4 != 0]; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestHead: writes to a pipe are whole lines that fit into it at once.
func TestHead(t *testing.T) {
	for _, test := range []struct {
		lines string
		limit int
		want  string
	}{
		{"12\n34\n", 0, "12\n34\n"},
		{"12\n34\n", 6, "12\n34\n"},
		{"12\n34\n", 5, "12\n"},
		{"12\n34\n", 3, "12\n"},
		{"12\n34\n", 2, "12\n"}, // longer than the limit: alone
	} {
		if got := head([]byte(test.lines), test.limit); string(got) != test.want {
			t.Errorf("head(%q, %d) = %q, want %q", test.lines, test.limit, got, test.want)
		}
	}
}

// TestOutputCut: what a full disk leaves of a line is taken back.
func TestOutputCut(t *testing.T) {
	const line = "123456789\n"
	path := filepath.Join(t.TempDir(), "file")
	o := opened(t, path)
	if err := o.commit(); err != nil {
		t.Fatal(err)
	}
	var all unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &all); err != nil {
		t.Fatal(err)
	}
	// A write beyond it is short, and the next one fails.
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: all.Max}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		fmt.Fprint(o, strings.Repeat(line, 100))
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &all); err != nil {
		t.Fatal(err)
	}
	if err := o.end(); !errors.Is(err, unix.EFBIG) || !strings.HasSuffix(err.Error(), "; 409 records are written") {
		t.Error(err)
	}
	if err := o.close(); err != nil {
		t.Error(err)
	}
	mustBe(t, path, strings.Repeat(line, 409), 0o600)
}

// TestOutputClosed: a standard output that the caller closed, or that cannot be
// written to, is seen before anything starts.
func TestOutputClosed(t *testing.T) {
	for _, test := range []struct {
		name        string
		redirection string
		says        string
	}{
		{"-", ">&-", "standard output is closed, or /dev/null and open for reading too: name a file with -o"},
		{"-", "</dev/null >&0", "standard output: is open for reading only"},
		{"-", ">/dev/null", ""},
		{"-", "1<>/dev/null", "or /dev/null and open for reading too: name a file with -o (/dev/null if"},
		{"/dev/stdout", ">&-", "/dev/stdout is closed, or"},
		{"/proc/self/fd/1", ">&-", "/proc/self/fd/1 is closed"},
		{"/dev/fd/0", "<&-", "/dev/fd/0 is closed"},
		{"/dev/fd/9", "", "/dev/fd/9: bad file descriptor"},
		{"/dev/fd/9", "9<>/dev/null", ""},
		{"/dev/stdout", ">/dev/null", ""},
	} {
		cmd := exec.Command("sh", "-c", `exec "$0" `+test.redirection, os.Args[0])
		cmd.Env = append(os.Environ(), "TSEM_OPEN_OUTPUT="+test.name)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (test.says == "") || !strings.Contains(string(out), test.says) {
			t.Errorf("%s %s: %v: %q, want %q in it", test.name, test.redirection, err, out, test.says)
		}
	}
}

// TestMain is also the child of TestOutputClosed, TestTop and TestForeground.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("TSEM_OPEN_OUTPUT") != "":
		if _, err := newOutput(os.Getenv("TSEM_OPEN_OUTPUT"), os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case os.Getenv("TSEM_TOP") != "":
		topOfTest()
	case os.Getenv("TSEM_FOREGROUND") != "":
		fmt.Println(foreground())
	default:
		os.Exit(m.Run())
	}
}
