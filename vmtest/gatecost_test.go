// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// A contestant is one way in which the opens of a process are seen by another one.
type contestant struct {
	name string
	run  func(*exec.Cmd) ([]byte, error) // runs the process that opens, and returns what it wrote
}

// TestGateCost compares a wait in the gate with the other ways in which a kernel asks a
// process about an open: permission events of fanotify, and seccomp notifications. All take
// their turn in one machine, round after round, so that what else happens to the machine
// happens to all; what counts is the ratio. In a machine that counts instructions the
// durations are those, of all that run on its only CPU until the opener goes on.
func TestGateCost(t *testing.T) {
	exactly, rounds := os.Getenv("TSEM_EXACT") != "", os.Getenv("TSEM_ROUNDS")
	if !exactly && rounds == "" {
		t.Skip("make cost-test and make gate-cost-6.12 run this")
	}
	needVerdicts(t)
	file := plain(folder(t, "asks"))
	contestants := []contestant{
		{"plain", (*exec.Cmd).Output},
		{"exported", inNamespace(t, namespace.Config{})},
		{"fanotify", func(cmd *exec.Cmd) ([]byte, error) { return withFanotify(cmd, file) }},
		{"seccomp", withSeccomp},
		{"asleep", inNamespace(t, namespace.Config{Judge: trustAll, NoLook: true})},
		{"gate", inNamespace(t, namespace.Config{Judge: trustAll})},
	}
	// Few for CI.
	n, opens := number(t, rounds, 3), number(t, os.Getenv("TSEM_OPENS"), 200)
	costs := compare(t, contestants, n, opens)
	if !exactly {
		fmt.Println("the same while others keep all CPUs busy:")
		occupy(t)
		compare(t, contestants, n, opens)
		return
	}
	if !hasGates() {
		return
	}
	// A thread that is woken for each event costs about 20,000 more. Up to 36,500 were seen on
	// 6.12 and 48,300 on 7.3, and 16,900 without a wait.
	for name, most := range map[string]float64{"gate": 57_000, "exported": 26_000} {
		if got := median(costs[name], p50); got > most {
			t.Errorf("%s: %.0f instructions for an open, at most %.0f", name, got, most)
		}
	}
}

// occupy keeps every CPU busy until the test has ended.
func occupy(t *testing.T) {
	t.Helper()
	for range runtime.NumCPU() {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		check(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Wait() }) // the context is canceled before
	}
}

func number(t *testing.T, text string, otherwise int) int {
	t.Helper()
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%q is no number of rounds or opens", text)
	}
	return n
}

// quantiles are those of the durations of one round, with their mean and what the process
// that is asked worked for each open, whenever that was; in ns.
type quantiles struct{ p50, mean, p99, answer float64 }

func p50(q quantiles) float64    { return q.p50 }
func mean(q quantiles) float64   { return q.mean }
func p99(q quantiles) float64    { return q.p99 }
func answer(q quantiles) float64 { return q.answer }

// measure lets each contestant open a file so many times in each round, in a new process:
// one is slower by some percent where its memory lies badly.
func measure(t *testing.T, contestants []contestant, rounds, opens int) map[string][]quantiles {
	t.Helper()
	all := make(map[string][]quantiles)
	for range rounds {
		for _, c := range contestants {
			cmd := actorCommand("asks")
			// A signal in a wait is a matter of its own.
			cmd.Env = append(cmd.Env, fmt.Sprintf("TSEM_OPENS=%d", opens), "GODEBUG=asyncpreemptoff=1")
			cmd.Stderr = os.Stderr
			out, err := c.run(cmd)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			var f facts
			if err := json.Unmarshal(out, &f); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			var q quantiles
			for name, at := range map[string]*float64{"p50": &q.p50, "mean": &q.mean, "p99": &q.p99, "answer": &q.answer} {
				if *at, err = strconv.ParseFloat(f.Values[name], 64); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
			}
			all[c.name] = append(all[c.name], q)
		}
	}
	return all
}

