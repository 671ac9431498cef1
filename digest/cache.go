// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"crypto"
	_ "crypto/sha256" // the digest functions a namespace can have
	_ "crypto/sha512"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
)

const (
	// workers is how many files a Cache reads at the same time. More than there are
	// CPUs, because a file on a filesystem that hangs holds its worker.
	workers = 32
	// queued is how many files may wait for a worker. A longer queue would only
	// be served when nobody wants the answers any more.
	queued = 1024
	// closing bounds how long Close waits for workers in a filesystem that hangs.
	closing = time.Second
)

// Request asks for the digest of a file. All but Hash is from the record: TID and Time
// from the header, Path from the PATH cell and the rest from the INODE cell.
type Request struct {
	// Hash is SHA-256, SHA-384 or SHA-512.
	Hash crypto.Hash
	// TID is the thread, in the initial pid namespace, that used the file.
	TID uint32
	// Time is that of the event: CLOCK_BOOTTIME, ns.
	Time uint64
	// Exec: the thread executed the file.
	Exec bool
	// Path is from the root of the thread's mount namespace. If it is no absolute
	// one (TSEM_PATH_NAME_ONLY, or without device), no path leads to the file.
	Path string

	DevMajor, DevMinor uint32 // of the superblock
	SMagic             uint32 // likewise
	Ino                uint64 // i_ino
	Size               uint64 // bytes
	CtimeSec           uint64
	CtimeNsec          uint64 // without the flags of i_ctime_nsec
}

// key is what two requests for the same digest have in common.
type key struct {
	hash            crypto.Hash
	major, minor    uint32
	magic           uint32
	ino             uint64
	size, sec, nsec uint64
}

func (r *Request) key() key {
	return key{r.Hash, r.DevMajor, r.DevMinor, r.SMagic, r.Ino, r.Size, r.CtimeSec, r.CtimeNsec}
}

// sameWay says whether two requests for the same digest lead to the file in the same way.
func (r *Request) sameWay(other *Request) bool {
	return r.TID == other.TID && r.Exec == other.Exec && r.Path == other.Path
}

// job is a computation, queued or under way. tickets wait for it; Cache.mu guards them.
type job struct {
	req     Request
	tickets map[*ticket]struct{}
}

// ticket is a request that was made with Ask.
type ticket struct {
	req  Request
	done func(event.Digest)
	job  *job // nil once it is answered or given up; Cache.mu guards it
}

// Cache computes the digests that one namespace asks for, and counts what it answered.
// Make one with New.
//
// What is known is shared by all Caches of the process, the work is not: files that hang
// hold up the workers of who uses them, and nobody else's.
type Cache struct {
	read   func(fd int, p []byte) (int, error) // unix.Read, but for tests
	clocks clocks
	kept   *kept
	stop   chan struct{} // closed by Close, under mu
	close  sync.Once
	ended  chan struct{} // closed when there are no workers after Close, under mu

	counters

	mu      sync.Mutex
	running map[key]*job // queued ones included
	queue   []*job       // the oldest first
	working int          // workers; while there are less than there may be, queue is empty
}

// known has what all Caches of the process keep.
var known = newKept()

// New returns a Cache. It takes nothing until it is asked, and Close has to end it.
func New() *Cache { return newCache(unix.Read, systemClocks(), known) }

func newCache(read func(fd int, p []byte) (int, error), clocks clocks, kept *kept) *Cache {
	return &Cache{
		read:    read,
		clocks:  clocks,
		kept:    kept,
		stop:    make(chan struct{}),
		ended:   make(chan struct{}),
		running: make(map[key]*job),
	}
}

// Kept returns the digest of the file of req if it is known without reading the file.
// It does no I/O and does not wait; the TID and Path of req do not matter. Any number of
// goroutines.
func (c *Cache) Kept(req *Request) (event.Digest, bool) {
	if req.Size == 0 {
		return event.Digest{Sum: req.Hash.New().Sum(nil), State: event.DigestExact}, true
	}
	d, ok := c.kept.get(req.key())
	if !ok || !d.reading.proves(req.content(), req.Time) {
		return event.Digest{}, false
	}
	c.cached.Add(1)
	return event.Digest{Sum: d.sum, State: event.DigestExact}, true
}

