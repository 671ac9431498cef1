// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stressors are those of stress-ng that run beside each other, by what they are about. Left out are those
//   - that need hardware, a daemon or a filesystem that the machine lacks, or do nothing as root (exec, spawn);
//   - that restart the machine, set its clock (clock, get), mount (bind-mount, ramfs, tmpfs), plug CPUs or memory in
//     and out, or change the host of others (sysfs, procfs, binderfs);
//   - that take all memory, descriptors or processes (bigheap, oom-pipe, full, forkheavy, vforkmany), or fill the small
//     disk of the tests (dirmany, hdd, io, iomix, fallocate, copy-file, fpunch, sync-file);
//   - that send signals to processes that are not theirs (kill), or go on until their time is over whatever they have done (inode-flags, sem);
//   - of which one operation makes thousands of files or packets (link, symlink, sockpair, icmp-flood, udp-flood).
var stressors = []struct{ class, names string }{
	{"filesystem", "access chattr chdir chmod chown dentry dir dirdeep dup fcntl fiemap file-ioctl filename flock fsize fstat getdent " +
		"handle inotify lease locka lockf lockofd mknod open rename touch utime xattr"},
	{"network", "epoll netdev rawsock sock sockdiag sockfd sockmany udp"},
	{"ipc", "fifo key mq msg pipe sem-sysv shm shm-sysv"},
	{"process", "cap clone daemon exit-group fork ioprio nice personality prctl ptrace pthread schedpolicy session set vfork wait zombie"},
}

// stress is the command that runs the stressors of a class, in a folder of the disk of the tests: each for two
// operations, or five seconds where these take longer; in make soak for a minute. stress-ng succeeds
// either way, however little it got done.
func stress(names, dir string) []string {
	soak := os.Getenv("TSEM_ROUNDS") != ""
	words := []string{"stress-ng", "--temp-path", dir, "--chdir-dirs", "64", "--clone-max", "64", "--pthread-max", "64", "--zombie-max", "64",
		"--timeout", map[bool]string{true: "60s", false: "5s"}[soak]}
	for name := range strings.FieldsSeq(names) {
		words = append(words, "--"+name, "1")
		if !soak {
			words = append(words, "--"+name+"-ops", "2")
		}
	}
	return words
}

// TestStress: what stress-ng does at full speed succeeds in a namespace as it does in none, each event is in the
// account, and each line that is written is a whole record. Events may be refused: that is what
// becomes of those of hooks that cannot wait for room, when a flood of them is faster than the reader.
func TestStress(t *testing.T) {
	dir := work + "/stress"
	check(t, os.Mkdir(dir, 0o777))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	for _, s := range stressors {
		start := time.Now()
		words := stress(s.names, dir)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s without tsem-bpf: %v: %s", s.class, err, out)
		}
		t.Logf("%s without tsem-bpf: %v", s.class, time.Since(start))
	}
	repeat(t, 1, func(t *testing.T) {
		for _, s := range stressors {
			t.Run(s.class, func(t *testing.T) { testStress(t, stress(s.names, dir)) })
		}
	})
}

// testStress runs a command, which succeeds, and reads its records while it runs: there may be millions.
func testStress(t *testing.T, words []string) {
	// What the command itself has to say is no record.
	cmd := exec.Command("tsem-bpf", append([]string{"run", "--", "sh", "-c", `exec "$0" "$@" >&2`}, words...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	_, stdout := piped(t, cmd)
	start := time.Now()
	numbers, malformed := recordNumbers(stdout)
	if err := errors.Join(malformed, cmd.Wait()); err != nil {
		t.Errorf("%v: %s", err, stderr.String())
	}
	account := accounted(t, stderr.String(), 1)[0]
	slices.Sort(numbers)
	if count := account.delivered; uint64(len(numbers)) != count || numbers[0] != 1 || numbers[count-1] != count || uint64(len(slices.Compact(numbers))) != count {
		t.Errorf("the numbers of %d records are not each from 1 to %d once: %s", len(numbers), count, account.line)
	}
	t.Logf("%v: %s", time.Since(start), account.line)
}

// recordNumbers reads records to the end and returns their numbers, or which line is none.
func recordNumbers(r io.Reader) (numbers []uint64, err error) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return numbers, nil
		}
		var record struct{ Event struct{ Number string } }
		if err := errors.Join(err, json.Unmarshal(line, &record)); err != nil {
			return numbers, fmt.Errorf("%w: %q", err, line)
		}
		n, err := strconv.ParseUint(record.Event.Number, 10, 64)
		if err != nil {
			return numbers, fmt.Errorf("%w: %s", err, line)
		}
		numbers = append(numbers, n)
	}
}
