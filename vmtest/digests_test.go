// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// How often a file is changed right before and right after it is opened.
const rewrites = 200

// What the file says when it is opened, and afterwards: as many bytes.
const (
	whenOpened = "before it was opened\n"
	afterwards = "since it was opened.\n"
)

// actRewrites opens a file between two writes, again and again.
func actRewrites(dir string, know func(string, string, ...any)) func() {
	fd := open(plain(dir), unix.O_RDWR, 0)
	return func() {
		for range rewrites {
			_, err := unix.Pwrite(fd, []byte(whenOpened), 0)
			must(err)
			must(unix.Close(open(plain(dir), unix.O_RDONLY, 0)))
			_, err = unix.Pwrite(fd, []byte(afterwards), 0)
			must(err)
		}
	}
}

// TestRewritten: no record has the digest of what was written after the event, unless it
// says that it is not exact; whether the change shows in the change time or not.
func TestRewritten(t *testing.T) {
	folder(t, "rewrites")
	o := observe(t, "rewrites", namespace.Config{})
	sum := sha256.Sum256([]byte(whenOpened))
	states := make(map[any]int)
	for _, r := range o.events {
		if at(r, "event.type") != "file_open" {
			continue
		}
		digest, state := at(r, "file_open.file.digest"), at(r, "file_open.file.digest_state")
		states[state]++
		if want := hex.EncodeToString(sum[:]); state == nil && digest != want {
			t.Errorf("digest %v is not marked and not that of the file as it was opened, %s", digest, want)
		}
		if state != nil && digest != strings.Repeat("f", 64) {
			t.Errorf("digest %v is %v", digest, state)
		}
	}
	total := 0
	for _, n := range states {
		total += n
	}
	if total != rewrites {
		t.Errorf("%d opens in the records, want %d", total, rewrites)
	}
	if d := o.totals.Digests; uint64(states["unsettled"]) > d.Unsettled || uint64(states["changed"]) > d.Changed {
		t.Errorf("marks are %v, counted are %+v", states, d)
	}
	t.Logf("marks of %d digests: %v", total, states)
}
