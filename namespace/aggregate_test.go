// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

func tpm(registers int, value string) fstest.MapFS {
	sys := make(fstest.MapFS)
	for i := range registers {
		sys[fmt.Sprintf("class/tpm/tpm0/pcr-sha256/%d", i)] = &fstest.MapFile{Data: []byte(value)}
	}
	return sys
}

func TestAggregate(t *testing.T) {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA512} {
		if got, err := aggregate(fstest.MapFS{}, h); err != nil || !bytes.Equal(got, make([]byte, h.Size())) {
			t.Errorf("without a TPM: %x, %v", got, err)
		}
	}
	want := sha256.Sum256(bytes.Repeat([]byte{0xab}, 8*32))
	if got, err := aggregate(tpm(24, strings.Repeat("AB", 32)+"\n"), crypto.SHA256); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
	for name, sys := range map[string]fstest.MapFS{
		"too few": tpm(7, strings.Repeat("AB", 32)), "too short": tpm(8, "AB\n"), "too long": tpm(8, strings.Repeat("AB", 33)),
		"no number": tpm(8, strings.Repeat("xy", 32)),
	} {
		if got, err := aggregate(sys, crypto.SHA256); err == nil {
			t.Errorf("%s: %x", name, got)
		}
	}
}
