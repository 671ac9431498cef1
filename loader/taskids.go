// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// TaskID returns the TASK_ID of an identity, with zeros behind it, and whether any keeper has
// made it known since the kernel half was loaded. It is a system call.
func (e *Engine) TaskID(identity uint64) (id [bpf.TaskIDRoom]byte, known bool) {
	known = e.Map("task_ids").Lookup(identity, &id) == nil
	return id, known
}

// ShareTaskID makes the TASK_ID of an identity known to every keeper, unless it is. The error is
// the kernel's, unix.E2BIG if it has no room for another one.
func (e *Engine) ShareTaskID(identity uint64, id [bpf.TaskIDRoom]byte) error {
	err := e.Map("task_ids").Update(identity, id, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("map task_ids: %w", err)
	}
	atomic.AddUint64(&e.Namespace(0).Delivered, 1)
	return nil
}

// TaskIDs returns how many TASK_IDs are known; each can be found before it is counted. It is
// no system call.
func (e *Engine) TaskIDs() uint64 { return atomic.LoadUint64(&e.Namespace(0).Delivered) }
