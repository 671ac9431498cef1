// SPDX-License-Identifier: Apache-2.0

package control

import (
	"crypto"
	"crypto/rand"
	"crypto/subtle"
)

// Pairing ties an external namespace to its orchestrator: it says whether a release is one
// that the orchestrator may make (4.4). A namespace that was made with a key takes releases
// with that key, one that was made without takes those by tnum. A Pairing never changes, and
// may be used from any goroutine.
//
// The keys have the size of the namespace's digest and are hashed by it, when the namespace is
// made and when a task is released. TSEM v3 takes the digest of whoever writes instead, so that
// there a namespace whose digest has another size can be made but no task of it released.
type Pairing struct {
	namespace uint64
	hash      crypto.Hash
	workload  []byte // what the tasks of the namespace have: task_key
	expected  []byte // what it makes with the key of the orchestrator: tma_key
}

// Pair makes the Pairing of an external namespace that c asked for. Its half of the secret is
// random; nobody but the Pairing has it.
//
// TSEM draws again while another live namespace has the same tma_key. Here a Pairing is that of
// one namespace, which Check compares first, so equal keys would open nothing.
func Pair(namespace uint64, c Create) *Pairing {
	p := &Pairing{namespace: namespace, hash: c.Digest}
	if c.Key != nil {
		p.workload = make([]byte, c.Digest.Size())
		_, _ = rand.Read(p.workload) // it never fails
		p.expected = p.derive(c.Key)
	}
	return p
}

// derive returns H(task_key || key).
func (p *Pairing) derive(key []byte) []byte {
	h := p.hash.New()
	h.Write(p.workload)
	h.Write(key)
	return h.Sum(nil)
}

// Check says whether r releases a task of this namespace, as its orchestrator may. namespace
// is that of the task which r names, 0 if it is in none; about a task that is gone nobody
// asks (0.1). All errors wrap EINVAL (4.5).
func (p *Pairing) Check(r Release, namespace uint64) error {
	switch {
	case namespace != p.namespace:
		return refuse("task %d is in namespace %d; the orchestrator of namespace %d releases no others", r.PID, namespace, p.namespace)
	case p.expected == nil && r.TNum == 0:
		return refuse("%v without tnum=; namespace %d was made without a key", r.Verdict, p.namespace)
	case p.expected == nil && r.Key != nil:
		return refuse("%v with key=; namespace %d was made without one", r.Verdict, p.namespace)
	case p.expected == nil:
		return nil
	case r.Key == nil:
		return refuse("%v without key=; namespace %d was made with one", r.Verdict, p.namespace)
	case len(r.Key) != p.hash.Size():
		return refuse("key of %d digits; that of namespace %d has %d", 2*len(r.Key), p.namespace, 2*p.hash.Size())
	case subtle.ConstantTimeCompare(p.derive(r.Key), p.expected) == 0:
		return refuse("key of task %d; it is not that of namespace %d", r.PID, p.namespace)
	}
	return nil
}
