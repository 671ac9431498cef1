// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// exact skips a test of durations where they mean nothing. The clock of an emulated
// machine says more of its host; one that counts instructions can be relied on.
func exact(t *testing.T) {
	t.Helper()
	if os.Getenv("TSEM_EXACT") == "" {
		t.Skip("make cost-test runs this where the clock counts instructions")
	}
}

// costs are what an operation takes of the time of its thread, in ns, by its name. What
// the daemon does meanwhile on the same CPU is not in it: when that gets the CPU is up to
// the scheduler, and differs from run to run.
type costs map[string]float64

// costOf returns the lowest of what several new processes measured: a process is
// slower by some percent where its memory and its files' lie badly.
func costOf(t *testing.T, run func(*exec.Cmd) ([]byte, error)) costs {
	t.Helper()
	time.Sleep(5 * time.Second) // what attaching and detaching left to do is done
	lowest := make(costs)
	for range 5 {
		out, err := run(actorCommand("cost"))
		if err != nil {
			t.Fatal(err)
		}
		var f facts
		if err := json.Unmarshal(out, &f); err != nil {
			t.Fatal(err)
		}
		for name, value := range f.Values {
			ns, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			if lowest[name] == 0 || ns < lowest[name] {
				lowest[name] = ns
			}
		}
	}
	return lowest
}

// inNamespace runs a command in a namespace whose records are encoded and thrown away. Each of what is to happen beside it
// begins before the command, and what it returns is called when all is over.
func inNamespace(t *testing.T, config namespace.Config, beside ...func(*namespace.Namespace) (end func())) func(*exec.Cmd) ([]byte, error) {
	return func(cmd *exec.Cmd) ([]byte, error) {
		n, err := namespace.New(engine, config)
		if err != nil {
			return nil, err
		}
		defer n.Close()
		for _, begin := range beside {
			defer begin(n)()
		}
		exported := make(chan error, 1)
		go func() { exported <- n.Export(context.Background(), event.Current, io.Discard) }()
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		cmd.Stdout = w
		err = n.Start(cmd)
		w.Close()
		if err != nil {
			return nil, err
		}
		out, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if err := cmd.Wait(); err != nil {
			return nil, err
		}
		n.Shut()
		if err := <-exported; err != nil {
			return nil, err
		}
		completeAccount(t, engine, n)
		return out, nil
	}
}

// idleKeepers starts as many tsem-bpf, each with a task in its namespace, that do nothing until
// what it returns is called.
func idleKeepers(t *testing.T, count int) (end func()) {
	t.Helper()
	var ends []func() error
	for range count {
		cmd := exec.Command("tsem-bpf", "run", "-q", "-o", "/dev/null", "--", "sh", "-c", "echo kept; read end; exit 0")
		cmd.Stderr = os.Stderr
		stdin, stdout := piped(t, cmd)
		if _, err := fmt.Fscanln(stdout, new(string)); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, func() error { return errors.Join(stdin.Close(), cmd.Wait()) })
	}
	return func() {
		for _, end := range ends {
			check(t, end())
		}
	}
}

// TestCallCost compares calls of a task that is not modeled, with all programs
// attached, for one keeper and for three, and with none, and those of a task that is. README.md shows
// what it prints.
func TestCallCost(t *testing.T) {
	exact(t)
	folder(t, "cost")
	plainly := (*exec.Cmd).Output
	costOf(t, plainly) // what the kernel does at first use only
	attached := costOf(t, plainly)
	end := idleKeepers(t, 2) // beside this process
	three := costOf(t, plainly)
	end()
	// All that the actor raises fits, so that none is refused, and none waits, however long the reader waits for a page of
	// its program: the host is no part of what is counted, but takes what time it likes.
	modeled := costOf(t, inNamespace(t, namespace.Config{Cache: 1024}))
	unload(t)
	without := costOf(t, plainly)
	reopen(t)
	fmt.Printf("%-22s %12s %12s %6s %12s %12s %6s   instructions for a call; ratios to those with nothing attached\n",
		"", "not attached", "not modeled", "ratio", "3 keepers", "modeled", "ratio")
	for _, name := range []string{"stat", "open+close", "mmap+munmap", "chroot", "ioctl", "write+read a socket", "chmod",
		"socket+close", "connect a UDP socket", "rename there and back", "kill", "fcntl F_GETFL", "fcntl F_GETFD", "getppid"} {
		fmt.Printf("%-22s %12.0f %12.0f %6.2f %12.0f %12.0f %6.2f\n", name,
			without[name], attached[name], attached[name]/without[name], three[name], modeled[name], modeled[name]/without[name])
	}
	for name, most := range map[string]float64{
		// 5 % is the aim, and seen on 6.12 and 7.3. On 6.1 the same open scatters by
		// more than 10 % (whether memory comes from a fast list or not). A lookup that
		// grew with the tasks or namespaces would be far beyond this.
		"open+close": 1.3,
		"getppid":    1.01, // no program is on its way
	} {
		if ratio := attached[name] / without[name]; ratio > most {
			t.Errorf("unmodeled %s: %.3f times as dear with programs attached, at most %.2f", name, ratio, most)
		}
	}
	// The calls without memory to be had, which is what scatters.
	for _, name := range []string{"kill", "getppid"} {
		if ratio := three[name] / attached[name]; ratio > 1.01 {
			t.Errorf("unmodeled %s: %.3f times as dear with three keepers, at most 1.01", name, ratio)
		}
	}
}

