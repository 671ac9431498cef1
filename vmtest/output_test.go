// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const before = "what was there before\n"

// fileOfAll makes a file that everybody may read and write, in a folder of nobody.
func fileOfAll(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for at := folder; at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(folder, "existing")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOutputUntouched: a run that fails before its first event leaves the output as
// it was.
func TestOutputUntouched(t *testing.T) {
	existing := fileOfAll(t)
	absent, script := existing+".absent", existing+".script"
	if err := os.WriteFile(script, []byte("no program of any format"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{existing, absent} {
		for _, test := range []struct {
			uid    uint32
			cmd    string
			status int
		}{{65534, "true", 125}, {0, script, 126}} {
			cmd := exec.Command("tsem-bpf", "run", "-o", output, test.cmd)
			if test.uid != 0 {
				cmd.SysProcAttr = credential(test.uid)
			}
			out, _ := cmd.CombinedOutput()
			if status := cmd.ProcessState.ExitCode(); status != test.status {
				t.Errorf("status %d, want %d: %s", status, test.status, out)
			}
		}
	}
	text, err := os.ReadFile(existing)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(existing); err != nil || string(text) != before || info.Mode() != 0o666 {
		t.Errorf("%v %v: %q", info.Mode(), err, text)
	}
	if _, err := os.Stat(absent); err == nil {
		t.Errorf("%s was left behind", absent)
	}
}

// TestOutputAnew: a file that was there has the records and nothing else, and is its
// owner's alone.
func TestOutputAnew(t *testing.T) {
	existing := fileOfAll(t)
	if out, err := exec.Command("tsem-bpf", "run", "-o", existing, "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(existing)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(existing); err != nil || info.Mode() != 0o600 || !bytes.HasPrefix(text, []byte("{")) {
		t.Errorf("%v %v: %q", info.Mode(), err, text)
	}
}

// TestUnreadOutput: neither a FIFO without reader nor a reader that stopped makes
// tsem-bpf deaf, and every event is accounted for.
func TestUnreadOutput(t *testing.T) {
	fifo, marker := work+"/unread", work+"/cmd-has-ended"
	for _, test := range []struct {
		name   string
		words  []string
		reader bool
	}{
		{"no reader", []string{"run", "-o", fifo, "true"}, false},
		// More than a pipe holds.
		{"run", []string{"run", "-o", fifo, "sh", "-c", `i=0; while [ $i -lt 150 ]; do : </etc/hostname; i=$((i+1)); done; : >` + marker}, true},
		{"export", []string{"export", "--root", "-o", fifo}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !test.reader {
				needFile(t, "/proc/self/stack", "CONFIG_STACKTRACE")
			}
			_, _ = os.Remove(marker), os.Remove(fifo)
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			var reader, writer int
			if test.reader {
				reader = open(fifo, unix.O_RDONLY|unix.O_NONBLOCK, 0)
				defer unix.Close(reader)
				writer = open(fifo, unix.O_WRONLY|unix.O_NONBLOCK, 0)
			}
			var stderr bytes.Buffer
			cmd := exec.Command("tsem-bpf", test.words...)
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			full := func() bool {
				n, err := unix.Poll([]unix.PollFd{{Fd: int32(writer), Events: unix.POLLOUT}}, 0)
				return n == 0 && err == nil
			}
			waitFor(t, "what holds it up", time.Minute, func() bool {
				switch test.name {
				case "run":
					_, err := os.Stat(marker)
					return err == nil && full()
				case "export":
					was := full()
					// More than the room that a full pipe may still have in its last page. Not by this
					// process, which is a keeper.
					if err := exec.Command("sh", "-c", "for i in $(seq 100); do : </etc/hostname; done").Run(); err != nil {
						t.Fatal(err)
					}
					return was
				}
				return waitsForPartner(cmd.Process.Pid)
			})
			if test.reader {
				must(unix.Close(writer))
			}
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case <-ended:
			case <-time.After(time.Minute):
				_ = cmd.Process.Kill()
				t.Fatal("TERM did not end it")
			}
			said := stderr.String()
			if status := cmd.ProcessState.ExitCode(); status != 125 {
				t.Errorf("status %d: %s", status, said)
			}
			if !test.reader {
				if !strings.Contains(said, "came before a reader") {
					t.Error(said)
				}
				return
			}
			if !strings.Contains(said, "reader is too slow") || strings.Contains(said, "unaccounted") {
				t.Error(said)
			}
			checkWritten(t, said, drained(t, reader))
		})
	}
}

// waitsForPartner says whether a thread is in the open of a FIFO (fs/pipe.c).
func waitsForPartner(pid int) bool {
	stacks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stack", pid))
	for _, path := range stacks {
		if stack, _ := os.ReadFile(path); bytes.Contains(stack, []byte("wait_for_partner")) {
			return true
		}
	}
	return false
}

// drained returns what is in a pipe whose writers are gone.
func drained(t *testing.T, fd int) string {
	t.Helper()
	var all []byte
	part := make([]byte, 1<<16)
	for {
		n, err := unix.Read(fd, part)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return string(all)
		}
		all = append(all, part[:n]...)
	}
}

// checkWritten compares what tsem-bpf says to have written with what is there.
func checkWritten(t *testing.T, said, text string) {
	t.Helper()
	lines := strings.Count(text, "\n")
	if want := fmt.Sprintf("; %d records are written", lines); !strings.Contains(said, want) {
		t.Errorf("%d whole lines are there; it says %s", lines, said)
	}
	if text != "" && !strings.HasSuffix(text, "}\n") {
		t.Errorf("the last line is cut: %q", text[max(0, len(text)-80):])
	}
	accounted(t, said, 1)
}

// smallDisk returns the folder of a file system of a size, as mount(8) takes it, for this test.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	disk := t.TempDir()
	check(t, unix.Mount("small", disk, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { check(t, unix.Unmount(disk, 0)) })
	return disk
}

// TestFullDisk: when the disk is full, what is said to be written is there in whole
// lines, and the rest is accounted for.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, "64k")
	out, _ := exec.Command("tsem-bpf", "run", "-o", disk+"/file", "sh", "-c",
		`i=0; while [ $i -lt 100 ]; do : </etc/hostname; i=$((i+1)); done; sleep 2`).CombinedOutput()
	text, err := os.ReadFile(disk + "/file")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "no space left on device") || len(text) == 0 {
		t.Errorf("%d bytes: %s", len(text), out)
	}
	checkWritten(t, string(out), string(text))
}

// TestClosedOutput: records that would go nowhere are an error before anything starts.
func TestClosedOutput(t *testing.T) {
	marker := work + "/cmd-was-run"
	out, err := exec.Command("sh", "-c", "exec tsem-bpf run touch "+marker+" >&-").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "standard output is closed") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("CMD was run")
	}
}

// TestRunAsGiven: the arguments of CMD and the name of the output arrive byte by byte, and a SIGHUP that is ignored stays so, for
// tsem-bpf and for CMD.
func TestRunAsGiven(t *testing.T) {
	folder := t.TempDir()
	made, output := filepath.Join(folder, "m\xff"), filepath.Join(folder, "o\xc3")
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec tsem-bpf run -o "$0" -- sh -c 'kill -HUP $PPID $$; : >"$0"; exit 3' "$1"`, output, made)
	said, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("%v: %s", err, said)
	}
	for _, name := range []string{made, output} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(output); err != nil || !bytes.Contains(text, []byte(`/m\ufffdff"`)) {
		t.Errorf("%v, no record of the file that was made in %d bytes", err, len(text))
	}
	balances(t, string(said))
}
