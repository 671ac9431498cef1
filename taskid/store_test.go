// SPDX-License-Identifier: Apache-2.0

package taskid

import (
	"bytes"
	"crypto"
	"errors"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event"
)

// shelf is a store with room for some TASK_IDs.
type shelf struct {
	ids   map[uint64][Room]byte
	room  int
	asked int
}

var errFull = errors.New("no room")

func (s *shelf) TaskID(identity uint64) (id [Room]byte, known bool) {
	s.asked++
	id, known = s.ids[identity]
	return id, known
}

func (s *shelf) ShareTaskID(identity uint64, id [Room]byte) error {
	if len(s.ids) >= s.room {
		return errFull
	}
	s.ids[identity] = id
	return nil
}

func (s *shelf) TaskIDs() uint64 { return uint64(len(s.ids)) }

func newShelf(room int) *shelf { return &shelf{ids: make(map[uint64][Room]byte), room: room} }

// What one table has computed another one knows, in the length of its own digest.
func TestTableShares(t *testing.T) {
	store := newShelf(9)
	short, long := NewTable(crypto.SHA256, store), NewTable(crypto.SHA512, store)
	for identity, table := range map[uint64]*Table{7: short, 9: long} {
		r := execOf(t, identity, 0)
		if err := table.Learn(&r, bashDigest(event.DigestExact)); err != nil {
			t.Fatal(err)
		}
	}
	filled := append(short.TaskID(nil, 7), make([]byte, 32)...)
	if got := long.TaskID(nil, 7); !bytes.Equal(got, filled) {
		t.Errorf("filled with zeros it is %x, want %x", got, filled)
	}
	if got, want := short.TaskID(nil, 9), long.TaskID(nil, 9)[:32]; !bytes.Equal(got, want) {
		t.Errorf("cut it is %x, want %x", got, want)
	}
	asked := store.asked
	if !short.Known(9) || !long.Known(7) || store.asked != asked {
		t.Errorf("what is known was asked for %d times", store.asked-asked)
	}
}

// A TASK_ID that nobody knows is not asked for with each event, and found when it is known.
func TestTableAsksAgain(t *testing.T) {
	store := newShelf(9)
	table := NewTable(crypto.SHA256, store)
	unknown := bytes.Repeat([]byte{0xff}, 32)
	for range 3 {
		if got := table.TaskID(nil, 7); !bytes.Equal(got, unknown) {
			t.Errorf("it is %x", got)
		}
	}
	if store.asked != 1 {
		t.Errorf("asked %d times", store.asked)
	}
	store.ids[5] = [Room]byte{2}
	if table.Known(7) || table.Known(7) || store.asked != 2 {
		t.Errorf("asked %d times, another one is known", store.asked)
	}
	store.ids[7] = [Room]byte{1}
	if got := table.TaskID(nil, 7); got[0] != 1 {
		t.Errorf("it is %x", got)
	}
	for identity := range uint64(2 * maxAsked) {
		table.Known(100 + identity)
	}
	if n := len(table.asked); n > maxAsked {
		t.Errorf("%d unknown ones are kept", n)
	}
}

// Where the store has no more room a TASK_ID is known to its own keeper.
func TestTableUnshared(t *testing.T) {
	store := newShelf(1)
	table := NewTable(crypto.SHA256, store)
	first, second := execOf(t, 7, 0), execOf(t, 9, 0)
	if err := table.Learn(&first, bashDigest(event.DigestExact)); err != nil {
		t.Error(err)
	}
	if err := table.Learn(&second, bashDigest(event.DigestExact)); !errors.Is(err, ErrUnshared) || !errors.Is(err, errFull) {
		t.Errorf("error is %v", err)
	}
	if !table.Known(9) || NewTable(crypto.SHA256, store).Known(9) {
		t.Error("known to another table, or not to its own")
	}
}
