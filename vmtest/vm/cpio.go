// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
)

// An initramfs in the "newc" format of cpio
// (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).
type cpio struct {
	bytes.Buffer
	inode int
}

const (
	cpioFile = 0o100000
	cpioDir  = 0o040000
)

func (c *cpio) add(name string, mode int, data []byte) {
	c.inode++
	fmt.Fprintf(c, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.WriteString(name)
	c.WriteByte(0)
	c.pad()
	c.Write(data)
	c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *cpio) pad() {
	for c.Len()%4 != 0 {
		c.WriteByte(0)
	}
}

func (c *cpio) end() []byte {
	c.add("TRAILER!!!", 0, nil)
	return c.Bytes()
}
