// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"time"
)

// kvmWorks tells whether /dev/kvm runs this kernel. There are ones that open
// and do not; so it is tried, once for each boot of this machine and kernel,
// or every time for a kernel that may be another one tomorrow.
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
	yes, no := string(boot)+"yes", string(boot)+"no"
	if said, err := os.ReadFile(k.note); err == nil && (string(said) == yes || string(said) == no) {
		return string(said) == yes
	}
	// A boot takes 2 s with KVM; one that is really emulated is not done in this time.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m := machine{kernel: k, cpus: 1, memory: "512M", kvm: true, stdout: io.Discard, stderr: io.Discard, console: newConsole(nil)}
	a, err := m.run(ctx, request{Words: [][]byte{[]byte("true")}, Env: [][]byte{[]byte("PATH=/usr/bin:/bin")}, Dir: "/", KernelModules: k.modules})
	if context.Cause(ctx) == errStopped {
		return false // it was not KVM that failed
	}
	works := err == nil && a.Status == 0
	said := no
	if works {
		said = yes
	}
	if k.note != "" {
		_ = os.WriteFile(k.note, []byte(said), 0o644) // only saves time
	}
	return works
}
