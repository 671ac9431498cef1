// SPDX-License-Identifier: Apache-2.0

//go:build !vmtest

package loader

// forcedTier returns the tier that a test wants; outside of the tests' build, none.
func forcedTier() Tier { return "" }
