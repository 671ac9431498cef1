// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/daemon"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/tsemfs"
)

type daemonCommand struct {
	Mount    string        `placeholder:"DIR" default:"/run/tsem" help:"Where the files are mounted (default ${default})."`
	Deadline time.Duration `placeholder:"D" default:"${deadline}" help:"How long an event waits for its release, at most ${maxwait} (default ${default})."`

	rootFlags
	monitorFlags
	configFlags
}

// Help is shown below the flags.
func (daemonCommand) Help() string {
	return `Serves the files of TSEM's control plane to orchestrators: a write to control makes a
namespace or releases a task, a read of external_tma/N takes a record. With
--root-export it also writes the events of the host. docs/orchestrators.md tells how
to use it, docs/service.md how to install it as a service.

SIGINT, SIGTERM or SIGQUIT ends it. Workloads that are left run on, no longer
described. A namespace that enforces stays instead, and refuses what has to be judged
until the next daemon takes it over, or "tsem-bpf ns end" sets its tasks free. Needs
root, in the initial pid namespace.

A configuration file has a flag on each line, without its dashes; lines that begin
with # are comments:

  # /etc/tsem-bpf/daemon.conf
  deadline = 10s
  metrics = localhost:9560

Exit status: 0, or 125 if tsem-bpf failed, 2 for a wrong flag.`
}

// Validate is called by kong.
func (c *daemonCommand) Validate() error {
	return errors.Join(checkDeadline(&c.Deadline), c.checkRoot(), c.checkAddress())
}

// leastThreads is how many threads may run Go code at a time, if nobody has said so. One that sleeps in a system call
// counts among them until the runtime's monitor looks, which may take 10 ms: the one that serves the files, and one
// for each gate. Where there are few CPUs whoever they have just woken would wait for that (make plane-cost).
const leastThreads = 4

// Run implements the command.
func (c *daemonCommand) Run(std *streams, given *kong.Context) (err error) {
	if err := errors.Join(c.checkGiven(given.Path), c.check()); err != nil {
		return err
	}
	var output *lasting
	if c.RootExport != "" {
		if output, err = newLasting(c.RootExport, std); err != nil {
			return err
		}
	}
	if c.Check {
		if err := c.checkFile(); err != nil {
			return err
		}
		return printConfig(std.out, given.Selected(), c.unused)
	}
	if err := c.checkMount(); err != nil {
		return err
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(leastThreads, runtime.GOMAXPROCS(0)))
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	defer signal.Stop(signals)
	service, err := newService()
	if err != nil {
		return err
	}
	var monitor monitor
	if monitor.server, err = c.listen(); err != nil {
		return err
	}
	engine, err := loader.Open()
	if err != nil {
		return errors.Join(err, monitor.close())
	}
	defer func() { err = errors.Join(err, monitor.close(), engine.Close()) }()
	if self := os.Getpid(); int(engine.Keeper()) != self {
		return fmt.Errorf("in this pid namespace process %d is %d: run tsem-bpf in the initial one, for records have the ids of that", engine.Keeper(), self)
	}
	aggregate, err := namespace.Aggregate(crypto.SHA256)
	if err != nil {
		return err
	}
	plane := daemon.New(daemon.Engine{Engine: engine}, aggregate, c.Deadline, std.err)
	// Before the host is described: whose files are read then may hang, and so would whoever closes a copy of their descriptors.
	served, err := c.serve(engine, plane)
	if err != nil {
		return err
	}
	var root *rootExport
	defer func() { err = errors.Join(err, c.leave(engine, plane), root.end()) }()
	if root, err = c.begin(engine, output); err != nil {
		return err
	}
	ofRoot, err := root.collectors()
	if err != nil {
		return err
	}
	var mounted atomic.Bool
	wrong := func(lasting bool) []string {
		all := root.wrong(lasting)
		if !lasting && !mounted.Load() {
			all = append(all, "the control plane is not mounted yet, or not any more")
		}
		return all
	}
	if err := monitor.serve(engine, wrong, std.err, ofRoot...); err != nil {
		return err
	}
	mounted.Store(true)
	plane.Inherit()
	plane.Ready()
	fmt.Fprintf(std.err, "tsem-bpf: the control plane is at %s\n", c.Mount)
	ended := make(chan struct{})
	err = service.begin(ended, func() (string, error) { return c.moves(plane) }, func(err error) { fmt.Fprintln(std.err, "tsem-bpf:", err) })
	for going := err == nil; going; {
		select {
		case sent := <-signals:
			if sent == syscall.SIGHUP {
				root.again()
				continue
			}
			going = !ends(sent)
		case err = <-served:
			going = false
			if err == nil {
				err = fmt.Errorf("the file system at %s was unmounted", c.Mount)
			}
		}
	}
	mounted.Store(false)
	close(ended)
	return errors.Join(err, service.end())
}

// leave undoes serve, and ends or leaves the namespaces.
func (c *daemonCommand) leave(engine *loader.Engine, plane *daemon.Plane) (err error) {
	// Who has a file open keeps the connection, so its end is that of this process.
	if err = unix.Unmount(c.Mount, unix.MNT_DETACH); errors.Is(err, unix.EINVAL) {
		err = nil
	} else if err != nil {
		err = fmt.Errorf("unmount %s: %w", c.Mount, err)
	}
	plane.Close()
	return errors.Join(err, engine.SetPlane(0))
}

// checkMount says what is wrong with the place of the files, before anything is loaded: the last folder of it serve makes.
func (c *daemonCommand) checkMount() error {
	parent, _ := filepath.Split(strings.TrimRight(c.Mount, "/"))
	if _, err := os.Stat(parent + "."); err != nil {
		return fmt.Errorf("--mount=%s: no folder can be made in %s: %w", c.Mount, parent, cause(err))
	}
	return nil
}

// moves returns what there is to say of the control plane if its work moves: a request is answered, and
// each reader of a magazine comes around. It is not asked whether orchestrators do their work: nobody mends that with a
// new start. Whether the gates are served their gate processes watch.
func (c *daemonCommand) moves(plane *daemon.Plane) (status string, err error) {
	if err := tsemfs.Answer(c.Mount); err != nil {
		return "", fmt.Errorf("ask for an answer at %s: %w", c.Mount, err)
	}
	if stuck := plane.Stuck(); len(stuck) > 0 {
		return "", fmt.Errorf("the magazines of the namespaces %d are not read", stuck)
	}
	return fmt.Sprintf("%d namespaces, control plane at %s", len(plane.Namespaces()), c.Mount), nil
}

// serve mounts the files and serves them. The channel gets what ended that.
func (c *daemonCommand) serve(engine *loader.Engine, plane *daemon.Plane) (<-chan error, error) {
	if err := os.Mkdir(c.Mount, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	device, err := fuse.OpenDevice()
	if err != nil {
		return nil, err
	}
	mount, err := tsemfs.Mount(device)
	if err != nil {
		return nil, errors.Join(err, unix.Close(device))
	}
	defer unix.Close(mount)
	served := make(chan error, 1)
	go func() { served <- fuse.NewServer(device, tsemfs.New(plane)).Serve() }()
	var stat unix.Stat_t
	if err := unix.Fstat(mount, &stat); err != nil {
		return nil, fmt.Errorf("look at the control plane: %w", err)
	}
	// Before anybody can see it.
	if err := engine.SetPlane(stat.Dev); err != nil {
		return nil, err
	}
	if err := tsemfs.Attach(mount, c.Mount); err != nil {
		return nil, errors.Join(err, engine.SetPlane(0))
	}
	return served, nil
}
