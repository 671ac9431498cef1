// SPDX-License-Identifier: Apache-2.0

package digest

import "sync"

// generation is how many digests one of the two generations has. Together they have
// 16384, more than the programs, libraries and settings that a busy server uses over
// and over again, in about 3 MiB.
const generation = 8192

// keptDigest is a digest, and when the file was read.
type keptDigest struct {
	sum     []byte
	reading reading
}

// kept are the digests used last. They come into the young generation; when that is
// full it becomes the old one, and what nobody asked for since the last time is gone.
// That is nearly least recently used, without a list. Any number of goroutines.
type kept struct {
	mu         sync.Mutex
	young, old map[key]keptDigest
}

func newKept() *kept { return &kept{young: make(map[key]keptDigest)} }

func (g *kept) get(k key) (keptDigest, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, ok := g.young[k]; ok {
		return d, true
	}
	d, ok := g.old[k]
	if ok {
		delete(g.old, k)
		g.add(k, d)
	}
	return d, ok
}

func (g *kept) put(k key, d keptDigest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.add(k, d)
}

// add is put, under mu.
func (g *kept) add(k key, d keptDigest) {
	if len(g.young) >= generation {
		g.old, g.young = g.young, make(map[key]keptDigest)
	}
	g.young[k] = d
}
