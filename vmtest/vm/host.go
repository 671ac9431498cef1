// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const help = `Usage: vmtest/run [OPTION]... [--] COMMAND [ARGUMENT]...

Runs COMMAND as root in a virtual machine of a stock Debian kernel, or yours. It sees the
files of this machine at their own paths and may write everywhere; what it
writes is gone at the end. /tmp and /run are empty but for this repository, the
current folder and COMMAND's, if they lie there. tsem-bpf (build/tsem-bpf of
this checkout) is in its PATH; bpffs, securityfs, tracefs and cgroup2 are
mounted, loopback is up, modprobe works. Standard input is empty.

  -k KERNEL   latest (default), 6.12 or 6.1; fetched when it is not there. Or the path,
              with a / in it, of one that you built: a build folder of the kernel's
              source, a folder into which one was installed, or a bzImage (docs/vm.md)
  -c CPUS     2 by default
  -m MEMORY   1G by default
  -t SECONDS  the longest that COMMAND may take, with the boot; 600 by default
  -a WORDS    more words for the kernel command line, like "lsm=lockdown,capability"
  -W          fail if the kernel warned of something on its console
  -r          run COMMAND again, twice at most, if the emulator killed the kernel
              ("int3" on the console; docs/vm.md); what it printed is printed again
  -i          count instructions: each takes 1 ns of the machine's clock, whatever
              else its host does, so that durations can be compared; always emulated,
              slower, with -c 1
  --vng       boot with virtme-ng (vng; make vng-setup installs it), its init and its
              udev, instead of the own small one; slower; not with -i
  -v          show the console on standard error

Exit status: that of COMMAND, 128+N if signal N ended it, 126 and 127 as in a
shell; 124 if it took too long, 125 if the machine died, 123 if the kernel
warned (-W), 2 for a wrong option. 124, 125 and 123 come with the console's end.

The variables TERM, LANG, TSEM_* and GO* are handed on; TSEM_LISTED_KERNEL is the
name of the kernel, if it has one. TSEM_BPF_CACHE is where kernels are kept.

Examples:
  vmtest/run -- uname -a
  vmtest/run -k 6.1 -- tsem-bpf check
  vmtest/run -k ~/linux -- tsem-bpf check
  vmtest/run --vng -k ~/linux -- tsem-bpf check
  vmtest/run -v -t 60 -- sh -c 'dmesg | tail'
  go test -exec "$PWD/vmtest/run -k 6.12 --" -tags vmtest ./vmtest/...
