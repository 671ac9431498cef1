// SPDX-License-Identifier: Apache-2.0

package gateproc

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestPrograms: each program is a file that the kernel of its architecture executes, and
// small enough that a page holds it.
func TestPrograms(t *testing.T) {
	for machine, program := range map[elf.Machine][]byte{elf.EM_X86_64: programAMD64, elf.EM_AARCH64: programARM64} {
		t.Run(machine.String(), func(t *testing.T) {
			f, err := elf.NewFile(bytes.NewReader(program))
			if err != nil {
				t.Fatal(err)
			}
			if f.Machine != machine || f.Type != elf.ET_EXEC {
				t.Errorf("a file of type %v for %v", f.Type, f.Machine)
			}
			for _, p := range f.Progs {
				if p.Flags&(elf.PF_W|elf.PF_X) == elf.PF_W|elf.PF_X {
					t.Errorf("%v can be written and executed", p.Type)
				}
				if p.Type == elf.PT_LOAD && (f.Entry < p.Vaddr || f.Entry >= p.Vaddr+p.Filesz) {
					t.Errorf("the entry %#x is outside of %#x to %#x", f.Entry, p.Vaddr, p.Vaddr+p.Filesz)
				}
			}
			if len(program) > 4096 {
				t.Errorf("%d bytes", len(program))
			}
		})
	}
}

// Where the state of a namespace lies in the map of these tests: across two pages.
const (
	testBeat   = 4096 + 16
	testFlags  = 4096 - 4
	testClosed = 4
)

// A rig is a gate program at work, with a file each for the map and for `abort`.
type rig struct {
	cmd    *exec.Cmd
	memory []byte
	abort  string
	life   *os.File // the keeper's end
	ready  *os.File
}

// newRig starts the gate program with what the gate process has, and these arguments.
func newRig(t *testing.T, arguments ...uint64) *rig {
	t.Helper()
	program, err := Program()
	if errors.Is(err, ErrArchitecture) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	state := create(t, filepath.Join(dir, "namespaces"))
	if err := state.Truncate(2 * 4096); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(state.Fd()), 0, 2*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	abort := create(t, filepath.Join(dir, "abort"))
	lifeRead, life := pipe(t)
	ready, readyWrite := pipe(t)
	if err := ready.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	r := &rig{cmd: exec.Command(path), memory: memory, abort: abort.Name(), life: life, ready: ready}
	for _, n := range arguments {
		r.cmd.Args = append(r.cmd.Args, strconv.FormatUint(n, 10))
	}
	r.cmd.ExtraFiles = []*os.File{state, abort, lifeRead, readyWrite}
	startProgram(t, r.cmd)
	// One that does not end when it should is a failed test soon.
	hung := time.AfterFunc(time.Minute, func() { _ = r.cmd.Process.Kill() })
	t.Cleanup(func() {
		hung.Stop()
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
	lifeRead.Close()
	readyWrite.Close()
	return r
}

// startProgram starts a program that was just written: a process that another test is
// about to start may still have it open for writing, for a moment.
func startProgram(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	for {
		err := cmd.Start()
		if err == nil {
			return
		}
		if !errors.Is(err, unix.ETXTBSY) {
			t.Fatal(err)
		}
		*cmd = exec.Cmd{Path: cmd.Path, Args: cmd.Args, ExtraFiles: cmd.ExtraFiles}
	}
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	return read, write
}

func (r *rig) beat(value uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&r.memory[testBeat])), value)
}

func (r *rig) setFlags(value uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.memory[testFlags])), value)
}

// waitReady waits until the program has said that it is ready.
func (r *rig) waitReady(t *testing.T) {
	t.Helper()
	var said [2]byte
	if n, err := r.ready.Read(said[:]); err != nil || string(said[:n]) != "r" {
		t.Fatalf("said %q, %v", said[:n], err)
	}
}

// waitRounds waits until the program has looked at its keeper so often: each time it
// sleeps, and nothing else makes it.
func (r *rig) waitRounds(t *testing.T, rounds int) {
	t.Helper()
	for end := r.slept(t) + rounds + 1; r.slept(t) < end; time.Sleep(time.Millisecond) {
	}
}

// slept returns how often the program has gone to sleep. Of one that has ended it fails
// the test.
func (r *rig) slept(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(status), "\nState:\tZ") {
		t.Fatalf("it has ended: %v, abort has %q", r.cmd.Wait(), r.aborted(t))
	}
	_, text, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:\t")
	text, _, _ = strings.Cut(text, "\n")
	count, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func (r *rig) aborted(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(r.abort)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// expectEnd waits for the program and compares its exit status and what it wrote.
func (r *rig) expectEnd(t *testing.T, status int, abort string) {
	t.Helper()
	_ = r.cmd.Wait()
	if got := r.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d (%v), want %d", got, r.cmd.ProcessState, status)
	}
	if got := r.aborted(t); got != abort {
		t.Errorf("abort has %q, want %q", got, abort)
	}
}

