// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// bootPCRs are the registers of a TPM that say what was booted, firmware to boot loader:
// TSEM's aggregate is made of PCR 0 to 7 (its documentation and trust.c; the ABI text says 8).
const bootPCRs = 8

// Aggregate returns the hardware measurement of the platform, as many bytes as the digest has.
func Aggregate(h crypto.Hash) ([]byte, error) { return aggregate(os.DirFS("/sys"), h) }

// aggregate returns the hardware measurement of the platform as TSEM has it: the digest of
// the boot registers of the TPM. Without a TPM that has a bank for SHA-256 it is zeros. sys
// is /sys, where drivers/char/tpm/tpm-sysfs.c shows each register in hexadecimal.
func aggregate(sys fs.FS, h crypto.Hash) ([]byte, error) {
	digest := h.New()
	for i := range bootPCRs {
		text, err := fs.ReadFile(sys, fmt.Sprintf("class/tpm/tpm0/pcr-sha256/%d", i))
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			return make([]byte, h.Size()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the measurement of the platform: %w", err)
		}
		value, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || len(value) != crypto.SHA256.Size() {
			return nil, fmt.Errorf("read the measurement of the platform: register %d of the TPM is %q, not a digest", i, text)
		}
		digest.Write(value)
	}
	return digest.Sum(nil), nil
}
