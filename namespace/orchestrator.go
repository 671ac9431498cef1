// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"bytes"
	"sync/atomic"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// Orchestrate notes in the kernel half which process orchestrates the namespace, 0: none does any more. It
// is for those who look at the namespace, and changes nothing in it.
func (n *Namespace) Orchestrate(pid uint32) {
	n.life.RLock()
	defer n.life.RUnlock()
	atomic.StoreUint32(&n.state.Orchestrator, pid)
}

// SetKeys keeps the keys of a control.Pairing where they live as long as the namespace, for its next keeper; nil
// stands for none. It is called before there is a task.
func (n *Namespace) SetKeys(taskKey, tmaKey []byte) {
	n.life.RLock()
	defer n.life.RUnlock()
	copy(n.state.TaskKey[:], taskKey)
	copy(n.state.TmaKey[:], tmaKey)
}

// Keys returns what SetKeys was given, by whichever keeper of the namespace.
func (n *Namespace) Keys() (taskKey, tmaKey []byte) {
	n.life.RLock()
	defer n.life.RUnlock()
	size := n.config.Digest.Size()
	taskKey, tmaKey = n.state.TaskKey[:size], n.state.TmaKey[:size]
	if bytes.Equal(tmaKey, make([]byte, size)) { // no digest of anything known
		return nil, nil
	}
	return bytes.Clone(taskKey), bytes.Clone(tmaKey)
}

// Ended says whether somebody has ended the modeling: Shut, or another process (loader.EndNamespace, loader.Remove).
func (n *Namespace) Ended() bool {
	n.life.RLock()
	defer n.life.RUnlock()
	return atomic.LoadUint32(&n.state.Flags)&bpf.NamespaceClosed != 0
}
