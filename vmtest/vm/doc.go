// SPDX-License-Identifier: Apache-2.0

// Command vm runs a command as root in a virtual machine of a stock kernel. It
// is called through vmtest/run and has two faces:
//
//	host   parses the options, packs itself as /init, a few kernel modules and
//	       the request (words, environment, directory) into an initramfs, and
//	       starts qemu on the kernel that vmtest/kernels fetched
//	guest  as /init: loads the modules, mounts the host's root file system
//	       read-only with a layer in memory over it, mounts what a kernel
//	       developer expects, and runs the command
//
// Output, error output and the answer come back through three virtio ports,
// apart from the console. The answer says how many bytes the first two carried,
// so the host knows when it has everything, and just ends qemu: there is no
// shutdown to wait for. What the command writes to files is gone with the VM.
//
// With --vng it is virtme-ng that starts qemu, and its init that starts the guest, which
// goes on from where the host's root file system is mounted (vng.go).
package main

import (
	"os"
)

func main() {
	if os.Getpid() == 1 {
		guest(ownPlaces)
	}
	if len(os.Args) == 3 && os.Args[1] == insideVng {
		guestOfVng(os.Args[2])
	}
	os.Exit(host(os.Args[1:]))
}
