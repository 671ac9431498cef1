// SPDX-License-Identifier: Apache-2.0

package metrics

//go:generate go run ./mkdoc ../docs/metrics.md
