// SPDX-License-Identifier: Apache-2.0

package digest

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settled is how long a file must have rested for its change time to tell it from
	// what it was changed to later. A change time is that of the last tick of the
	// kernel's clock (current_time in fs/inode.c); since Linux 6.13 it is finer where
	// somebody had asked for it, which nobody can rely on. Ticks are 10 ms apart at most
	// (CONFIG_HZ=100), but one CPU keeps the clock for all, and in a virtual machine it
	// can be made to wait: CLOCK_REALTIME_COARSE was seen 121 ms late in an emulated one
	// with two CPUs, of which one was idle. The kernel half has the same rule for what it
	// keeps (SETTLED in bpf/digest.h).
	settled = time.Second
	// wholeSeconds is the same where there are no fractions: ext4 with small inodes
	// keeps seconds, FAT pairs of them. Files of images that mkfs filled have none, too.
	wholeSeconds = 2*time.Second + settled
	// lastSecond is a change time that no clock reaches; some filesystems tell anything.
	lastSecond = 1 << 33
)

// clocks tells the time of the events (CLOCK_BOOTTIME in the initial time namespace,
// ns), and what has to be added to it for the time of change times (CLOCK_REALTIME).
type clocks func() (boot uint64, offset int64)

// systemClocks returns the clocks of this host.
func systemClocks() clocks {
	shift := int64(0)
	if text, err := os.ReadFile("/proc/self/timens_offsets"); err == nil { // not on every kernel
		shift = bootShift(string(text))
	}
	return func() (uint64, int64) {
		// In this order a pause in between makes files look younger, not older.
		wall := now(unix.CLOCK_REALTIME)
		boot := now(unix.CLOCK_BOOTTIME) - shift
		return uint64(boot), wall - boot
	}
}

func now(clock int32) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0 // both clocks are older than the event records; it cannot fail
	}
	return t.Nano()
}

// bootShift reads by how much CLOCK_BOOTTIME is shifted in our time namespace, in ns,
// from lines of clock, seconds and nanoseconds.
func bootShift(offsets string) int64 {
	for line := range strings.Lines(offsets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "boottime" {
			continue
		}
		sec, _ := strconv.ParseInt(f[1], 10, 64)
		nsec, _ := strconv.ParseInt(f[2], 10, 64)
		return sec*1e9 + nsec
	}
	return 0
}

// reading is when a file was read.
type reading struct {
	begin  uint64 // CLOCK_BOOTTIME, ns
	offset int64  // from there to CLOCK_REALTIME: the smaller one of begin and end
}

func (k clocks) begin() (r reading) {
	r.begin, r.offset = k()
	return r
}

// end takes into account that the clock may have been set back meanwhile.
func (k clocks) end(r *reading) {
	_, offset := k()
	r.offset = min(r.offset, offset)
}

// rested returns how long a file had rested at a moment (CLOCK_BOOTTIME, ns) when its
// change time was that of c; not more than 0 if that cannot be known.
func (r *reading) rested(c content, moment uint64) time.Duration {
	if c.sec >= lastSecond {
		return 0
	}
	return time.Duration(int64(moment) + r.offset - int64(c.sec)*1e9 - int64(c.nsec))
}

// proves says whether what was read is the content at the time of an event, the
// content being described by c at both. A change after the event, or after the reading
// has begun, whichever was earlier, would have left another change time than that of c
// if the file had rested long enough.
func (r *reading) proves(c content, event uint64) bool {
	enough := settled
	if c.nsec == 0 {
		enough = wholeSeconds
	}
	return r.rested(c, min(event, r.begin)) > enough
}
