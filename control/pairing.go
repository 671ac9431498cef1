// SPDX-License-Identifier: Apache-2.0

package control

import (
	"crypto"
	"crypto/rand"
	"crypto/subtle"
)

// Pairing ties an external namespace to its orchestrator: it says whether a release is one
// that the orchestrator may make (4.4), and whether a process may become the orchestrator. A namespace that was made with a key
// takes releases with that key, one that was made without takes those by tnum. A Pairing never changes, and
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
	successor bool   // the orchestrator has taken the namespace over
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

// Restore makes the Pairing again of which these are the Keys.
func Restore(namespace uint64, hash crypto.Hash, taskKey, tmaKey []byte) *Pairing {
	return &Pairing{namespace: namespace, hash: hash, workload: taskKey, expected: tmaKey}
}

// Keys returns what has to be kept for Restore; nil where the namespace was made without a key. Who
// has both cannot release anything, but can try keys out.
func (p *Pairing) Keys() (taskKey, tmaKey []byte) { return p.workload, p.expected }

// TakeOver returns the Pairing of a process that becomes the orchestrator of the namespace. It has shown the key
// then. It releases by tnum and number, because the records that it gets may be of events that were decided before its time,
// and its reply about one of these shall not be taken for one about the next event of the task. All errors wrap EINVAL.
func (p *Pairing) TakeOver(t Takeover) (*Pairing, error) {
	if err := p.checkKey("takeover", t.Key); err != nil {
		return nil, err
	}
	successor := *p
	successor.successor = true
	return &successor, nil
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
	case p.successor && (r.TNum == 0 || r.Number == 0):
		return refuse("%v without tnum= and number=; who has taken namespace %d over gives both", r.Verdict, p.namespace)
	case p.successor && r.Key == nil:
		return nil
	case p.expected == nil && r.TNum == 0:
		return refuse("%v without tnum=; namespace %d was made without a key", r.Verdict, p.namespace)
	}
	return p.checkKey(r.Verdict.String(), r.Key)
}

// checkKey says what is wrong with the key of a command.
func (p *Pairing) checkKey(command string, key []byte) error {
	switch {
	case p.expected == nil && key != nil:
		return refuse("%s with key=; namespace %d was made without one", command, p.namespace)
	case p.expected == nil:
		return nil
	case key == nil:
		return refuse("%s without key=; namespace %d was made with one", command, p.namespace)
	case len(key) != p.hash.Size():
		return refuse("%s with a key of %d digits; that of namespace %d has %d", command, 2*len(key), p.namespace, 2*p.hash.Size())
	case subtle.ConstantTimeCompare(p.derive(key), p.expected) == 0:
		return refuse("%s with a key that is not that of namespace %d", command, p.namespace)
	}
	return nil
}
