// SPDX-License-Identifier: Apache-2.0

package gateproc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// fakeVariable says what a helper of these tests does, in which no file system is mounted.
const fakeVariable = "TSEM_FAKE_GATE"

func TestMain(m *testing.M) {
	if os.Args[0] == helperName {
		fakeHelper(os.Getenv(fakeVariable))
	}
	os.Exit(m.Run())
}

// fakeHelper behaves as a helper would, or as one should not.
func fakeHelper(what string) {
	said := os.NewFile(fdReady, "ready")
	status := 0
	switch what {
	case "ready":
		fmt.Fprint(said, ready)
		said.Close()
		os.Stderr.Close()
		_, _ = os.NewFile(fdLife, "life").Read(make([]byte, 1))
	case "stubborn":
		_, _ = said.Read(make([]byte, 1)) // which is an error
		time.Sleep(time.Hour)             // it is killed; a select without cases Go may call a deadlock
	case "arguments":
		fmt.Fprint(said, strings.Join(os.Args, " "))
		status = helperFailed
	case "refused":
		fmt.Fprint(said, fmt.Errorf("%w: open file system fuse: %w: modprobe fuse", fuse.ErrFUSE, unix.ENODEV))
		status = helperFailed
	case "crashed":
		panic("a defect")
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	default:
		status, _ = strconv.Atoi(what)
	}
	os.Exit(status)
}

// startFake starts a fake helper, with a file for the device and the map.
func startFake(t *testing.T, what string, limit time.Duration) (*Process, error) {
	t.Helper()
	t.Setenv(fakeVariable, what)
	file := create(t, t.TempDir()+"/file")
	p, err := start(Config{Device: file, Namespaces: int(file.Fd()), Index: 2, Late: time.Second}, limit)
	if err == nil {
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return p, err
}

func TestStartErrors(t *testing.T) {
	for _, c := range []struct {
		what string
		says string
		is   error
	}{
		{"refused", "FUSE cannot be used: open file system fuse: no such device: modprobe fuse", fuse.ErrFUSE},
		{"crashed", "panic: a defect", nil},
		{"killed", "signal: killed", ErrKilled},
		{"4", "BPF_F_MMAPABLE", nil},
		{"5", "CAP_IPC_LOCK", nil},
		{"99", "exit status 99", nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := startFake(t, c.what, time.Minute)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

// TestStartArguments: beat and flags are those of the namespace, the rest is passed on.
func TestStartArguments(t *testing.T) {
	_, err := startFake(t, "arguments", time.Minute)
	if err == nil {
		t.Fatal("no error")
	}
	// In the value of index 2.
	const at = 2 * int(unsafe.Sizeof(bpf.Namespace{}))
	var ns bpf.Namespace
	want := fmt.Sprint(helperName, " ", at+int(unsafe.Offsetof(ns.Beat)), " ", at+int(unsafe.Offsetof(ns.Flags)), " 1 1000000000 ", noRegister)
	if err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

// TestStartHangs: a helper that is not ready in time is killed, and that is said.
func TestStartHangs(t *testing.T) {
	_, err := startFake(t, "stubborn", time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "not ready after 1ms") {
		t.Error(err)
	}
}

func TestProcess(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		p, err := startFake(t, "ready", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Err(); err != nil {
			t.Errorf("it runs: %v", err)
		}
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		<-p.Exited()
		if err := p.Err(); err != nil {
			t.Error(err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		p, err := startFake(t, "ready", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		if err := p.Err(); !errors.Is(err, ErrKilled) {
			t.Error(err)
		}
	})
}

// TestHelperRefuses: by hand it does nothing.
func TestHelperRefuses(t *testing.T) {
	if err := become(nil); err == nil || !strings.Contains(err.Error(), "not by hand") {
		t.Error(err)
	}
}

// TestMainReturns: what is no helper goes on.
func TestMainReturns(t *testing.T) {
	Main()
}

// TestRaise: the descriptor is the highest, still the same file, and not inherited.
func TestRaise(t *testing.T) {
	f := create(t, t.TempDir()+"/file")
	above, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(above)
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	raised, err := raise(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raised)
	if raised <= above {
		t.Errorf("%d is not above %d", raised, above)
	}
	flags, err := unix.FcntlInt(uintptr(raised), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
	if _, err := f.WriteString("the same"); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 8)
	if _, err := unix.Pread(raised, text, 0); err != nil || !bytes.Equal(text, []byte("the same")) {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the lower one is still there: %v", err)
	}
}

// TestRaiseAtLimit: where nothing higher is allowed the descriptor stays as it is.
func TestRaiseAtLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	f := create(t, t.TempDir()+"/file")
	last, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, int(limit.Cur)-1)
	if err != nil {
		t.Skipf("%d open files: %v", limit.Cur, err)
	}
	raised, err := raise(last)
	if err != nil || raised != last {
		t.Errorf("%d became %d, %v", last, raised, err)
	}
	unix.Close(raised)
}
