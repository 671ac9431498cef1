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
	longest = time.Minute
	// settled is how long a file must have rested for its digest to be kept: a
	// second write within one tick of the clock leaves the same change time. Ticks
	// are 10 ms at most, times on disk may be whole seconds. The kernel half has
	// the same rule (SETTLED in bpf/digest.h).
	settled = time.Second

	fuseMagic = 0x65735546
)

// errGivenUp: the cache was closed meanwhile, or the file took too long.
var errGivenUp = errors.New("given up")

// result of a computation; keep: the digest stays right as long as the identity.
type result struct {
	event.Digest
	keep bool
}

// compute finds, reads and hashes the file of req.
func (c *Cache) compute(req *Request, buf []byte) result {
	begin := time.Now()
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
	rested := begin.Sub(time.Unix(int64(before.sec), int64(before.nsec)))
	return result{
		Digest: event.Digest{Sum: sum, State: event.DigestExact},
		// A FUSE server may change the content and not its time.
		keep: rested >= settled && req.SMagic != fuseMagic,
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
