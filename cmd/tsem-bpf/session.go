// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
	"github.com/tsem-bpf/tsem-bpf/tma"
)

// exportFlags are the flags of every command that writes the records of one namespace.
type exportFlags struct {
	monitorFlags

	Output string `short:"o" placeholder:"FILE" default:"-" help:"Where to write the records; - is standard output. The file is emptied first, and only its owner may read it; a symbolic link is not followed."`
	recordFlags
	Quiet bool `short:"q" help:"Write no totals to standard error if nothing was lost."`
}

// recordFlags are the flags that say which records there are and what they are like.
type recordFlags struct {
	Dialect      string        `enum:"current,v3" default:"current" help:"What the records look like (${enum}). v3: byte for byte as TSEM v3 writes them. current: with more members, such as tnum, number and context, as later versions of TSEM have them."`
	Digest       string        `enum:"sha256,sha384,sha512" default:"sha256" help:"Digest function of files, TASK_IDs and coefficients (${enum}). Only with sha256 IMA takes digests in the hook."`
	NSRef        string        `name:"nsref" enum:"initial,current" default:"initial" help:"In which user namespace uids and gids are shown (${enum}): the initial one, or the one that the task is in."`
	Cache        int           `placeholder:"N" default:"${cache}" help:"How many KiB of the magazine, the buffer of records, each hook has to itself that cannot sleep; a record without a path takes 160 to 296 bytes (default ${default})."`
	Wait         time.Duration `placeholder:"D" default:"${wait}" help:"How long a hook that can sleep waits for room in the magazine before its event is refused, at most ${maxwait} (default ${default})."`
	Events       string        `placeholder:"TYPE,..." list:"events" help:"Raise events of these types only; what is not listed is neither described nor judged. v3 stands for the types of TSEM v3, all for these and those of later versions, and !TYPE takes one away. For example: file_open,inode_create or v3,!capable (default v3)."`
	Coefficients bool          `help:"Add the security state coefficient of each event to its record: the hash that the models of TSEM are made of. Not in dialect v3. docs/records.md."`
}

// config returns what the flags say, whose names have a prefix.
func (f *recordFlags) config(prefix string) (namespace.Config, event.Dialect, error) {
	dialect, err := event.ParseDialect(f.Dialect)
	if err != nil {
		return namespace.Config{}, 0, err
	}
	if f.Coefficients {
		if dialect != event.Current {
			return namespace.Config{}, 0, fmt.Errorf("--%scoefficients needs --%[1]sdialect=current: a record of TSEM %s has no member for it", prefix, f.Dialect)
		}
		dialect = event.Coefficients
	}
	hash, err := event.ParseDigest(f.Digest)
	if err != nil {
		return namespace.Config{}, 0, err
	}
	// Here, because in a Config 0 is the default.
	if err := namespace.CheckCache(f.Cache); err != nil {
		return namespace.Config{}, 0, fmt.Errorf("--%scache=%d: %w", prefix, f.Cache, err)
	}
	if err := namespace.CheckWait(f.Wait); err != nil {
		return namespace.Config{}, 0, fmt.Errorf("--%swait=%v: %w", prefix, f.Wait, err)
	}
	hooks, err := hooksOf(prefix+"events", f.Events)
	if err != nil {
		return namespace.Config{}, 0, err
	}
	return namespace.Config{Digest: hash, NSRefCurrent: f.NSRef == "current", Cache: f.Cache, Wait: f.Wait, Events: hooks}, dialect, nil
}

// How long one write may take once tsem-bpf was told to end: a reader that takes
// nothing for so long does not hold it up.
const patience = 2 * time.Second

// ends says whether a signal tells tsem-bpf to end, when there is no CMD (any more)
// to forward it to.
func ends(sent os.Signal) bool {
	return sent == syscall.SIGINT || sent == syscall.SIGTERM || sent == syscall.SIGHUP || sent == syscall.SIGQUIT
}

// notify makes a channel get signals, but for a SIGHUP that tsem-bpf was started to ignore: nohup(1) wants that nothing ends with
// the terminal, CMD included.
func notify(to chan<- os.Signal, signals ...os.Signal) {
	for _, s := range signals {
		if s != syscall.SIGHUP || !signal.Ignored(s) {
			signal.Notify(to, s)
		}
	}
}

// session is a namespace that is being exported: engine, namespace, output.
type session struct {
	flags      *exportFlags
	external   *externalFlags
	dialect    event.Dialect
	streams    *streams
	signals    <-chan os.Signal
	engine     *loader.Engine
	namespace  *namespace.Namespace
	output     *output
	monitor    monitor
	agent      *tma.Exec   // nil: none that is a process
	agentTold  bool        // that it has failed
	describing atomic.Bool // from the first event on, until the namespace ends
	cancel     context.CancelFunc
	exported   chan struct{} // closed when Export has returned
	exportErr  error         // what it returned
}