// Ask has the file of req read, and returns at once. done is called once with the
// answer, unless cancel was called before: by a worker, or before Ask returns if the
// digest is known by now, too many files wait to be read, or the cache is closed. It
// must not wait for anything. Any number of goroutines.
//
// cancel gives the request up: done is not called any more, unless it is being called
// already. The computation goes on if it has begun, so that the digest may be there
// next time. Any goroutine, any number of times.
func (c *Cache) Ask(req Request, done func(event.Digest)) (cancel func()) {
	t := &ticket{req: req, done: done}
	c.mu.Lock()
	d, answered := c.Kept(&req) // it may be since the caller looked
	if !answered {
		if refused := c.enqueue(t); refused != nil {
			refused.Add(1)
			answered = true
		}
	}
	c.mu.Unlock()
	if answered {
		done(d)
	}
	return func() { c.forget(t) }
}

// forget gives up a ticket that is not answered.
func (c *Cache) forget(t *ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.job != nil {
		delete(t.job.tickets, t)
		t.job = nil
		c.cancelled.Add(1)
	}
}

// enqueue makes a ticket wait for the computation that is under way for it, or for a
// new one. If there can be none it returns the counter of the reason. Under mu.
func (c *Cache) enqueue(t *ticket) (refused *atomic.Uint64) {
	if c.closed() {
		return &c.unavailable
	}
	k := t.req.key()
	j := c.running[k]
	if j == nil {
		j = &job{req: t.req, tickets: make(map[*ticket]struct{})}
		if !c.start(j) {
			return &c.overloaded
		}
		c.running[k] = j
	}
	j.tickets[t], t.job = struct{}{}, j
	return nil
}

// start has a job done, at once or in its turn; false if too many are waiting. Under mu.
func (c *Cache) start(j *job) bool {
	switch {
	case c.working < workers:
		c.working++
		go c.work(j)
	case len(c.queue) < queued:
		c.queue = append(c.queue, j)
	default:
		return false
	}
	return true
}

// buffers are what files are read into.
var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// work is a worker: it does a job, and those that had to wait meanwhile.
func (c *Cache) work(j *job) {
	buf := buffers.Get().(*[chunk]byte)
	defer buffers.Put(buf)
	for ; j != nil; j = c.next() {
		if c.wanted(j) {
			c.finish(j, c.compute(&j.req, buf[:]))
		}
	}
}

// next takes a job from the queue. Without one, and after Close, it is nil, and the
// worker has ended.
func (c *Cache) next() *job {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 && !c.closed() {
		j := c.queue[0]
		c.queue = c.queue[1:]
		return j
	}
	c.working--
	c.endIfIdle()
	return nil
}

// endIfIdle tells Close that there are no workers, once. Under mu.
func (c *Cache) endIfIdle() {
	if c.working == 0 && c.closed() {
		close(c.ended)
	}
}

// wanted says whether anybody still waits for a job, and forgets it if not.
func (c *Cache) wanted(j *job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(j.tickets) == 0 {
		delete(c.running, j.req.key())
		return false
	}
	return true
}

// finish answers those who wait for a job.
func (c *Cache) finish(j *job, r result) {
	c.mu.Lock()
	delete(c.running, j.req.key())
	if r.keep {
		c.kept.put(j.req.key(), keptDigest{r.Sum, r.reading})
	}
	var answered []*ticket
	for t := range j.tickets {
		t.job = nil
		count := c.of(r.of(&t.req).State)
		// Somebody else's thread or path may not have led to the file; ours may.
		if r.State == event.DigestUnavailable && !t.req.sameWay(&j.req) {
			if count = c.enqueue(t); count == nil {
				continue
			}
		}
		count.Add(1)
		answered = append(answered, t)
	}
	j.tickets = nil
	c.mu.Unlock()
	for _, t := range answered {
		t.done(r.of(&t.req))
	}
}

func (c *Cache) closed() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// Close answers everybody who waits, and ends the workers. It waits for them, at most
// for a second: one that hangs in a filesystem ends when that answers. Any goroutine, any
// number of times.
func (c *Cache) Close() {
	c.close.Do(func() {
		c.mu.Lock()
		close(c.stop)
		c.queue = nil
		jobs := slices.Collect(maps.Values(c.running))
		c.endIfIdle()
		c.mu.Unlock()
		for _, j := range jobs {
			c.finish(j, result{})
		}
		select {
		case <-c.ended:
		case <-time.After(closing):
		}
	})
}
