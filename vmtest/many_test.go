// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// belongings are what tsem-bpf could leave behind on a host.
type belongings struct {
	programs, maps, links, descriptors int
	pins, mounts, processes            string
}

func belongingsNow(t *testing.T) belongings {
	t.Helper()
	pins, err := filepath.Glob(pinned + "*")
	check(t, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	return belongings{
		programs: bpfObjects(t, "prog"), maps: bpfObjects(t, "map"), links: bpfObjects(t, "link"), descriptors: descriptors(t),
		pins: strings.Join(pins, " "), mounts: string(mounts), processes: strings.Join(processesOf(t, "tsem-bpf", "gate"), " "),
	}
}

// processesOf returns the names and ids of the processes with one of these names.
func processesOf(t *testing.T, names ...string) (all []string) {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	check(t, err)
	for _, folder := range folders {
		text, _ := os.ReadFile(folder + "/comm") // of one that has just ended there is none
		for _, name := range names {
			if string(text) == name+"\n" {
				all = append(all, name+" "+filepath.Base(folder))
			}
		}
	}
	return all
}

// nothingLeft waits until there is no more than there was before, for the kernel gives back in its own
// time. Of what is counted there may be less, when something from before was still on its way out.
func nothingLeft(t *testing.T, before belongings) {
	t.Helper()
	eventually(t, "what is left", before, func() belongings {
		now := belongingsNow(t)
		now.programs, now.maps = max(now.programs, before.programs), max(now.maps, before.maps)
		now.links, now.descriptors = max(now.links, before.links), max(now.descriptors, before.descriptors)
		return now
	})
}

// chance returns a source of random numbers, and says from which seed, which TSEM_SEED sets.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TSEM_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		check(t, err)
	}
	t.Logf("TSEM_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// A nest is a tsem-bpf whose command is a tsem-bpf itself: a namespace in a namespace. The
// command of the inner one is a shell, which says who it is and ends with its standard input.
type nest struct {
	cmd          *exec.Cmd
	stdin        io.Closer
	stderr       bytes.Buffer
	outer, inner string // where the records are
	keeper, task int    // process ids of the inner tsem-bpf, and of the shell
}

func startNest(dir string, i int) (*nest, error) {
	n := &nest{outer: fmt.Sprintf("%s/outer.%d", dir, i), inner: fmt.Sprintf("%s/inner.%d", dir, i)}
	n.cmd = exec.Command("tsem-bpf", "run", "-o", n.outer, "--", "tsem-bpf", "run", "-o", n.inner, "--",
		"sh", "-c", "read x </etc/hostname; echo $PPID $$; read x; read x </etc/hostname; exit 0")
	n.cmd.Stderr = &n.stderr
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		return n, err
	}
	n.stdin = stdin
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return n, err
	}
	if err := n.cmd.Start(); err != nil {
		return n, err
	}
	_, err = fmt.Fscan(stdout, &n.keeper, &n.task)
	return n, err
}

// TestManyRuns: those who start at once, TSEM_RUNS of them with as many inside, install one
// kernel half; each describes its own command and nothing else, and the last one leaves nothing behind.
func TestManyRuns(t *testing.T) {
	repeat(t, 1, testManyRuns)
}

func testManyRuns(t *testing.T) {
	all := make([]*nest, number(t, os.Getenv("TSEM_RUNS"), 4))
	order := chance(t).Perm(len(all))
	unload(t)
	defer reopen(t)
	before := belongingsNow(t)
	dir := t.TempDir()
	start := time.Now()
	var group errgroup.Group
	for i := range all {
		group.Go(func() (err error) {
			all[i], err = startNest(dir, i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d with as many inside run at once after %v; memory: %s", len(all), time.Since(start), availableMemory(t))
	start = time.Now()
	for _, i := range order {
		check(t, all[i].stdin.Close())
	}
	for _, n := range all {
		if err := n.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, n.stderr.String())
		}
	}
	t.Logf("they have ended after %v", time.Since(start))
	nothingLeft(t, before)
	if t.Failed() {
		return
	}
	described := make(map[any]string) // by namespace and by task: where the records are
	for _, n := range all {
		opened, paths := false, []string{n.inner, n.outer}
		for i, o := range complete(t, n.stderr.String(), paths...) {
			path := paths[i]
			for _, r := range o.all {
				for _, what := range []string{"event.context", "event.pid"} {
					key := [2]any{what, at(r, what)}
					if other, ok := described[key]; ok && other != path {
						t.Errorf("%s and %s: both describe %s %v", other, path, what, at(r, what))
					}
					described[key] = path
				}
				if pid := at(r, "event.pid"); pid == fmt.Sprint(n.cmd.Process.Pid) || path == n.inner && pid != fmt.Sprint(n.task) {
					t.Errorf("%s describes the process %v (%v); the keepers are %d and %d, the command is %d",
						path, pid, at(r, "event.process"), n.cmd.Process.Pid, n.keeper, n.task)
				}
				opened = opened || path == n.outer && at(r, "file_open.file.path.pathname") == n.inner
			}
		}
		// It is a task like any other where it was started, though it is a keeper elsewhere.
		if described[[2]any{"event.pid", fmt.Sprint(n.keeper)}] != n.outer || !opened {
			t.Errorf("%s does not describe its command, the process %d, and how that opens its output", n.outer, n.keeper)
		}
	}
}

// availableMemory is what the kernel says of it.
func availableMemory(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	check(t, err)
	return string(regexp.MustCompile(`MemAvailable: .*`).Find(text))
}
