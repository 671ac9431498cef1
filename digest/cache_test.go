// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"bytes"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
)

// The states, as these tests call them.
const (
	Exact       = event.DigestExact
	Changed     = event.DigestChanged
	Unsettled   = event.DigestUnsettled
	Unavailable = event.DigestUnavailable
)

// enough is a timeout that only a defect uses up.
const enough = 30 * time.Second

// later are clocks an hour ahead: for them all files have rested.
func later() (uint64, int64) {
	boot, offset := systemClocks()()
	return boot + uint64(time.Hour), offset
}

// testCache returns a Cache that ends with the test. It lives an hour ahead.
func testCache(t *testing.T, read func(int, []byte) (int, error)) *Cache {
	t.Helper()
	return cacheAt(t, read, later)
}

func cacheAt(t *testing.T, read func(int, []byte) (int, error), clocks clocks) *Cache {
	t.Helper()
	c := newCache(read, clocks, newKept())
	t.Cleanup(c.Close)
	return c
}

// write makes a file and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// restedFile returns a file that did not change lately.
func restedFile(t *testing.T) string {
	t.Helper()
	path, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// record returns the request that the kernel half would make for the file at path, an
// hour ahead.
func record(t *testing.T, path string) Request {
	t.Helper()
	fd, err := open(path, look)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstatfs(fd, &fs); err != nil {
		t.Fatal(err)
	}
	ino, err := inodeNumber(fd)
	if err != nil {
		t.Fatal(err)
	}
	boot, _ := later()
	return Request{
		Hash:      crypto.SHA256,
		TID:       uint32(unix.Gettid()),
		Time:      boot,
		Path:      path,
		DevMajor:  unix.Major(uint64(st.Dev)),
		DevMinor:  unix.Minor(uint64(st.Dev)),
		SMagic:    uint32(fs.Type),
		Ino:       ino,
		Size:      uint64(st.Size),
		CtimeSec:  uint64(st.Ctim.Sec),
		CtimeNsec: uint64(st.Ctim.Nsec),
	}
}

// rewrite changes the content of a file, also to the same size, until that shows in
// its change time: before Linux 6.13 not within a tick.
func rewrite(t *testing.T, path, content string) {
	t.Helper()
	before := record(t, path)
	for now := before; now.content() == before.content(); now = record(t, path) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Error(err)
			return
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func hashOf(h crypto.Hash, content []byte) []byte {
	s := h.New()
	s.Write(content)
	return s.Sum(nil)
}

// get asks for a digest, and waits for the answer; without one it is given up.
func get(t *testing.T, c *Cache, req Request) event.Digest {
	t.Helper()
	if d, ok := c.Kept(&req); ok {
		return d
	}
	answer := make(chan event.Digest, 2)
	c.Ask(req, func(d event.Digest) { answer <- d })
	select {
	case d := <-answer:
		return d
	case <-time.After(enough):
		t.Errorf("no answer for %s", req.Path)
	}
	return event.Digest{}
}

// ask asks for a digest that is not expected yet.
func ask(t *testing.T, c *Cache, req Request) (cancel func()) {
	return c.Ask(req, func(d event.Digest) {
		if c.closed() {
			return
		}
		t.Errorf("%s was answered: %v", req.Path, d)
	})
}

func want(t *testing.T, c *Cache, req Request, state event.DigestState, content string) {
	t.Helper()
	got := get(t, c, req)
	if got.State != state {
		t.Fatalf("%s is %v, want %v", req.Path, got.State, state)
	}
	var wanted []byte
	if state != Unavailable {
		wanted = hashOf(req.Hash, []byte(content))
	}
	if !bytes.Equal(got.Sum, wanted) {
		t.Fatalf("digest of %s is %x, want %x", req.Path, got.Sum, wanted)
	}
}

func wantStats(t *testing.T, c *Cache, want Stats) {
	t.Helper()
	if got := c.Stats(); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
}

func TestExact(t *testing.T) {
	content := strings.Repeat("0123456789", chunk/5) // more than one chunk
	path := write(t, "file", content)
	c := testCache(t, unix.Read)
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		req := record(t, path)
		req.Hash = h
		want(t, c, req, Exact, content)
	}
	wantStats(t, c, Stats{Computed: 3, Bytes: 3 * uint64(len(content)), Exact: 3})
}

func TestEmpty(t *testing.T) {
	c := testCache(t, unix.Read)
	want(t, c, Request{Hash: crypto.SHA256, Path: "/nowhere"}, Exact, "")
	wantStats(t, c, Stats{})
}

func TestChangedBefore(t *testing.T) {
	for name, content := range map[string]string{"longer": "new and longer", "same size": "new", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "file", "old")
			req := record(t, path)
			rewrite(t, path, content)
			c := testCache(t, unix.Read)
			want(t, c, req, Changed, content)
			wantStats(t, c, Stats{Computed: 1, Bytes: uint64(len(content)), Changed: 1})
		})
	}
}

