// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// ErrSealed: the actions of the event types do not change any more.
var ErrSealed = errors.New("sealed")

// ConfigOf returns the settings that a namespace in the kernel half has now, whoever keeps it:
// those that its keeper chose, and what Enforce made of them. What the kernel half does not know
// is left out: Judge, NoLook and MaxLine.
func ConfigOf(state *bpf.Namespace) Config {
	c := Config{
		Digest:       hashOf(state),
		NSRefCurrent: state.Flags&bpf.NamespaceNSRefCurrent != 0,
		Cache:        int(state.Share >> 10),
		Wait:         time.Duration(state.Wait),
		Events:       hooksOf(state.Events),
		Deadline:     time.Duration(state.Deadline),
		FailOpen:     state.Passing&(1<<verdict.Late) != 0,
		Orchestrated: state.Flags&bpf.NamespaceOrchestrated != 0,
	}
	var deny [2]uint64
	for i := range deny {
		deny[i] = atomic.LoadUint64(&state.Deny[i])
	}
	if c.Enforce = deny == bitsOf(event.Hooks()); !c.Enforce {
		c.Deny = hooksOf(deny)
	}
	return c
}

// hashOf returns the digest function of a namespace in the kernel half.
func hashOf(state *bpf.Namespace) crypto.Hash {
	for _, hash := range []crypto.Hash{crypto.SHA384, crypto.SHA512} {
		if int(state.Digest) == hash.Size() {
			return hash
		}
	}
	return crypto.SHA256
}

// flags returns those that the namespace has in the kernel half while it lives.
func (c *Config) flags() (flags uint32) {
	if c.NSRefCurrent {
		flags |= bpf.NamespaceNSRefCurrent
	}
	if c.Digest == crypto.SHA256 {
		flags |= bpf.NamespaceDigestsSHA256
	}
	if c.Orchestrated {
		flags |= bpf.NamespaceOrchestrated
	}
	if c.Judge != nil {
		flags |= bpf.NamespaceExternal
		if c.Denies() && !c.FailOpen {
			flags |= bpf.NamespaceEnforcing
		}
	}
	return flags
}

// events returns the event types that are raised, as the kernel half has them.
func (c *Config) events() [2]uint64 {
	if c.Events == nil {
		return bitsOf(event.V3Hooks())
	}
	return bitsOf(c.Events)
}

// deny returns the event types whose action is DENY, as the kernel half has them.
func (c *Config) deny() [2]uint64 {
	if c.Enforce {
		return bitsOf(event.Hooks())
	}
	return bitsOf(c.Deny)
}

// Denies says whether DENY is the action of any event type.
func (c *Config) Denies() bool { return c.deny() != [2]uint64{} }

// passing returns the verdicts with which an event happens though its action is DENY, as the
// kernel half has them: a bit for each.
func (c *Config) passing() uint64 {
	if c.FailOpen {
		return uint64(1)<<bpf.VerdictMax - 1&^(1<<verdict.Untrusted)
	}
	return 1<<verdict.Trusted | 1<<verdict.Unwaited
}

// digestWait returns how long a record waits for the digest of its file. Where tasks wait for verdicts it is half of
// their deadline at most, so that an agent has the other half to judge an event whose digest does not come.
func (c *Config) digestWait() time.Duration {
	if c.Judge == nil {
		return digestWait
	}
	return min(digestWait, c.Deadline/2)
}

func bitsOf(hooks []event.Hook) (bits [2]uint64) {
	for _, hook := range hooks {
		bits[hook/64] |= 1 << (hook % 64)
	}
	return bits
}

// hooksOf is the inverse of bitsOf.
func hooksOf(bits [2]uint64) (hooks []event.Hook) {
	for _, hook := range event.Hooks() {
		if bits[hook/64]>>(hook%64)&1 != 0 {
			hooks = append(hooks, hook)
		}
	}
	return hooks
}

// Config returns the settings that the namespace has now: ConfigOf.
func (n *Namespace) Config() Config {
	n.life.RLock()
	defer n.life.RUnlock()
	return ConfigOf(n.state)
}

// Enforce makes DENY the action of all event types, for ever, as Config.Enforce does. The error is
// ErrSealed after Seal.
func (n *Namespace) Enforce() error {
	n.life.RLock()
	defer n.life.RUnlock()
	return enforce(n.state)
}

// Seal lets the actions of the event types never change again, by whomever. The error is ErrSealed
// if they cannot already.
func (n *Namespace) Seal() error {
	n.life.RLock()
	defer n.life.RUnlock()
	return seal(n.state)
}

// Sealed says whether Seal was called, by whomever.
func (n *Namespace) Sealed() bool {
	n.life.RLock()
	defer n.life.RUnlock()
	return sealed(n.state) != nil
}

// Enforce is Namespace.Enforce for a namespace of this host, whoever keeps it. The error may also be
// one of loader.ChangeNamespace.
func Enforce(id uint64) error { return loader.ChangeNamespace(id, enforce) }

// Seal is the same for Namespace.Seal.
func Seal(id uint64) error { return loader.ChangeNamespace(id, seal) }

func enforce(state *bpf.Namespace) error {
	if err := sealed(state); err != nil {
		return err
	}
	for i, bits := range bitsOf(event.Hooks()) {
		atomic.StoreUint64(&state.Deny[i], bits)
	}
	if state.Flags&bpf.NamespaceExternal != 0 && state.Passing&(1<<verdict.Late) == 0 {
		atomic.OrUint32(&state.Flags, bpf.NamespaceEnforcing)
	}
	return nil
}

func seal(state *bpf.Namespace) error {
	if atomic.OrUint32(&state.Flags, bpf.NamespaceSealed)&bpf.NamespaceSealed != 0 {
		return sealed(state)
	}
	return nil
}

// sealed returns ErrSealed, with the id, for a namespace that is.
func sealed(state *bpf.Namespace) error {
	if atomic.LoadUint32(&state.Flags)&bpf.NamespaceSealed != 0 {
		return fmt.Errorf("namespace %d is %w", state.Id, ErrSealed)
	}
	return nil
}
