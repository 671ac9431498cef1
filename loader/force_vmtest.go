// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package loader

import "os"

// forcedTier returns the tier that a test wants, from the variable TSEM_TIER; "": the
// one that the kernel has. The kernels of the tests have no tier export of their own.
func forcedTier() Tier { return Tier(os.Getenv("TSEM_TIER")) }
