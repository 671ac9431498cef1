// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TestLimits: what the caller may not or cannot have is said in one line, with what to
// change, where there is no kernel half yet.
func TestLimits(t *testing.T) {
	unload(t)
	defer reopen(t)
	for _, test := range []struct {
		name, command, says string
	}{
		{"files", "ulimit -n 64; exec tsem-bpf run true", "64 open files are too few; allow at least 512"},
		{"files of a namespace", "ulimit -n 300; exec tsem-bpf run -o /tmp/o true", "300 open files are too few"},
		{"no CAP_SYS_PTRACE", "exec setpriv --bounding-set -sys_ptrace --inh-caps -all tsem-bpf run true", "without CAP_SYS_PTRACE; give root CAP_SYS_PTRACE back"},
		{"no CAP_BPF", "exec setpriv --bounding-set -sys_admin,-bpf --inh-caps -all tsem-bpf run true", "without CAP_BPF; give root CAP_BPF back"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := exec.Command("sh", "-c", test.command).CombinedOutput()
			mustSay(t, out, err, test.says)
		})
	}
	t.Run("enough", func(t *testing.T) {
		out, err := exec.Command("sh", "-c", "ulimit -n 512; exec setpriv --bounding-set -all,+sys_ptrace,+perfmon,+bpf --inh-caps -all"+
			" tsem-bpf run --events all true").CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// TestFullHook: the kernel runs so many programs in a hook and no more.
func TestFullHook(t *testing.T) {
	needHook(t, "key_alloc")
	unload(t)
	defer reopen(t)
	spec := &ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "key_alloc", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
	for {
		program, err := ebpf.NewProgram(spec) // the same one cannot be attached twice
		if err != nil {
			t.Fatal(err)
		}
		l, err := link.AttachLSM(link.LSMOptions{Program: program})
		program.Close()
		if errors.Is(err, unix.E2BIG) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	out, err := exec.Command("tsem-bpf", "run", "true").CombinedOutput()
	mustSay(t, out, err, "the hook of the program key_alloc has as many BPF programs as the kernel allows")
}

func mustSay(t *testing.T, out []byte, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v: %s; want one line with %q", err, out, want)
	}
}