func TestChangedWhileRead(t *testing.T) {
	path := write(t, "file", "old")
	c := testCache(t, func(fd int, p []byte) (int, error) {
		n, err := unix.Read(fd, p)
		rewrite(t, path, "new and longer") // not read further than its size was
		return n, err
	})
	want(t, c, record(t, path), Changed, "old")
}

func TestShorterThanItSaid(t *testing.T) {
	path := write(t, "file", "content")
	c := testCache(t, func(fd int, p []byte) (int, error) {
		if err := os.Truncate(path, 0); err != nil {
			return 0, err
		}
		return unix.Read(fd, p)
	})
	want(t, c, record(t, path), Changed, "")
}

func TestReadError(t *testing.T) {
	path := write(t, "file", "content")
	c := testCache(t, func(int, []byte) (int, error) { return 0, unix.EIO })
	want(t, c, record(t, path), Unavailable, "")
	wantStats(t, c, Stats{Unavailable: 1})
}

func TestInterruptedRead(t *testing.T) {
	path := write(t, "file", "content")
	interrupted := false
	c := testCache(t, func(fd int, p []byte) (int, error) {
		if !interrupted {
			interrupted = true
			return -1, unix.EINTR
		}
		return unix.Read(fd, p)
	})
	want(t, c, record(t, path), Exact, "content")
}

func TestKept(t *testing.T) {
	req := record(t, restedFile(t))
	content := readFile(t, req.Path)
	c := testCache(t, unix.Read)
	want(t, c, req, Exact, content)
	again := req
	again.TID, again.Path = 0, "/another/way"
	want(t, c, again, Exact, content)
	wantStats(t, c, Stats{Computed: 1, Bytes: req.Size, Exact: 1, Cached: 1})
	again.CtimeNsec++
	want(t, c, again, Unavailable, "")
}

func TestFUSENotKept(t *testing.T) {
	req := record(t, restedFile(t))
	content := readFile(t, req.Path)
	req.SMagic = fuseMagic
	c := testCache(t, unix.Read)
	for range 2 {
		want(t, c, req, Exact, content)
	}
	wantStats(t, c, Stats{Computed: 2, Bytes: 2 * req.Size, Exact: 2})
}

// stalled returns a read function that waits for release, and says when it is called.
func stalled() (read func(int, []byte) (int, error), called chan struct{}, release func()) {
	called = make(chan struct{}, workers+queued)
	gate := make(chan struct{})
	return func(fd int, p []byte) (int, error) {
		called <- struct{}{}
		<-gate
		return unix.Read(fd, p)
	}, called, sync.OnceFunc(func() { close(gate) })
}

// A file that hangs holds up nobody: who asked for it, who asks for another one, and
// who gives up.
func TestHangingFile(t *testing.T) {
	slow := write(t, "slow", "content")
	release, called := make(chan struct{}), make(chan struct{})
	hang := sync.OnceFunc(func() { close(called); <-release })
	c := testCache(t, func(fd int, p []byte) (int, error) {
		if n, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || n == slow {
			hang()
		}
		return unix.Read(fd, p)
	})
	defer sync.OnceFunc(func() { close(release) })()
	cancel := ask(t, c, record(t, slow))
	<-called
	want(t, c, record(t, write(t, "file", "another")), Exact, "another")
	cancel()
	cancel()
	if s := c.Stats(); s.Cancelled != 1 || s.Exact != 1 {
		t.Errorf("counters are %+v", s)
	}
}

// A file that nobody waits for any more when its turn comes is not read.
func TestNotWanted(t *testing.T) {
	c, release := busy(t)
	defer release()
	req := record(t, write(t, "file", "content"))
	cancel := ask(t, c, req)
	job := c.running[req.key()]
	if !c.wanted(job) {
		t.Error("a file that somebody waits for is not wanted")
	}
	cancel()
	if c.wanted(job) {
		t.Error("a file that was given up is still wanted")
	}
	release()
	want(t, c, req, Exact, "content")
}

func TestConcurrentRequestsReadOnce(t *testing.T) {
	const requests = 50
	read, called, release := stalled()
	defer release()
	c := testCache(t, read)
	req := record(t, restedFile(t))
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			req := req
			req.TID = uint32(i)
			if d := get(t, c, req); d.State != Exact {
				t.Errorf("request %d is %v", i, d.State)
			}
		})
	}
	<-called
	release()
	all.Wait()
	s := c.Stats()
	if s.Computed != 1 || s.Exact+s.Cached != requests {
		t.Errorf("counters are %+v, want 1 computed and %d answers", s, requests)
	}
}

// busy returns a cache whose workers are all held up, until release is called.
func busy(t *testing.T) (c *Cache, release func()) {
	t.Helper()
	read, called, release := stalled()
	c = testCache(t, read)
	for range workers {
		c.Ask(record(t, write(t, "stalled", "stalled")), func(event.Digest) {})
		<-called
	}
	return c, release
}

// fill asks for as many other files as may wait.
func fill(c *Cache, req Request) {
	for range queued {
		req.Ino++
		c.Ask(req, func(event.Digest) {})
	}
}

