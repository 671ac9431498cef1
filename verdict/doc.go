// SPDX-License-Identifier: Apache-2.0

// Package verdict lets a task wait inside a hook until user space has decided about its
// event, and lets exactly one of all who may decide do so.
package verdict
