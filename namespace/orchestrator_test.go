// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"bytes"
	"crypto"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// TestKeys: the next keeper finds the keys as they were, or that there are none.
func TestKeys(t *testing.T) {
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		n, _ := newNamespace(t, nil)
		n.config.Digest = hash
		n.SetKeys(nil, nil)
		if task, tma := n.Keys(); task != nil || tma != nil {
			t.Errorf("%v: without keys: %x, %x", hash, task, tma)
		}
		one, other := bytes.Repeat([]byte{1}, hash.Size()), bytes.Repeat([]byte{2}, hash.Size())
		n.SetKeys(one, other)
		if task, tma := n.Keys(); !bytes.Equal(task, one) || !bytes.Equal(tma, other) {
			t.Errorf("%v: %x, %x", hash, task, tma)
		}
	}
}

// TestShutLeaves: what is shut is over, but for a namespace with tasks that enforces and has another keeper to expect.
func TestShutLeaves(t *testing.T) {
	const enforcing, orchestrated = bpf.NamespaceEnforcing, bpf.NamespaceOrchestrated
	for _, test := range []struct {
		flags     uint32
		inherited bool
		tasks     uint64
		left      bool
	}{
		{enforcing, false, 1, false},
		{orchestrated, false, 1, false},
		{enforcing | orchestrated, false, 1, true},
		{enforcing | orchestrated, false, 0, false},
		{enforcing | orchestrated | bpf.NamespaceClosed, false, 1, false},
		{enforcing, true, 1, true},
		{enforcing, true, 0, false},
		{enforcing | bpf.NamespaceClosed, true, 1, false},
	} {
		n, _ := newNamespace(t, nil)
		n.state.Flags, n.state.Tasks, n.inherited = test.flags, test.tasks, test.inherited
		n.Shut()
		if left := n.Totals().Held; left != test.left || n.Ended() == left {
			t.Errorf("%+v: left %v, ended %v", test, left, n.Ended())
		}
	}
}
