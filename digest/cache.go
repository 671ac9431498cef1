// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"crypto"
	_ "crypto/sha256" // the digest functions a namespace can have
	_ "crypto/sha512"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
)

const (
	// workers is how many files are read at the same time. More than there are
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

// Cache computes digests and keeps them. Make one with New.
type Cache struct {
	read   func(fd int, p []byte) (int, error) // unix.Read, but for tests
	clocks clocks
	jobs   chan *job
	stop   chan struct{} // closed by Close
	close  sync.Once
	ended  chan struct{} // a value from every worker that ends

	counters

	mu      sync.Mutex
	kept    kept
	running map[key]*job // queued ones included
}

// New returns an empty Cache, and starts its goroutines.
func New() *Cache { return newCache(unix.Read, systemClocks()) }

func newCache(read func(fd int, p []byte) (int, error), clocks clocks) *Cache {
	c := &Cache{
		read:    read,
		clocks:  clocks,
		jobs:    make(chan *job, queued),
		stop:    make(chan struct{}),
		ended:   make(chan struct{}, workers),
		kept:    newKept(),
		running: make(map[key]*job),
	}
	for range workers {
		go c.work()
	}
	return c
}

// Kept returns the digest of the file of req if it is known without reading the file.
// It does no I/O and does not wait; the TID and Path of req do not matter. Any number of
// goroutines.
func (c *Cache) Kept(req *Request) (event.Digest, bool) {
	if req.Size == 0 {
		return event.Digest{Sum: req.Hash.New().Sum(nil), State: event.DigestExact}, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known(req)
}

// known is Kept, under mu.
func (c *Cache) known(req *Request) (event.Digest, bool) {
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
	d, answered := c.known(&req) // it may be since the caller looked
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
		select {
		case c.jobs <- j:
			c.running[k] = j
		default:
			return &c.overloaded
		}
	}
	j.tickets[t], t.job = struct{}{}, j
	return nil
}

// work is a worker.
func (c *Cache) work() {
	defer func() { c.ended <- struct{}{} }()
	buf := make([]byte, chunk)
	for {
		select {
		case <-c.stop:
			return
		case j := <-c.jobs:
			if c.wanted(j) {
				c.finish(j, c.compute(&j.req, buf))
			}
		}
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
		// Somebody else's thread or path may not have led to the file; ours may.
		if r.State == event.DigestUnavailable && !t.req.sameWay(&j.req) && c.enqueue(t) == nil {
			continue
		}
		answered = append(answered, t)
	}
	j.tickets = nil
	c.mu.Unlock()
	for _, t := range answered {
		d := r.of(&t.req)
		c.answered(d.State)
		t.done(d)
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

// Close ends the goroutines, and answers everybody who waits. It waits for the
// goroutines, at most for a second: one that hangs in a filesystem ends when that
// answers. Any goroutine, any number of times.
func (c *Cache) Close() {
	c.close.Do(func() {
		c.mu.Lock()
		close(c.stop)
		var jobs []*job
		for _, j := range c.running {
			jobs = append(jobs, j)
		}
		c.mu.Unlock()
		for _, j := range jobs {
			c.finish(j, result{})
		}
		over := time.NewTimer(closing)
		defer over.Stop()
		for range workers {
			select {
			case <-c.ended:
			case <-over.C:
				return
			}
		}
	})
}
