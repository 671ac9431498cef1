// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/event"
)

const (
	// chunk is how many bytes are read at once: so many that the system call does
	// not count, so few that the CPU's cache holds them.
	chunk = 128 << 10
	// longest bounds the reading of one file. Huge sparse files cost nothing, and
	// would hold all workers.
	longest   = time.Minute
	fuseMagic = 0x65735546
)

// errGivenUp: the cache was closed meanwhile, or the file took too long.
var errGivenUp = errors.New("given up")

// result of a computation. The state is DigestExact if the file was found as it is in
// the request, and did not change while it was read; what that proves of an event is
// for reading to say. keep: the digest stays right as long as the identity.
type result struct {
	event.Digest
	reading reading
	keep    bool
}

// of returns the digest for an event that asked for this computation.
func (r *result) of(req *Request) event.Digest {
	d := r.Digest
	if d.State == event.DigestExact && !r.reading.proves(req.content(), req.Time) {
		d.State = event.DigestUnsettled
	}
	return d
}

// compute finds, reads and hashes the file of req.
func (c *Cache) compute(req *Request, buf []byte) result {
	reading := c.clocks.begin()
	found, m := find(req)
	if m == other {
		return result{}
	}
	defer unix.Close(found)
	fd, err := reopen(found)
	if err != nil {
		return result{}
	}
	defer unix.Close(fd)
	before, err := contentOf(fd)
	if err != nil {
		return result{}
	}
	sum, err := c.hash(req, fd, before.size, buf)
	if err != nil {
		return result{}
	}
	c.computed.Add(1)
	after, err := contentOf(fd)
	if err != nil || m != same || before != req.content() || after != before {
		return result{Digest: event.Digest{Sum: sum, State: event.DigestChanged}}
	}
	c.clocks.end(&reading)
	return result{
		Digest:  event.Digest{Sum: sum, State: event.DigestExact},
		reading: reading,
		// A FUSE server may change the content and not its time.
		keep: reading.proves(before, reading.begin) && req.SMagic != fuseMagic,
	}
}

// hash reads the size that the file had at the beginning, like TSEM; less if it ends
// before. Whether that is the whole file is for the caller to find out.
func (c *Cache) hash(req *Request, fd int, size uint64, buf []byte) ([]byte, error) {
	h := req.Hash.New()
	for begin := time.Now(); size > 0; {
		if c.closed() || time.Since(begin) > longest {
			return nil, errGivenUp
		}
		n, err := retry(func() (int, error) { return c.read(fd, buf[:min(size, chunk)]) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		h.Write(buf[:n])
		c.bytes.Add(uint64(n))
		size -= uint64(n)
	}
	return h.Sum(nil), nil
}
