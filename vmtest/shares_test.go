// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

const (
	noisyTasks = 4
	noisyKills = 10_000 // of each; together more than find room in a magazine
	quietCalls = 10
)

// actNoisy floods the magazine from several processes, and then has something else to
// tell. Or it is one of them.
func actNoisy(dir string, know func(string, string, ...any)) func() {
	if len(os.Args) > 1 {
		return func() {
			for range noisyKills {
				must(unix.Kill(os.Getpid(), 0))
			}
		}
	}
	return func() {
		var started []*exec.Cmd
		for range noisyTasks {
			cmd := exec.Command("/proc/self/exe", "one")
			// Its own descriptors: os/exec would open /dev/null.
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
			must(cmd.Start())
			started = append(started, cmd)
		}
		for _, cmd := range started {
			must(cmd.Wait())
		}
		for range quietCalls {
			must(unix.Chroot("/"))
		}
	}
}

// kernelState returns what the kernel half has of the namespace with an id, and its index.
func kernelState(t *testing.T, id uint64) (*bpf.Namespace, uint32) {
	t.Helper()
	for index := uint32(1); index < engine.NamespacesMax(); index++ { // 0 is none
		if state := engine.Namespace(index); state.Id == id {
			return state, index
		}
	}
	t.Fatalf("no namespace has the id %d", id)
	return nil, 0
}

// magazineAt opens the magazine at an index.
func magazineAt(t *testing.T, index uint32) *ebpf.Map {
	t.Helper()
	var id ebpf.MapID
	check(t, engine.Map("magazines").Lookup(index, &id))
	ring, err := ebpf.NewMapFromID(id)
	check(t, err)
	t.Cleanup(func() { ring.Close() })
	return ring
}

// consumed returns how many bytes of the magazine at an index were read, ever: its first
// page begins with that.
func consumed(t *testing.T, index uint32) uint64 {
	t.Helper()
	ring := magazineAt(t, index)
	page, err := unix.Mmap(ring.FD(), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	}()
	return binary.NativeEndian.Uint64(page)
}

// TestNoisyEvent: a flood of one event of a hook that cannot sleep, while nobody reads,
// takes no room from the other hooks. When all is read, nothing is claimed any more.
func TestNoisyEvent(t *testing.T) {
	folder(t, "noisy")
	n, o := runUnread(t, actorCommand("noisy"))
	counts := make(map[string]int)
	for _, r := range o.all {
		if at(r, "event.type") != "capable" || at(r, "capable.cap") == strconv.Itoa(unix.CAP_SYS_CHROOT) {
			counts[at(r, "event.type").(string)]++
		}
	}
	if counts["task_kill"] >= noisyTasks*noisyKills {
		t.Errorf("all %d signals found room: this was no flood", noisyTasks*noisyKills)
	}
	if counts["capable"] != quietCalls {
		t.Errorf("%d of %d capable events behind the flood are there", counts["capable"], quietCalls)
	}
	if o.totals.TaskIDsLost != 0 || o.totals.Balance.Err() != nil {
		t.Errorf("execs are lost, or events: %v", o.totals.Balance.Err())
	}
	t.Log(o.totals.Balance)

	state, index := kernelState(t, n.ID())
	if read := consumed(t, index); state.Claimed != read {
		t.Errorf("%d bytes of the ring were claimed, %d read", state.Claimed, read)
	}
	for share, s := range state.Shares {
		if s.Claimed != s.Read {
			t.Errorf("share %d: %d bytes claimed, %d read", share, s.Claimed, s.Read)
		}
	}
}
