// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

const pinned = "/sys/fs/bpf/tsem-bpf"

// openEngine is loader.Open, and how long that took.
func openEngine(t *testing.T) (*loader.Engine, time.Duration) {
	t.Helper()
	start := time.Now()
	e, err := loader.Open()
	if err != nil {
		t.Fatal(err)
	}
	return e, time.Since(start)
}

// unload lets go of the kernel half, and waits until it is gone.
func unload(t *testing.T) {
	t.Helper()
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "programs of hooks", 0, func() int {
		out, err := exec.Command("bpftool", "prog", "show").Output()
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(out, []byte(": lsm "))
	})
}

// reopen ends what unload began.
func reopen(t *testing.T) {
	t.Helper()
	var err error
	if engine, err = loader.Open(); err != nil {
		t.Fatal(err)
	}
}

// reload loads the kernel half anew.
func reload(t *testing.T) {
	t.Helper()
	unload(t)
	reopen(t)
}

// describe runs a command in a namespace of a kernel half and returns how many events it
// raised; all must be there.
func describe(t *testing.T, e *loader.Engine, config namespace.Config) uint64 {
	t.Helper()
	n, err := namespace.New(e, config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	read := make(chan error, 1)
	go func() { read <- n.Export(context.Background(), event.Current, io.Discard) }()
	cmd := exec.Command("cat", "/etc/hostname")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.Shut()
	if err := <-read; err != nil {
		t.Error(err)
	}
	return completeAccount(t, e, n).Balance.Raised
}

// onDemand tests that the program of an event of a later version is loaded and attached with the first namespace
// that wants it, once for both engines that have one kernel half, also if they ask at once, and only then; and that
// what somebody did not finish who was interrupted is finished by the next one.
func onDemand(t *testing.T, opener, installer *loader.Engine) {
	t.Helper()
	needHook(t, "bprm_check_security")
	programs, links := bpfObjects(t, "prog"), bpfObjects(t, "link")
	there := func(morePrograms, moreLinks int) {
		t.Helper()
		// The kernel frees in its own time what was unpinned.
		eventually(t, "programs and links more", [2]int{morePrograms, moreLinks}, func() [2]int {
			return [2]int{bpfObjects(t, "prog") - programs, bpfObjects(t, "link") - links}
		})
		for _, e := range []*loader.Engine{opener, installer} {
			if status, err := e.Status(); err != nil || len(status.Detached) > 0 {
				t.Errorf("%v are detached, %v", status.Detached, err)
			}
		}
	}
	execs := func(e *loader.Engine) {
		t.Helper()
		hooks, err := event.ParseHooks("bprm_check_security")
		check(t, err)
		if raised := describe(t, e, namespace.Config{Events: hooks}); raised != 1 {
			t.Errorf("%d events of a command that is executed", raised)
		}
	}
	execs(opener)
	there(1, 1)
	execs(installer)
	there(1, 1)

	hooks, err := event.ParseHooks("cred_prepare,path_truncate")
	check(t, err)
	var group errgroup.Group
	for _, e := range []*loader.Engine{opener, installer} {
		group.Go(func() error {
			n, err := namespace.New(e, namespace.Config{Events: hooks})
			if err == nil {
				err = n.Close()
			}
			return err
		})
	}
	check(t, group.Wait())
	there(3, 3)

	// Killed before the link was pinned, and before the program was.
	check(t, os.Remove(pinned+"/link_bprm_check_security"))
	there(3, 2)
	execs(installer)
	there(3, 3)
	check(t, errors.Join(os.Remove(pinned+"/link_bprm_check_security"), os.Remove(pinned+"/program_bprm_check_security")))
	there(2, 2)
	execs(opener)
	there(3, 3)
}

// TestPins: the kernel half is there once; whoever comes next opens it in a moment, and the
// last one takes it away.
func TestPins(t *testing.T) {
	unload(t)
	defer reopen(t)
	programs := bpfObjects(t, "prog")
	first, installed := openEngine(t)
	with := bpfObjects(t, "prog")
	second, opened := openEngine(t)
	if again := bpfObjects(t, "prog"); again != with {
		t.Errorf("%d programs, %d after another one has opened them", with, again)
	}
	t.Logf("installed in %v, opened in %v", installed, opened)
	if opened > installed/20 {
		t.Errorf("opening takes %v, installing %v", opened, installed)
	}
	if describe(t, first, namespace.Config{}) == 0 || describe(t, second, namespace.Config{}) == 0 {
		t.Error("no events")
	}
	if first.NewID() == second.NewID() {
		t.Error("two namespaces have one id")
	}
	onDemand(t, second, first)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if describe(t, second, namespace.Config{}) == 0 {
		t.Error("no events after the first one has gone")
	}
	start := time.Now()
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	removed := time.Since(start)
	t.Logf("removed in %v", removed)
	if removed > installed/10 {
		t.Errorf("removing takes %v, installing %v: it waits for the kernel", removed, installed)
	}
	nothingPinned(t)
	waitFor(t, "the end of the programs", time.Minute, func() bool { return bpfObjects(t, "prog") == programs })
}

// TestPinsLeft: what interrupted processes and others left in the bpffs is taken away, or
// said.
func TestPinsLeft(t *testing.T) {
	left := []string{pinned + "_new", pinned + "_old"}
	for _, name := range left {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := engine.Map("births").Pin(filepath.Join(name, "map_births")); err != nil {
			t.Fatal(err)
		}
	}
	unload(t)
	defer reopen(t)
	e, _ := openEngine(t)
	for _, name := range left {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused := func(want string) {
		t.Helper()
		e, err := loader.Open()
		if err == nil {
			t.Errorf("opened: want %s", want)
			_ = e.Close()
			return
		}
		if !errors.Is(err, loader.ErrPins) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	foreign := pinned + "/foreign"
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	refused("there is " + foreign + ", which tsem-bpf did not put there; take it away")
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(pinned+"/about", pinned+"/map_about"); err != nil {
		t.Fatal(err)
	}
	refused("does not say what it is")
	if err := os.Rename(pinned+"/map_about", pinned+"/about"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"map_magazines": "has no map magazines", "map_task_ids": "has no map task_ids",
		"program_keeper_register": "has no program keeper_register", "program_task_enter": "has no program task_enter",
	} {
		kind, _, _ := strings.Cut(name, "_")
		elsewhere := filepath.Join(pinned, kind+"_elsewhere")
		check(t, os.Rename(filepath.Join(pinned, name), elsewhere))
		refused(want)
		check(t, os.Rename(elsewhere, filepath.Join(pinned, name)))
	}
	if describe(t, e, namespace.Config{}) == 0 {
		t.Error("no events")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// nothingPinned: no folder of ours is in the bpffs.
func nothingPinned(t *testing.T) {
	t.Helper()
	if left, err := filepath.Glob(pinned + "*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// says runs tsem-bpf and compares its status and what it says.
func says(t *testing.T, status int, want string, words ...string) {
	t.Helper()
	cmd := exec.Command("tsem-bpf", words...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(string(out), want) {
		t.Errorf("%v: status %d, %q; want %d, %q", words, got, out, status, want)
	}
	balances(t, string(out))
}

// becomeForeign makes the pinned kernel half one of another version.
func becomeForeign(t *testing.T) {
	t.Helper()
	about, err := ebpf.LoadPinnedMap(pinned+"/about", nil)
	check(t, err)
	defer about.Close()
	text, err := about.LookupBytes(uint32(0))
	check(t, err)
	other := strings.Repeat("0", len(bpf.Version()))
	check(t, about.Put(uint32(0), bytes.Replace(text, []byte(bpf.Version()), []byte(other), 1)))
}

// TestEngineCommand: the kernel half is shown, installed to stay, also when another version replaces it, and removed, but not
// below those who use it unless that is forced.
func TestEngineCommand(t *testing.T) {
	n, err := namespace.New(engine, namespace.Config{})
	if err != nil {
		t.Fatal(err)
	}
	says(t, 0, fmt.Sprintf("keepers     %d\n", os.Getpid()), "engine", "status")
	says(t, 0, fmt.Sprintf("%q: %d", "id", n.ID()), "engine", "status", "--json")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	says(t, 1, fmt.Sprintf("in use by the processes %d; end them first", os.Getpid()), "engine", "remove")
	unload(t)
	defer reopen(t)
	says(t, 1, "no kernel half is installed", "engine", "status")
	says(t, 1, "no kernel half is installed", "top")
	says(t, 1, "no kernel half is installed", "ns", "show", "4711")
	says(t, 1, "no kernel half is installed", "ns", "enforce", "4711")
	says(t, 0, "there is no namespace", "ns", "list")
	says(t, 1, "no kernel half is installed", "engine", "remove")
	says(t, 0, "", "engine", "install")
	if out, err := exec.Command("tsem-bpf", "run", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	says(t, 0, "until it is removed", "engine", "status")
	becomeForeign(t)
	says(t, 125, "kernel half of another version", "engine", "status")
	says(t, 0, "events raised", "run", "-o", "/dev/null", "true")
	says(t, 0, "until it is removed", "engine", "status")
	says(t, 0, "", "engine", "remove")
	says(t, 1, "no kernel half is installed", "engine", "status")

	// Forced: whoever uses it goes on, undescribed.
	e, _ := openEngine(t)
	n, err = namespace.New(e, namespace.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	says(t, 0, "", "engine", "remove", "--force")
	if err := cmd.Process.Kill(); err != nil {
		t.Error("the task is gone: ", err)
	}
	_ = cmd.Wait()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