func TestProgramEnds(t *testing.T) {
	const hour = uint64(time.Hour)
	for _, c := range []struct {
		name   string
		late   uint64
		do     func(r *rig)
		status int
	}{
		{"the keeper is gone", hour, func(r *rig) { r.life.Close() }, exitKeeperGone},
		{"the namespace is closed", hour, func(r *rig) { r.setFlags(testClosed | 8) }, exitClosed},
		{"the beat is late", 1, func(r *rig) { r.beat(7) }, exitLate},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testBeat, testFlags, testClosed, c.late)
			r.waitReady(t)
			c.do(r)
			r.expectEnd(t, c.status, "1")
		})
	}
}

// TestProgramStays: what is no reason to end is none.
func TestProgramStays(t *testing.T) {
	for _, c := range []struct {
		name string
		late uint64
		do   func(r *rig)
	}{
		{"nobody watches", 0, func(r *rig) { r.beat(7) }},
		{"no beat yet", 1, func(*rig) {}},
		{"another flag", 0, func(r *rig) { r.setFlags(^uint32(testClosed)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testBeat, testFlags, testClosed, c.late)
			r.waitReady(t)
			c.do(r)
			r.waitRounds(t, 5)
			r.setFlags(testClosed)
			r.expectEnd(t, exitClosed, "1")
		})
	}
}

// TestProgramBeats: a keeper that beats is not late, however long.
func TestProgramBeats(t *testing.T) {
	t.Parallel()
	const late = 2 * time.Second // far more than this process can be kept from beating
	r := newRig(t, testBeat, testFlags, testClosed, uint64(late))
	r.waitReady(t)
	for beat, end := uint64(1), time.Now().Add(late+time.Second); time.Now().Before(end); beat++ {
		r.beat(beat)
		time.Sleep(time.Millisecond)
	}
	r.waitRounds(t, 1)
	r.setFlags(testClosed)
	r.expectEnd(t, exitClosed, "1")
}

// TestProgramStopped: that it was stopped itself is not held against the keeper, which
// may have been stopped with it.
func TestProgramStopped(t *testing.T) {
	t.Parallel()
	const late = 2 * time.Second
	r := newRig(t, testBeat, testFlags, testClosed, uint64(late))
	r.beat(7)
	r.waitReady(t)
	r.waitRounds(t, 1)
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(late + late/4)
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.waitRounds(t, 1)
	r.setFlags(testClosed)
	r.expectEnd(t, exitClosed, "1")
}

// TestProgramDescriptors: it keeps the two that it needs, and those it was not told of.
func TestProgramDescriptors(t *testing.T) {
	t.Parallel()
	r := newRig(t, testBeat, testFlags, testClosed, 0)
	r.waitReady(t)
	if n, err := r.ready.Read(make([]byte, 1)); n != 0 {
		t.Errorf("it said more than that it is ready, %v", err)
	}
	for fd, open := range map[int]bool{fdNamespaces: false, fdAbort: true, fdLife: true, fdReady: false} {
		_, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", r.cmd.Process.Pid, fd))
		if (err == nil) != open {
			t.Errorf("descriptor %d: %v, want open %v", fd, err, open)
		}
	}
}

// TestProgramLocked: none of its memory can be taken away, so that no access to it waits.
func TestProgramLocked(t *testing.T) {
	t.Parallel()
	r := newRig(t, testBeat, testFlags, testClosed, 0)
	r.waitReady(t)
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, mapped := range []string{"/" + name, "/namespaces", "[stack]"} {
		_, mapping, found := strings.Cut(string(smaps), mapped+"\n")
		_, mapping, _ = strings.Cut(mapping, "\nVmFlags: ")
		flags, _, _ := strings.Cut(mapping, "\n")
		if !found || !strings.Contains(" "+flags, " lo ") {
			t.Errorf("%s is not locked: flags %q", mapped, flags)
		}
	}
}

func TestProgramCannot(t *testing.T) {
	for _, c := range []struct {
		name      string
		arguments []uint64
		status    int
	}{
		{"no arguments", nil, exitNoArguments},
		{"a map that ends before", []uint64{1 << 60, testFlags, testClosed, 0}, exitNoMap},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.arguments...)
			r.expectEnd(t, c.status, "")
			if n, err := r.ready.Read(make([]byte, 1)); n != 0 {
				t.Errorf("it said that it is ready, %v", err)
			}
		})
	}
}