// A request that has joined one whose path leads nowhere goes its own way.
func TestSharedFailure(t *testing.T) {
	c, release := busy(t)
	defer release()
	req := record(t, write(t, "file", "content"))
	lost := req
	lost.Path = "/nowhere"
	answers := make(map[string]chan event.Digest)
	for _, r := range []Request{lost, req} {
		answer := make(chan event.Digest, 1)
		answers[r.Path] = answer
		c.Ask(r, func(d event.Digest) { answer <- d })
		if c.running[req.key()].req != lost {
			t.Fatalf("request for %s did not join the one for %s", r.Path, lost.Path)
		}
	}
	release()
	if d := <-answers[lost.Path]; d.State != Unavailable {
		t.Errorf("%s is %v", lost.Path, d.State)
	}
	if d := <-answers[req.Path]; d.State != Exact || !bytes.Equal(d.Sum, hashOf(req.Hash, []byte("content"))) {
		t.Errorf("%s is %v", req.Path, d)
	}
}

func TestOverload(t *testing.T) {
	c, release := busy(t)
	defer release()
	req := record(t, write(t, "file", "content"))
	fill(c, req)
	want(t, c, req, Unavailable, "")
	wantStats(t, c, Stats{Overloaded: 1})
}

// A request that would go its own way, for which there is no room, is refused for that reason.
func TestSharedFailureOverload(t *testing.T) {
	c, release := busy(t)
	defer release()
	req := record(t, write(t, "file", "content"))
	lost := req
	lost.Path = "/nowhere"
	for _, r := range []Request{lost, req} {
		c.Ask(r, func(event.Digest) {})
	}
	j := c.running[req.key()]
	fill(c, req)
	before := c.Stats() // one of them found no room, beside the first one
	c.finish(j, result{})
	if now := c.Stats(); now.Unavailable != before.Unavailable+1 || now.Overloaded != before.Overloaded+1 {
		t.Errorf("counters are %+v, and were %+v", now, before)
	}
}

func TestClose(t *testing.T) {
	read, called, release := stalled()
	defer release()
	c := newCache(read, later, newKept())
	req := record(t, write(t, "file", "content"))
	var waiting sync.WaitGroup
	waiting.Go(func() { want(t, c, req, Unavailable, "") })
	<-called
	c.Close() // does not wait for the one that hangs
	waiting.Wait()
	c.Close()
	want(t, c, req, Unavailable, "")
	release()
	<-c.ended
}

// A file that takes for ever does not hold up Close.
func TestCloseWhileRead(t *testing.T) {
	path := write(t, "sparse", "")
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	reading := make(chan struct{})
	begun := sync.OnceFunc(func() { close(reading) })
	c := newCache(func(fd int, p []byte) (int, error) {
		begun()
		return unix.Read(fd, p)
	}, later, newKept())
	ask(t, c, record(t, path))
	<-reading
	begin := time.Now()
	c.Close()
	if took := time.Since(begin); took >= closing {
		t.Errorf("closing took %v", took)
	}
}

// Caches share what is known; each counts its own answers.
func TestKeptIsShared(t *testing.T) {
	kept := newKept()
	first, second := newCache(unix.Read, later, kept), newCache(unix.Read, later, kept)
	defer first.Close()
	defer second.Close()
	req := record(t, restedFile(t))
	content := readFile(t, req.Path)
	want(t, first, req, Exact, content)
	want(t, second, req, Exact, content)
	wantStats(t, first, Stats{Computed: 1, Bytes: req.Size, Exact: 1})
	wantStats(t, second, Stats{Cached: 1})
}

// Whose files hang takes no worker of anybody else.
func TestOthersHang(t *testing.T) {
	_, release := busy(t)
	defer release()
	c := testCache(t, unix.Read)
	want(t, c, record(t, write(t, "file", "content")), Exact, "content")
}

// A Cache that is asked nothing takes nothing.
func TestIdle(t *testing.T) {
	before := runtime.NumGoroutine()
	c := New()
	defer c.Close()
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines", after-before)
	}
}

// What was queued is not read after Close, and all who wait have their answer then.
func TestCloseAnswersTheQueue(t *testing.T) {
	c, release := busy(t)
	req := record(t, write(t, "file", "content"))
	answer := make(chan event.Digest, 2)
	c.Ask(req, func(d event.Digest) { answer <- d })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	if d := <-answer; d.State != Unavailable {
		t.Errorf("the digest is %v", d.State)
	}
	release()
	<-closed
	<-c.ended
	if s := c.Stats(); s.Computed != workers {
		t.Errorf("%d files were read, want the %d that had begun", s.Computed, workers)
	}
}

func TestKeptIsBounded(t *testing.T) {
	g := newKept()
	used := key{ino: 1 << 40}
	g.put(used, keptDigest{})
	for i := range uint64(5 * generation) {
		g.put(key{ino: i}, keptDigest{})
		if _, ok := g.get(used); !ok {
			t.Fatalf("what is in use was gone after %d others", i)
		}
		if n := len(g.young) + len(g.old); n > 2*generation {
			t.Fatalf("%d digests are kept", n)
		}
	}
	if _, ok := g.get(key{ino: 0}); ok {
		t.Error("what nobody used is still kept")
	}
}
