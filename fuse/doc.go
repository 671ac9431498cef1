// SPDX-License-Identifier: Apache-2.0

// Package fuse speaks the FUSE protocol (include/uapi/linux/fuse.h) with the kernel, as far as
// this project needs it. ParseRequest, the Append functions, ReadDevice and WriteDevice are
// requests and answers as such, for the gate (package verdict), whose loop is its own.
package fuse