// begin opens the kernel half and makes an empty namespace, or takes one over, whose events
// wait in the magazine until export is called. What fails leaves nothing behind.
func begin(flags *exportFlags, external *externalFlags, std *streams, signals <-chan os.Signal) (*session, error) {
	config, dialect, err := flags.config("")
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	s := &session{flags: flags, external: external, dialect: dialect, streams: std, signals: signals, exported: make(chan struct{})}
	if s.agent, err = external.configure(&config, std.err); err != nil {
		return nil, err
	}
	if s.output, err = newOutput(flags.Output, std.out); err != nil {
		return nil, err
	}
	if s.monitor.server, err = flags.listen(); err != nil {
		return nil, errors.Join(err, s.output.close())
	}
	if s.engine, err = loader.Open(); err == nil {
		if external.Takeover != 0 {
			s.namespace, err = namespace.TakeOver(s.engine, external.Takeover, config)
		} else {
			s.namespace, err = namespace.New(s.engine, config)
		}
		err = loader.Explain(err)
	}
	if err == nil {
		if err = s.output.open(signals); errors.Is(err, syscall.EMFILE) {
			err = loader.Explain(err)
		}
	}
	if err == nil && s.agent != nil {
		err = s.agent.Start(s.namespace.Decide, s.namespace.DecideAsync)
	}
	if err == nil {
		err = s.monitored()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	if missing := s.engine.Missing(); len(missing) > 0 {
		fmt.Fprintf(std.err, "tsem-bpf: this kernel has no hook %s\n", strings.Join(missing, ", "))
	}
	return s, nil
}

// export starts to write what is and will be in the magazine. It is called when the
// first events are certain, and makes the output anew.
func (s *session) export() {
	if err := s.output.commit(); err != nil {
		s.output.fail(err)
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	w := io.Writer(s.output)
	if s.agent != nil {
		w = io.MultiWriter(s.agent, s.output) // first to who is waited for
	}
	s.describing.Store(true)
	go func() {
		defer close(s.exported)
		s.exportErr = s.namespace.Export(ctx, s.dialect, w)
	}()
}

// end shuts the namespace, waits for its last record, prints the account and gives
// everything back. told says that a signal has told tsem-bpf to end.
func (s *session) end(told bool) error {
	// The state of a task goes a grace period of the kernel after the task: what is
	// left after this time is running.
	for range 20 {
		if s.namespace.Tasks() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.describing.Store(false)
	s.namespace.Shut()
	drain(s.exported, s.signals, told, s.stuckFor, s.giveUpWriting)
	s.endAgent()
	totals := s.namespace.Totals()
	totals.Written = s.eventsWritten()
	err := errors.Join(s.exportErr, s.output.end(), wrongAccount(&totals))
	skipped, skippedErr := s.engine.Skipped()
	complete := totals.Complete() && len(skipped) == 0 && unjudged(&totals) == 0
	// Standard error may have the same reader; who sends another signal means it.
	signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if !s.flags.Quiet || !complete || err != nil {
		fmt.Fprintln(s.streams.err, "tsem-bpf:", account(&totals, skipped, s.lateReplies()))
	}
	err = errors.Join(err, skippedErr, s.close())
	if err == nil && s.agentTold {
		err = &exitError{status: exitFailed}
	}
	return err
}

// eventsWritten returns how many events are in the output. The aggregate is none.
func (s *session) eventsWritten() uint64 {
	written := s.output.written.Load()
	if s.external.External && written > 0 {
		written--
	}
	return written
}

// stuckFor returns how long the write under way has been so, to the agent or to the output.
func (s *session) stuckFor() time.Duration {
	if s.agent == nil {
		return s.output.stuckFor()
	}
	return max(s.agent.StuckFor(), s.output.stuckFor())
}

// giveUpWriting ends the agent if it is that which takes nothing, and else all writing to the output.
func (s *session) giveUpWriting() {
	if s.agent != nil && s.agent.StuckFor() > patience {
		_ = s.agent.Close() // again in close, which returns the error
		return
	}
	s.output.giveUp()
}

// drain waits for the end of Export, after which exported is closed. What a signal tells meanwhile is for tsem-bpf:
// the first one limits how long a write may take, the next one ends all writing to the output. told says that the first
// one was there; stuckFor and giveUp are about whatever is written to.
func drain(exported <-chan struct{}, signals <-chan os.Signal, told bool, stuckFor func() time.Duration, giveUp func()) {
	look := time.NewTicker(patience / 10)
	defer look.Stop()
	for {
		select {
		case <-exported:
			return
		case sent := <-signals:
			if ends(sent) && told {
				giveUp()
			}
			told = told || ends(sent)
		case <-look.C:
			if told && stuckFor() > patience {
				giveUp()
			}
		}
	}
}

// cause leaves out the operation and path that os puts before an errno.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func (s *session) close() error {
	var errs []error
	if s.cancel != nil {
		s.cancel()
	}
	if s.agent != nil {
		// Before the namespace, which it decides in.
		errs = append(errs, s.agent.Close())
	}
	if s.namespace != nil {
		errs = append(errs, s.namespace.Close())
	}
	errs = append(errs, s.monitor.close()) // before the kernel half, which it reads
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	return errors.Join(append(errs, s.output.close())...)
}
