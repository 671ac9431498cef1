// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"
)

// kvmWorks tells whether /dev/kvm runs this kernel. There are ones that open
// and do not; so it is tried, once for each boot of this machine and kernel.
func kvmWorks(ctx context.Context, k kernel) bool {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	kvm.Close()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false
	}
	note, yes, no := filepath.Join(k.dir, "kvm"), string(boot)+"yes", string(boot)+"no"
	if said, err := os.ReadFile(note); err == nil && (string(said) == yes || string(said) == no) {
		return string(said) == yes
	}
	// A boot takes 2 s with KVM; one that is really emulated is not done in this time.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m := machine{kernel: k, cpus: 1, memory: "512M", kvm: true, stdout: io.Discard, stderr: io.Discard, console: newConsole(nil)}
	a, err := m.run(ctx, request{Words: [][]byte{[]byte("true")}, Env: [][]byte{[]byte("PATH=/usr/bin:/bin")}, Dir: "/", Kernel: k.dir})
	if context.Cause(ctx) == errStopped {
		return false // it was not KVM that failed
	}
	works := err == nil && a.Status == 0
	said := no
	if works {
		said = yes
	}
	_ = os.WriteFile(note, []byte(said), 0o644) // only saves time
	return works
}
