// SPDX-License-Identifier: Apache-2.0

package gateproc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/loader"
)

// Why a gate process has ended, for errors.Is.
var (
	// ErrClosed: its namespace was closed.
	ErrClosed = errors.New("the namespace is closed")
	// ErrLate: the keeper's heartbeat stood still for longer than Config.Late.
	ErrLate = errors.New("the keeper's heartbeat was late")
	// ErrKilled: somebody killed it, and nobody watches the keeper any more. The
	// connection goes on as long as somebody waits at the gate.
	ErrKilled = errors.New("killed")
)

// Config is what a gate process is started with.
type Config struct {
	// Device is the connection, as Open returned it, not mounted yet. It stays the
	// caller's, and has to be served (verdict.Gate) from before Start on: the gate
	// process executes a file of that file system.
	Device *os.File
	// Namespaces is a descriptor of the map `namespaces`.
	Namespaces int
	// Index is that of the namespace in the map. The gate process ends the connection when
	// it finds bpf.NamespaceClosed in its flags: decide about who waits before.
	Index uint32
	// Late is for how long the namespace's Beat may stay the same; 0: for ever. Beat is
	// not watched while it is 0. The gate process looks every 50 ms.
	Late time.Duration
	// Register is the program gate_register, which the gate process runs on itself so
	// that the kernel half finds it; nil where the kernel half is not used.
	Register *ebpf.Program
}

// Process is a gate process. All methods may be called from any goroutine.
type Process struct {
	cmd    *exec.Cmd
	life   *os.File // nothing is ever written to it
	exited chan struct{}
	err    error // after exited is closed
}

const (
	// What takes a helper longest is to load the module; longer than that it hangs.
	startLimit = 30 * time.Second
	// The gate process is not even waited for by anybody that could hang.
	endLimit = 10 * time.Second
)

// Start starts the gate process and returns when it executes the gate program and
// watches. It takes a helper: this program once more, which becomes the gate process;
// Main has to be the first call of main. The error is one sentence that says which step
// did not work, fuse.ErrFUSE where the system has to be changed. After an error, and after
// the process has ended, close Device: that ends the connection in any case.
func Start(c Config) (*Process, error) {
	p, err := start(c, startLimit)
	if err != nil {
		return nil, fmt.Errorf("start the gate process: %w", err)
	}
	return p, nil
}

func start(c Config, limit time.Duration) (*Process, error) {
	lifeRead, life, err := newLife()
	if err != nil {
		return nil, err
	}
	defer lifeRead.Close()
	p := &Process{life: life, exited: make(chan struct{})}
	said, err := p.run(c, lifeRead, limit)
	if err == nil && said == ready {
		return p, nil
	}
	life.Close()
	if err != nil {
		return nil, err
	}
	if said != "" {
		return nil, sentence(said)
	}
	<-p.exited
	return nil, p.err
}

// newLife makes the pipe by which the gate process learns that this one is gone.
func newLife() (read, write *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	high, err := raise(ends[1])
	if err != nil {
		return nil, nil, errors.Join(err, unix.Close(ends[0]))
	}
	return os.NewFile(uintptr(ends[0]), "life"), os.NewFile(uintptr(high), "life"), nil
}

// run starts the helper and returns what it says until it is the gate process, or ends.
func (p *Process) run(c Config, lifeRead *os.File, limit time.Duration) (string, error) {
	namespaces, err := loader.CopyOf(c.Namespaces, "namespaces")
	if err != nil {
		return "", err
	}
	defer namespaces.Close()
	listen, say, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer listen.Close()
	defer say.Close()
	p.cmd = &exec.Cmd{
		Path: "/proc/self/exe",
		Args: c.arguments(),
		// A crash of the helper is part of what it says.
		Stderr:     say,
		ExtraFiles: []*os.File{namespaces, c.Device, lifeRead, say},
		// What the terminal sends is not for it.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if c.Register != nil {
		register, err := loader.CopyOf(c.Register.FD(), "gate_register")
		if err != nil {
			return "", err
		}
		defer register.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, register)
	}
	if err := p.cmd.Start(); err != nil {
		return "", err
	}
	go p.wait()
	say.Close()
	return p.listen(listen, limit)
}

// listen reads until the helper has closed its end, as the gate program does at once.
func (p *Process) listen(from *os.File, limit time.Duration) (string, error) {
	if err := from.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	said, err := io.ReadAll(from)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = p.cmd.Process.Kill()
		return "", fmt.Errorf("the helper was not ready after %v and was killed: is the gate's connection served?", limit)
	}
	return string(said), err
}

// arguments are those of the helper, of which all but the last are the gate program's.
func (c *Config) arguments() []string {
	at := uint64(c.Index) * uint64(unsafe.Sizeof(bpf.Namespace{}))
	arguments := []string{helperName}
	for _, n := range []uint64{
		at + uint64(unsafe.Offsetof(bpf.Namespace{}.Beat)),
		at + uint64(unsafe.Offsetof(bpf.Namespace{}.Flags)),
		uint64(bpf.NamespaceClosed),
		uint64(max(c.Late, 0)),
	} {
		arguments = append(arguments, strconv.FormatUint(n, 10))
	}
	if c.Register == nil {
		return append(arguments, noRegister)
	}
	return append(arguments, strconv.FormatUint(uint64(c.Index), 10))
}

func (p *Process) wait() {
	_ = p.cmd.Wait()
	p.err = explainExit(p.cmd.ProcessState)
	close(p.exited)
}

// explainExit says why the gate process has ended; nil: as it was told to.
func explainExit(state *os.ProcessState) error {
	switch code := state.ExitCode(); code {
	case exitKeeperGone:
		return nil
	case exitClosed:
		return ErrClosed
	case exitLate:
		return ErrLate
	case exitNoMap:
		return errors.New("it cannot map the map namespaces, which needs BPF_F_MMAPABLE and this namespace")
	case exitNoLock:
		return errors.New("it may not lock its memory: give it CAP_IPC_LOCK, or allow more (ulimit -l, LimitMEMLOCK= of a service)")
	case exitNoAbort:
		return errors.New("it could not end the connection, by the file abort in fusectl")
	case -1:
		return fmt.Errorf("%w: %v", ErrKilled, state)
	default:
		return fmt.Errorf("it has ended: %v", state)
	}
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended, by Close or otherwise. A keeper that lives
// on has to make a new gate then.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err says why the process has ended: ErrLate, ErrClosed, ErrKilled or what else
// happened to it; nil as long as it runs, and if it has ended because of Close.
func (p *Process) Err() error {
	select {
	case <-p.exited:
		return p.err
	default:
		return nil
	}
}

// Close ends the connection and the process, if it has not ended already, and waits for it.
func (p *Process) Close() error {
	err := p.life.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil // not for the first time
	}
	select {
	case <-p.exited:
		return err
	case <-time.After(endLimit):
		_ = p.cmd.Process.Kill()
		return errors.Join(err, fmt.Errorf("the gate process did not end within %v and was killed", endLimit))
	}
}

// sentence is what the helper said as an error, of the kind that it named.
func sentence(said string) error {
	said = strings.TrimSpace(said)
	if text, ok := strings.CutPrefix(said, fuse.ErrFUSE.Error()+": "); ok {
		return fmt.Errorf("%w: %s", fuse.ErrFUSE, text)
	}
	return errors.New(said)
}
