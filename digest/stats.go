// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"sync/atomic"

	"github.com/tsem-bpf/tsem-bpf/event"
)

// Stats counts since New. Every answer is in exactly one of Cached, Exact, Changed,
// Unsettled, Unavailable, Overloaded and Cancelled, except those for empty files.
type Stats struct {
	Computed uint64 // files read to the end, also those that nobody waited for any more
	Bytes    uint64 // read from files, also from those not read to the end

	Cached      uint64 // answers Exact without reading the file
	Exact       uint64 // answers Exact after reading it
	Changed     uint64 // answers Changed
	Unsettled   uint64 // answers Unsettled
	Unavailable uint64 // answers Unavailable: not found, not readable, closed
	Overloaded  uint64 // answers Unavailable: too many files waited to be read
	Cancelled   uint64 // given up by who asked: too late, or no room to wait
}

type counters struct {
	computed, bytes                    atomic.Uint64
	cached, exact, changed, unsettled  atomic.Uint64
	unavailable, overloaded, cancelled atomic.Uint64
}

// of returns the counter of answers of a state.
func (c *counters) of(s event.DigestState) *atomic.Uint64 {
	switch s {
	case event.DigestExact:
		return &c.exact
	case event.DigestChanged:
		return &c.changed
	case event.DigestUnsettled:
		return &c.unsettled
	default:
		return &c.unavailable
	}
}

// Stats returns the counters. Each is right, but they are not read at one instant.
// Any goroutine.
func (c *Cache) Stats() Stats {
	return Stats{
		Computed:    c.computed.Load(),
		Bytes:       c.bytes.Load(),
		Cached:      c.cached.Load(),
		Exact:       c.exact.Load(),
		Changed:     c.changed.Load(),
		Unsettled:   c.unsettled.Load(),
		Unavailable: c.unavailable.Load(),
		Overloaded:  c.overloaded.Load(),
		Cancelled:   c.cancelled.Load(),
	}
}