`

type options struct {
	kernel  string
	cpus    int
	memory  string
	seconds int
	append  string
	warn    bool
	repeat  bool
	count   bool
	vng     bool
	verbose bool
	words   []string
}

var memorySize = regexp.MustCompile(`^[1-9][0-9]*[MG]$`)

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("vmtest/run", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.kernel, "k", "latest", "")
	flags.IntVar(&o.cpus, "c", 2, "")
	flags.StringVar(&o.memory, "m", "1G", "")
	flags.IntVar(&o.seconds, "t", 600, "")
	flags.StringVar(&o.append, "a", "", "")
	flags.BoolVar(&o.warn, "W", false, "")
	flags.BoolVar(&o.repeat, "r", false, "")
	flags.BoolVar(&o.count, "i", false, "")
	flags.BoolVar(&o.vng, "vng", false, "")
	flags.BoolVar(&o.verbose, "v", false, "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.words = flags.Args()
	switch {
	case len(o.words) == 0:
		return o, errors.New("which COMMAND? for example: vmtest/run -- uname -a")
	case o.cpus < 1:
		return o, fmt.Errorf("-c %d: at least 1 CPU", o.cpus)
	case o.count && o.cpus != 1:
		return o, errors.New("-i: with one CPU only (-c 1); instructions of two have no common clock")
	case o.count && o.vng:
		return o, errors.New("-i: not with --vng; virtme-ng has no such clock")
	case o.seconds < 1:
		return o, fmt.Errorf("-t %d: at least 1 second", o.seconds)
	case !memorySize.MatchString(o.memory):
		return o, fmt.Errorf("-m %q: a size like 512M or 2G", o.memory)
	case !isPath(o.kernel) && (o.kernel == "" || strings.Contains(o.kernel, " ") || strings.HasPrefix(o.kernel, ".")):
		return o, fmt.Errorf("-k %q: a name of vmtest/kernels.list, or a path with a / in it", o.kernel)
	}
	return o, nil
}

// host runs the command and says with which status to exit.
func host(args []string) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(help)
		return 0
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmtest/run: %v\nvmtest/run --help tells more\n", err)
		return statusUsage
	}
	// The program is in REPO/build.
	self, err := os.Executable()
	if err != nil {
		return failed(err, nil)
	}
	repo := filepath.Dir(filepath.Dir(self))
	var scratch string
	if isPath(o.kernel) {
		if scratch, err = os.MkdirTemp("", "vmtest"); err != nil {
			return failed(err, nil)
		}
		defer os.RemoveAll(scratch)
	}
	k, err := openKernel(o.kernel, filepath.Join(repo, "vmtest/kernels"), scratch)
	if errors.Is(err, errNoKernel) {
		return statusUsage // the script told which there are
	}
	if errors.Is(err, errBadKernel) {
		fmt.Fprintln(os.Stderr, "vmtest/run:", err)
		return statusUsage
	}
	if err != nil {
		return failed(err, nil)
	}
	r, err := newRequest(o.words, repo, k)
	if err != nil {
		return failed(err, nil)
	}

	return boot(o, k, r)
}

// boot runs the request in a machine and says with which status to exit.
func boot(o options, k kernel, r request) int {
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	stopped := make(chan int, 1)
	go func() {
		s := <-signals
		stopped <- 128 + int(s.(syscall.Signal))
		stop(errStopped)
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.seconds)*time.Second)
	defer cancel()

	m := machine{
		kernel: k, cpus: o.cpus, memory: o.memory, append: o.append, kvm: !o.count && kvmWorks(ctx, k), count: o.count, vng: o.vng,
		stdout: os.Stdout, stderr: os.Stderr,
	}
	a, err := m.runAgain(ctx, r, o)
	if context.Cause(ctx) == errStopped {
		return <-stopped
	}
	if errors.Is(err, errTimeout) {
		failed(fmt.Errorf("no end after %d s (-t)", o.seconds), m.console)
		return statusTimeout
	}
	if err != nil {
		return failed(err, m.console)
	}
	if found := m.console.warnings(); o.warn && found != "" && a.Status == 0 {
		fmt.Fprintf(os.Stderr, "vmtest/run: the command succeeded, but the kernel warned:\n%s\n", found)
		return statusWarned
	}
	return a.Status
}

// tries is how often a machine may die of what is not the command's doing: before
// the command begins, or of the emulator's race. Every time is no race any more.
const tries = 3

// runAgain is run, with another try if the machine dies while booting (nothing has
// run by then), or, with -r, if the emulator killed it.
func (m *machine) runAgain(ctx context.Context, r request, o options) (answer, error) {
	for try := 1; ; try++ {
		m.console = newConsole(nil)
		if o.verbose {
			m.console.to = os.Stderr
		}
		a, err := m.run(ctx, r)
		lost := !m.kvm && errors.Is(err, errDied) && m.console.staleInt3()
		if lost {
			err = fmt.Errorf("%w: the emulator ran an int3 that the kernel had replaced", err)
		}
		if !errors.Is(err, errNoBoot) && !(lost && o.repeat) {
			return a, err
		}
		if try == tries {
			return a, fmt.Errorf("%w, %d times", err, tries)
		}
		if lost {
			fmt.Fprintf(os.Stderr, "vmtest/run: %v; again from the start (-r), try %d of %d\n", err, try+1, tries)
		}
	}
}

// Exit statuses of ours, above those of most commands; help tells about them.
const (
	statusUsage   = 2
	statusWarned  = 123
	statusTimeout = 124
	statusDied    = 125
)

func failed(err error, c *console) int {
	fmt.Fprintln(os.Stderr, "vmtest/run:", err)
	if c != nil {
		fmt.Fprintf(os.Stderr, "the console's end:\n%s\n", c.last())
	}
	return statusDied
}

// listedKernel is a variable that tells a command which kernel of vmtest/kernels.list it
// runs on; it is not there on another. A test that the kernel lacks something for fails on
// the first, and is skipped on the second.
const listedKernel = "TSEM_LISTED_KERNEL"

func newRequest(words []string, repo string, k kernel) (request, error) {
	dir, err := os.Getwd()
	if err != nil {
		return request{}, err
	}
	r := request{Dir: dir, Show: append([]string{repo, dir}, k.show...), KernelModules: k.modules}
	if filepath.IsAbs(words[0]) {
		r.Show = append(r.Show, filepath.Dir(words[0]))
	}
	for _, w := range words {
		r.Words = append(r.Words, []byte(w))
	}
	env := []string{
		"PATH=" + filepath.Join(repo, "build") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin",
		"HOME=/root",
	}
	if k.listed {
		env = append(env, listedKernel+"="+k.name)
	}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if name == listedKernel {
			continue
		}
		if name == "TERM" || name == "LANG" || strings.HasPrefix(name, "TSEM_") || strings.HasPrefix(name, "GO") {
			env = append(env, e)
		}
	}
	for _, e := range env {
		r.Env = append(r.Env, []byte(e))
	}
	return r, nil
}
