// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"crypto"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// TestConfigOf: the state of a namespace says which settings it was made with.
func TestConfigOf(t *testing.T) {
	some := event.Hooks()[:3]
	for _, want := range []Config{
		{Digest: crypto.SHA256, Cache: 1, Wait: time.Second, Deadline: time.Minute, Events: event.Hooks(), Enforce: true},
		{Digest: crypto.SHA384, NSRefCurrent: true, Cache: MaxCache, Wait: 1, Deadline: 1, Events: some, Deny: some[1:], FailOpen: true},
		{Digest: crypto.SHA512, Cache: 32, Wait: MaxWait, Deadline: MaxDeadline, Events: event.Hooks(), Orchestrated: true},
	} {
		state := &bpf.Namespace{
			Digest: uint32(want.Digest.Size()), Share: uint32(want.Cache << 10), Wait: uint64(want.Wait), Deadline: uint64(want.Deadline),
			Events: want.events(), Deny: want.deny(), Passing: want.passing(),
		}
		if want.NSRefCurrent {
			state.Flags = bpf.NamespaceNSRefCurrent
		}
		if want.Orchestrated {
			state.Flags |= bpf.NamespaceOrchestrated
		}
		if got := ConfigOf(state); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// TestDefaultEvents: where nobody chooses, as through the control plane, nobody gets a type that TSEM v3 does
// not have.
func TestDefaultEvents(t *testing.T) {
	if got := hooksOf(new(Config).events()); !slices.Equal(got, event.V3Hooks()) {
		t.Errorf("%v, want %v", got, event.V3Hooks())
	}
}

// TestEnforce: DENY becomes the action of all, and the namespace one that stays closed when its
// keeper is killed, if its tasks wait and it does not fail open.
func TestEnforce(t *testing.T) {
	for _, test := range []struct {
		config   Config
		external uint32
		want     uint32
	}{
		{Config{}, 0, 0},
		{Config{}, bpf.NamespaceExternal, bpf.NamespaceExternal | bpf.NamespaceEnforcing},
		{Config{FailOpen: true}, bpf.NamespaceExternal, bpf.NamespaceExternal},
	} {
		n, _ := newNamespace(t, nil)
		n.state.Flags, n.state.Passing = test.external, test.config.passing()
		if before := n.Config(); before.Denies() {
			t.Errorf("%+v", before)
		}
		if err := n.Enforce(); err != nil {
			t.Error(err)
		}
		if after := n.Config(); !after.Enforce || !after.Denies() || n.state.Flags != test.want {
			t.Errorf("%+v: flags %#x, want %#x", after, n.state.Flags, test.want)
		}
	}
}

// TestSeal: nothing is enforced any more, and nothing sealed again; what was enforced stays so.
func TestSeal(t *testing.T) {
	for _, enforced := range []bool{false, true} {
		n, _ := newNamespace(t, nil)
		n.state.Id = 17
		if enforced {
			if err := n.Enforce(); err != nil {
				t.Error(err)
			}
		}
		if n.Sealed() {
			t.Error("sealed from the beginning")
		}
		if err := n.Seal(); err != nil || !n.Sealed() {
			t.Errorf("%v, sealed %v", err, n.Sealed())
		}
		for _, err := range []error{n.Enforce(), n.Seal()} {
			if !errors.Is(err, ErrSealed) || err.Error() != "namespace 17 is sealed" {
				t.Error(err)
			}
		}
		if now := n.Config(); now.Enforce != enforced {
			t.Errorf("enforced: %v, then %v", enforced, now.Enforce)
		}
	}
}

// TestDigestWait: an event whose digest does not come is shown to an agent while its task still waits.
func TestDigestWait(t *testing.T) {
	judge := func(*event.Record) verdict.Verdict { return verdict.None }
	for _, c := range []struct {
		config Config
		want   time.Duration
	}{
		{Config{}, digestWait},
		{Config{Judge: judge, Deadline: DefaultDeadline}, DefaultDeadline / 2},
		{Config{Judge: judge, Deadline: time.Second}, time.Second / 2},
		{Config{Judge: judge, Deadline: MaxDeadline}, digestWait},
	} {
		if got := bareNamespace(nil, c.config).joiner.patience(); got != c.want {
			t.Errorf("deadline %v: a record waits %v for its digest, want %v", c.config.Deadline, got, c.want)
		}
	}
}
