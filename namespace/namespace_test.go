// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

// What cannot be is refused before anything is made; the zero value is the default, and
// no number that somebody gave is.
func TestConfig(t *testing.T) {
	for _, test := range []struct {
		config Config
		says   string
	}{
		{Config{Cache: -1}, "cache -1: 1 to 4096 KiB"},
		{Config{Cache: MaxCache + 1}, "cache 4097: 1 to 4096 KiB"},
		{Config{Wait: -time.Second}, "wait -1s: more than 0, at most 5m0s"},
		{Config{Wait: MaxWait + 1}, "wait 5m0.000000001s: more than 0, at most 5m0s"},
	} {
		if _, err := New(nil, test.config); err == nil || err.Error() != test.says {
			t.Errorf("%+v: %v, want %s", test.config, err, test.says)
		}
	}
	for _, err := range []error{CheckCache(1), CheckCache(MaxCache), CheckWait(1), CheckWait(MaxWait)} {
		if err != nil {
			t.Error(err)
		}
	}
	if CheckCache(0) == nil || CheckWait(0) == nil {
		t.Error("0 is taken for a size, or a time")
	}
}

// TestEnterClosed: nobody gets into a namespace whose index can be another one's.
func TestEnterClosed(t *testing.T) {
	n, _ := newNamespace(t, nil)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Enter(loader.Caller{}); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
}
