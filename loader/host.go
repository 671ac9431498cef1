// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrHostTaken: another process on this host describes the whole host.
var ErrHostTaken = errors.New("another tsem-bpf describes the whole host already")

// hostMark is the name of the map by which those who describe the whole host see each
// other. A map, because the kernel lists all of them to whoever may load programs, in
// whatever container, and because it goes with the process.
const hostMark = "tsem_host"

// ClaimHost makes this process the one that describes the whole host, until it closes
// what it gets. The error is ErrHostTaken if another one does: each would describe how
// the other reads files for their digests, and read these again. Of several that come at
// the same time the one whose mark was made first, and so has the lowest id, stays.
func ClaimHost() (io.Closer, error) {
	mark, err := ebpf.NewMap(&ebpf.MapSpec{Name: hostMark, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, Explain(fmt.Errorf("make the map %s: %w", hostMark, err))
	}
	if err := firstMark(mark); err != nil {
		return nil, errors.Join(err, mark.Close())
	}
	return mark, nil
}

func firstMark(mark *ebpf.Map) error {
	info, err := mark.Info()
	if err != nil {
		return err
	}
	own, _ := info.ID()
	for id := ebpf.MapID(0); ; {
		id, err = ebpf.MapGetNextID(id)
		if errors.Is(err, unix.EPERM) { // kernel/bpf/syscall.c, bpf_obj_get_next_id
			return &SupportError{ErrPrivilege, "cannot see whether another tsem-bpf describes the whole host without CAP_SYS_ADMIN",
				"run as root, or with CAP_SYS_ADMIN too"}
		}
		if err != nil {
			return fmt.Errorf("list the maps of the kernel: %w", err)
		}
		if id == own {
			return nil
		}
		name, err := mapName(id)
		switch {
		case errors.Is(err, os.ErrNotExist): // gone meanwhile
		case err != nil:
			return fmt.Errorf("map %d: %w", id, err)
		case name == hostMark:
			return fmt.Errorf("%w (its mark is BPF map %d): two would describe each other without end; end that one first", ErrHostTaken, id)
		}
	}
}

func mapName(id ebpf.MapID) (string, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return "", err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return "", err
	}
	return info.Name, nil
}