// compare prints the medians of what was measured in all rounds, and of the ratios within a round.
func compare(t *testing.T, contestants []contestant, rounds, opens int) map[string][]quantiles {
	t.Helper()
	all := measure(t, contestants, rounds, opens)
	fmt.Printf("ns or instructions for open + close: medians of %d rounds of %d\n", rounds, opens)
	fmt.Printf("%-10s %8s %8s %8s  p50 of rounds      answerer  of fanotify: p50   p99   of seccomp: p50   p99\n", "", "p50", "mean", "p99")
	for _, c := range contestants {
		mine, fanotify, seccomp := all[c.name], all["fanotify"], all["seccomp"]
		least, most := extremes(mine, p50)
		fmt.Printf("%-10s %8.0f %8.0f %8.0f %8.0f-%-8.0f %10.0f %18.3f %5.3f %17.3f %5.3f\n", c.name, median(mine, p50), median(mine, mean), median(mine, p99),
			least, most, median(mine, answer), ratio(mine, fanotify, p50), ratio(mine, fanotify, p99), ratio(mine, seccomp, p50), ratio(mine, seccomp, p99))
	}
	return all
}

func median(rounds []quantiles, of func(quantiles) float64) float64 {
	var all []float64
	for _, q := range rounds {
		all = append(all, of(q))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func extremes(rounds []quantiles, of func(quantiles) float64) (least, most float64) {
	least, most = of(rounds[0]), of(rounds[0])
	for _, q := range rounds {
		least, most = min(least, of(q)), max(most, of(q))
	}
	return least, most
}

// ratio returns the median of the ratios within a round.
func ratio(a, b []quantiles, of func(quantiles) float64) float64 {
	var all []float64
	for i := range a {
		all = append(all, of(a[i])/of(b[i]))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// actAsks opens and closes a file again and again. With TSEM_NOTIFIER, a descriptor of a
// socket, it asks for seccomp notifications of its opens first and sends the descriptor
// of these there. With TSEM_ATTRIBUTE, a descriptor of a file, it reads an attribute of that
// again and again and opens nothing; with TSEM_EARLY it does that, and before each the opens that let tsem-bpf stay awake.
func actAsks(dir string, know func(string, string, ...any)) func() {
	opens, err := strconv.Atoi(os.Getenv("TSEM_OPENS"))
	must(err)
	path, err := unix.BytePtrFromString(plain(dir))
	must(err)
	openClose := func() {
		at := unix.AT_FDCWD
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), unix.O_RDONLY, 0, 0, 0)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
		if errno != 0 {
			must(errno)
		}
	}
	ask, before := openClose, func() {}
	if fd, err := strconv.Atoi(os.Getenv("TSEM_ATTRIBUTE")); err == nil {
		ask = func() {
			if _, err := unix.Fgetxattr(fd, "user.asks", nil); err != nil {
				must(err)
			}
		}
	} else if do := early[os.Getenv("TSEM_EARLY")]; do != nil {
		ask = func() { must(do()) }
		before = func() {
			for range 5 {
				openClose()
			}
		}
	}
	took := make([]time.Duration, opens)
	measure := func(do func()) {
		for i := range took {
			before()
			begin := time.Now()
			do()
			took[i] = time.Since(begin)
		}
		slices.Sort(took)
	}
	debug.SetGCPercent(-1) // a collection would be in the durations
	return func() {
		if socket, err := strconv.Atoi(os.Getenv("TSEM_NOTIFIER")); err == nil {
			must(notify(socket))
		}
		measure(func() {})
		clock := took[opens/2]
		for range 20 {
			ask() // what is done at first use only
		}
		worked := processTime(os.Getppid())
		measure(ask)
		var sum time.Duration
		for _, d := range took {
			sum += d
		}
		know("answer", "%d", (processTime(os.Getppid())-worked)/int64(opens))
		know("p50", "%d", took[opens/2]-clock)
		know("mean", "%d", sum/time.Duration(opens)-clock)
		know("p99", "%d", took[opens*99/100]-clock)
	}
}

// processTime is how long all threads of a process have had a CPU, in ns.
func processTime(pid int) int64 {
	// MAKE_PROCESS_CPUCLOCK and CPUCLOCK_SCHED of include/linux/posix-timers.h.
	var t unix.Timespec
	must(unix.ClockGettime(int32(^pid<<3|2), &t))
	return t.Nano()
}

// answering runs a responder on a thread of its own until it returns.
func answering(respond func() error) (ended chan error) {
	ended = make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ended <- respond()
	}()
	return ended
}

// withFanotify runs a command while this process is asked about each open of a file, and
// allows it.
func withFanotify(cmd *exec.Cmd, file string) ([]byte, error) {
	group, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fanotify_init: %w", err)
	}
	if err := unix.FanotifyMark(group, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, file); err != nil {
		return nil, errors.Join(fmt.Errorf("fanotify_mark: %w", err), unix.Close(group))
	}
	var over atomic.Bool
	ended := answering(func() error {
		defer unix.Close(group) // whoever still waits goes on
		buffer := make([]byte, 4096)
		for {
			n, err := unix.Read(group, buffer)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fmt.Errorf("read from fanotify: %w", err)
			}
			for rest := buffer[:n]; len(rest) > 0; {
				e := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&rest[0]))
				allow := [2]uint32{uint32(e.Fd), unix.FAN_ALLOW} // struct fanotify_response
				if _, err := unix.Write(group, unsafe.Slice((*byte)(unsafe.Pointer(&allow)), unsafe.Sizeof(allow))); err != nil {
					return fmt.Errorf("answer fanotify: %w", err)
				}
				_ = unix.Close(int(e.Fd))
				rest = rest[e.Event_len:]
			}
			if over.Load() {
				return nil
			}
		}
	})
	out, err := cmd.Output()
	// An open of our own, for the responder sleeps until there is one.
	over.Store(true)
	fd, openErr := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if openErr == nil {
		openErr = unix.Close(fd)
	}
	return out, errors.Join(err, openErr, <-ended)
}

