// SPDX-License-Identifier: Apache-2.0

package digest

// generation is how many digests one of the two generations has. Together they have
// 16384, more than the programs, libraries and settings that a busy server uses over
// and over again, in about 3 MiB.
const generation = 8192

// kept are the digests used last. They come into the young generation; when that is
// full it becomes the old one, and what nobody asked for since the last time is gone.
// That is nearly least recently used, without a list.
type kept struct {
	young, old map[key][]byte
}

func newKept() kept { return kept{young: make(map[key][]byte)} }

func (g *kept) get(k key) []byte {
	if sum := g.young[k]; sum != nil {
		return sum
	}
	sum := g.old[k]
	if sum != nil {
		delete(g.old, k)
		g.put(k, sum)
	}
	return sum
}

func (g *kept) put(k key, sum []byte) {
	if len(g.young) >= generation {
		g.old, g.young = g.young, make(map[key][]byte)
	}
	g.young[k] = sum
}
