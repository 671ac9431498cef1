// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"crypto"
	_ "crypto/sha256" // the digest functions a namespace can have
	_ "crypto/sha512"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// workers is how many files are read at the same time. More than there are
	// CPUs, because a file on a filesystem that hangs holds its worker.
	workers = 32
	// queued is how many files may wait for a worker. A longer queue would only
	// be served after everybody's time is over.
	queued = 1024
	// closing bounds how long Close waits for workers in a filesystem that hangs.
	closing = time.Second
)

// State says what a digest is worth.
type State int

// The answers to a Request.
const (
	// Unavailable: the file was not found, could not be read, or not in time. There
	// is no digest.
	Unavailable State = iota
	// Exact: the digest of the content that the file of the record had.
	Exact
	// Changed: the digest of what the file contains now, or contained while it was
	// being written. It is not that of the record.
	Changed
)

// String returns the state in lower case, for example "exact".
func (s State) String() string {
	switch s {
	case Exact:
		return "exact"
	case Changed:
		return "changed"
	default:
		return "unavailable"
	}
}

// Request asks for the digest of a file. All but Hash is from the record: TID from
// the header, Path from the PATH cell and the rest from the INODE cell.
type Request struct {
	// Hash is SHA-256, SHA-384 or SHA-512.
	Hash crypto.Hash
	// TID is the thread, in the initial pid namespace, that used the file.
	TID uint32
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

// job is a computation; sum and state are written before done is closed.
type job struct {
	req   Request
	done  chan struct{}
	sum   []byte
	state State
}

// Cache computes digests and keeps them. Make one with New.
type Cache struct {
	read  func(fd int, p []byte) (int, error) // unix.Read, but for tests
	jobs  chan *job
	stop  chan struct{} // closed by Close
	close sync.Once
	ended chan struct{} // a value from every worker that ends

	counters

	mu      sync.Mutex
	kept    kept
	running map[key]*job // queued ones included
}

// New returns an empty Cache, and starts its goroutines.
func New() *Cache { return newCache(unix.Read) }

func newCache(read func(fd int, p []byte) (int, error)) *Cache {
	c := &Cache{
		read:    read,
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

// Get returns the digest of the file of req, Hash.Size() bytes that the caller
// must not change, and what it is worth. With Unavailable it is nil. Get waits no
// longer than timeout for a file that has to be read first. The computation goes
// on after that, so that the digest may be there next time; hence a timeout of 0
// only looks, and has the file read in the background. After Close no file is read any
// more. Any number of goroutines.
func (c *Cache) Get(req Request, timeout time.Duration) ([]byte, State) {
	if req.Size == 0 {
		return req.Hash.New().Sum(nil), Exact
	}
	over := time.NewTimer(timeout)
	defer over.Stop()
	for {
		sum, j, ours := c.start(&req)
		if sum != nil {
			c.cached.Add(1)
			return sum, Exact
		}
		if j == nil {
			c.overloaded.Add(1)
			return nil, Unavailable
		}
		select {
		case <-j.done:
		case <-over.C:
			c.timedOut.Add(1)
			return nil, Unavailable
		case <-c.stop:
			c.unavailable.Add(1)
			return nil, Unavailable
		}
		// Somebody else's thread or path may not have led to the file; ours may.
		if j.state != Unavailable || ours {
			c.answered(j.state)
			return j.sum, j.state
		}
	}
}

// start returns the digest if it is kept. Otherwise it returns the computation,
// and whether it goes the way of req; nil if there are too many of them.
func (c *Cache) start(req *Request) (sum []byte, j *job, ours bool) {
	k := req.key()
	c.mu.Lock()
	defer c.mu.Unlock()
	if sum := c.kept.get(k); sum != nil {
		return sum, nil, false
	}
	if j := c.running[k]; j != nil {
		return nil, j, j.req == *req
	}
	j = &job{req: *req, done: make(chan struct{})}
	select {
	case c.jobs <- j:
		c.running[k] = j
		return nil, j, true
	default:
		return nil, nil, false
	}
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
			c.finish(j, c.compute(&j.req, buf))
		}
	}
}

func (c *Cache) finish(j *job, r result) {
	k := j.req.key()
	j.sum, j.state = r.sum, r.state
	c.mu.Lock()
	delete(c.running, k)
	if r.keep {
		c.kept.put(k, r.sum)
	}
	c.mu.Unlock()
	close(j.done)
}

func (c *Cache) closed() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// Close ends the goroutines, and every Get that waits. It waits for them, at most
// for a second: one that hangs in a filesystem ends when that answers. Any
// goroutine, any number of times.
func (c *Cache) Close() {
	c.close.Do(func() {
		close(c.stop)
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
