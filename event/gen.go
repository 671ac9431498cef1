// SPDX-License-Identifier: Apache-2.0

package event

//go:generate go run ./mkdoc ..