// notify makes a seccomp filter that asks about each openat of this thread, and sends the
// descriptor where the questions arrive.
func notify(socket int) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},                       // struct seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 1}, // if not, step over the next
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return fmt.Errorf("send the descriptor of seccomp: %w", err)
	}
	return unix.Close(int(listener))
}

// struct seccomp_notif and struct seccomp_notif_resp of include/uapi/linux/seccomp.h.
type (
	seccompQuestion struct {
		id         uint64
		pid, flags uint32
		data       [64]byte // struct seccomp_data
	}
	seccompAnswer struct {
		id         uint64
		value      int64
		err, flags uint32
	}
)

// withSeccomp runs a command while this process is asked about each openat, and lets it go
// on.
func withSeccomp(cmd *exec.Cmd) ([]byte, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(cmd.Env, "TSEM_NOTIFIER=3")
	var over atomic.Bool
	var thread atomic.Int64
	ended := answering(func() error {
		thread.Store(int64(unix.Gettid()))
		message := make([]byte, unix.CmsgSpace(4))
		if _, _, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), message, unix.MSG_CMSG_CLOEXEC); err != nil {
			return err
		}
		all, err := unix.ParseSocketControlMessage(message)
		if err != nil || len(all) != 1 {
			return errors.Join(errors.New("no descriptor of seccomp came"), err)
		}
		fds, err := unix.ParseUnixRights(&all[0])
		if err != nil {
			return err
		}
		defer unix.Close(fds[0])
		for {
			var q seccompQuestion
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q)))
			if errno == unix.ENOTCONN || errno == unix.ENOENT {
				return nil // the process has ended
			}
			if errno == unix.EINTR {
				if over.Load() {
					return nil
				}
				continue // a signal of the Go runtime to this thread
			}
			if errno != 0 {
				return fmt.Errorf("read from seccomp: %w", errno)
			}
			a := seccompAnswer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))); errno != 0 {
				return fmt.Errorf("answer seccomp: %w", errno)
			}
		}
	})
	out, err := cmd.Output()
	theirs.Close()
	// 6.1 does not say that the process has ended to somebody who waits for its next question.
	over.Store(true)
	for {
		select {
		case failed := <-ended:
			return out, errors.Join(err, failed)
		case <-time.After(time.Millisecond):
			_ = unix.Tgkill(os.Getpid(), int(thread.Load()), unix.SIGURG)
		}
	}
}