// TestStartCost says how long the first command waits for the kernel half, when it is all
// over, and what memory that takes: every other one takes at most 1/20 of that time. The beginning of the first has no
// bound: the verifier's share has one of its own, and how long the kernel takes for what is attached is up to the kernel. Its end
// has one: it takes the kernel half away, for which nobody waits.
//
// The clock goes on while the machine waits for a file of its host. So the shortest of the others counts, and of the first
// the time of its CPU.
func TestStartCost(t *testing.T) {
	exact(t)
	other := startCost(t)
	for range 4 {
		if again := startCost(t); again.whole < other.whole {
			other = again
		}
	}
	unload(t)
	first := startCost(t)
	reopen(t)
	later := startCost(t, "--events", "all")
	fmt.Println("tsem-bpf run, the first one of a host:", first)
	fmt.Println("tsem-bpf run, the first one that asks for events of later versions:", later)
	fmt.Println("tsem-bpf run, every other one:", other)
	ratio := float64(first.cpu) / float64(other.whole)
	fmt.Printf("every other one takes 1/%.1f of what the first takes of a CPU\n", ratio)
	if ratio < 20 {
		t.Errorf("every other one takes %v, more than 1/20 of the %v of the first", other.whole, first.cpu)
	}

	// Who waits for the kernel, which detaches one program after the other, takes longer than the beginning.
	if end := first.whole - first.begin; end > first.begin/4 {
		t.Errorf("the end of the first takes %v, more than a quarter of its beginning", end)
	}

	n, err := namespace.New(engine, namespace.Config{})
	if err != nil {
		t.Fatal(err)
	}
	with := mapMemory(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("memory of all maps: %.1f MiB with one namespace", float64(with)/(1<<20))
	eventually(t, "memory of a namespace is given back", true, func() bool { return mapMemory(t) < with })
	fmt.Printf(", %.1f MiB without\n", float64(mapMemory(t))/(1<<20))
}

// start is what a run of tsem-bpf took.
type start struct {
	begin, whole time.Duration // until its command began, and until its own end
	cpu          time.Duration // time of CPUs, also in the kernel
	resident     int64         // most memory, KiB
}

func (s start) String() string {
	return fmt.Sprintf("%.2f s until the command begins, %.2f s until the end, %.2f s of a CPU, resident memory of tsem-bpf at most %d MiB",
		s.begin.Seconds(), s.whole.Seconds(), s.cpu.Seconds(), s.resident>>10)
}

// startCost runs tsem-bpf, from a file that is in memory, and says what that takes.
func startCost(t *testing.T, flags ...string) start {
	t.Helper()
	started := time.Now()
	cmd := exec.Command(work+"/tsem-bpf", append(append([]string{"run", "-q", "-o", "/dev/null"}, flags...), "--", "date", "+%s%N")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	whole := time.Since(started)
	begun, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	state := cmd.ProcessState
	return start{time.Unix(0, begun).Sub(started), whole, state.UserTime() + state.SystemTime(), state.SysUsage().(*syscall.Rusage).Maxrss}
}

// mapMemory sums up what the kernel accounts to BPF maps, in bytes.
func mapMemory(t *testing.T) (sum uint64) {
	t.Helper()
	out, err := exec.Command("bpftool", "-j", "map", "show").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Bytes uint64 `json:"bytes_memlock"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		sum += m.Bytes
	}
	return sum
}
