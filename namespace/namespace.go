// SPDX-License-Identifier: Apache-2.0

// Package namespace keeps modeling namespaces: it makes them in the kernel half,
// starts tasks in them, and hands the records of their magazines to a sink, together
// with what only user space knows: TASK_IDs and the digests of files.
//
//	magazine ── Read ──> joiner ──> Sink: as JSON to a writer (Export)
//	                      │   ^
//	     waits for a file │   │ digest, or too late
//	                      v   │
//	                    digest.Cache
package namespace

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/digest"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/ringbuf"
)

// Config holds the settings of a namespace. The zero value of a field stands for its
// default.
type Config struct {
	Digest       crypto.Hash   // of files and identities; SHA-256
	NSRefCurrent bool          // ids as the user namespace of the task sees them, not the initial one
	Cache        int           // KiB of the magazine that each hook that cannot sleep has to itself; DefaultCache
	Wait         time.Duration // how long a hook that can sleep waits for room; DefaultWait
	Events       []event.Hook  // the types that are raised, all others are none; those of TSEM v3 (event.V3Hooks)
	MaxLine      int           // bytes of a line that Export writes: event.Encoder.Limit; no limit

	// With a Judge the tasks wait for a verdict in every hook that can sleep.
	Judge    Judge
	Deadline time.Duration // how long a task waits for its verdict; DefaultDeadline
	NoLook   bool          // each event sleeps until it is judged; else a lookout makes that quicker, and uses up to one CPU
	// The action of an event type says what becomes of an event that is not trusted, in
	// time, and of all that an untrusted task does. DENY: it does not happen. LOG: it does.
	Enforce  bool         // the action of all event types is DENY
	Deny     []event.Hook // else that of these
	FailOpen bool         // DENY: what nobody could judge happens, what is untrusted does not

	// Where something is denied, and not FailOpen, the namespace outlives a process that dies
	// without Shut: nothing that is denied happens there until TakeOver or loader.EndNamespace. If it
	// is Orchestrated it outlives a Shut as well, as long as it has tasks: its orchestrator, which alone says what may
	// happen, is another process, and may have another keeper soon.
	Orchestrated bool
}

const (
	// DefaultCache is TSEM's own, where 32 structures are kept for all hooks together
	// (TSEM v3, event.c). An event of a hook that cannot sleep on any kernel takes 160 to 296 bytes
	// if there is no path in it.
	DefaultCache = 32
	// MaxCache makes magazines of 512 MiB, and of 1 GiB where no hook waits.
	MaxCache = 4 << 10
	// DefaultWait bounds what a stopped reader costs a task for each event.
	DefaultWait = 5 * time.Second
	// MaxWait is half of the time after which the kernel warns of a stall
	// (kernel/rcu/tasks.h, RCU_TASK_STALL_TIMEOUT, 10 minutes): a program that waits
	// holds up whoever attaches or detaches one.
	MaxWait = 5 * time.Minute

	// Enough for the events of a second of a busy host, at 600 bytes each.
	minMagazine = 4 << 20
	// How long the end of a namespace waits for hooks that are under way.
	endWait = 5 * time.Second
)

// Namespace is one modeling namespace and its keeper. New makes it, or Prepare, or TakeOver; Start or
// Enter puts a task into it, Export reads it, Shut ends the modeling and Close gives everything
// back. One goroutine may be in Export or Read; the other methods may be called from
// anywhere, Totals and Tasks also after Close.
type Namespace struct {
	engine   *loader.Engine
	config   Config
	index    uint32
	id       uint64
	maps     []*ebpf.Map
	magazine magazine
	ledger   *ringbuf.Ledger
	digests  *digest.Cache
	joiner   *joiner

	aggregate []byte // the measurement of the platform, which the records begin with; nil: they do not

	reading sync.Mutex // held while Read runs
	life    sync.RWMutex
	state   *bpf.Namespace // the kernel's own memory; after Close a copy. life guards it
	door    *doorkeeper    // nil: nobody waits for verdicts

	host      atomic.Bool  // it was that of the host
	inherited bool         // from a keeper that was killed
	earlier   uint64       // events that earlier keepers have read
	release   func() error // gives the index back; nil: there is none. life guards it

	shut       atomic.Pointer[time.Time] // when; nil: not yet
	written    atomic.Uint64
	unreadable atomic.Uint64
	omitted    atomic.Uint64
	rounds     atomic.Uint64
	types      [bpf.HookMax]atomic.Uint64

	last   lastRead      // belongs to the goroutine that reads
	urgent chan struct{} // somebody waits for a record to be read; of one element
}

// magazine is where the records come from: ringbuf.Magazine.
type magazine interface {
	ReadBatch(fn func(record []byte) error) (n int, err error)
	Scan(fn func(record []byte) error) (n int, err error)
	Await(limit time.Duration) bool
	Wait(timeout time.Duration) error
	WaitScan(timeout time.Duration) error
	Wake()
	Drained() bool
	Close() error
}

// CheckCache returns an error that says the rule if a number of KiB cannot be that
// of Config.Cache; whoever asks says where it came from.
func CheckCache(kib int) error {
	if kib < 1 || kib > MaxCache {
		return fmt.Errorf("1 to %d KiB", MaxCache)
	}
	return nil
}

// CheckWait is the same for Config.Wait.
func CheckWait(wait time.Duration) error {
	if wait <= 0 || wait > MaxWait {
		return fmt.Errorf("more than 0, at most %v", MaxWait)
	}
	return nil
}

// New makes an empty namespace. The error is loader.ErrFull if there are too many, one of
// CheckCache, CheckWait or CheckDeadline, ErrNoSleep or fuse.ErrFUSE with a Judge, or
// one of the kernel.
func New(engine *loader.Engine, config Config) (*Namespace, error) {
	n, err := Prepare(engine, config)
	if err != nil {
		return nil, err
	}
	if err := n.Begin(config.Digest, config.NSRefCurrent); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Prepare does what takes long of New: it makes the maps, the gate and its process. The result has no
// id, and no status shows it. Only Begin and Close may be called of it.
func Prepare(engine *loader.Engine, config Config) (*Namespace, error) {
	if config.Cache == 0 {
		config.Cache = DefaultCache
	}
	if config.Wait == 0 {
		config.Wait = DefaultWait
	}
	if config.Deadline == 0 {
		config.Deadline = DefaultDeadline
	}
	if err := CheckDeadline(config.Deadline); err != nil {
		return nil, fmt.Errorf("deadline %v: %w", config.Deadline, err)
	}
	if err := CheckCache(config.Cache); err != nil {
		return nil, fmt.Errorf("cache %d: %w", config.Cache, err)
	}
	if err := CheckWait(config.Wait); err != nil {
		return nil, fmt.Errorf("wait %v: %w", config.Wait, err)
	}
	n := bareNamespace(engine, config)
	if err := n.make(); err != nil {
		n.Close()
		return nil, fmt.Errorf("make a namespace: %w", err)
	}
	return n, nil
}

// Begin makes what Prepare made a namespace like any other one, with an id, and with these two of the
// Config, whatever it was prepared with; a hash of 0 stands for SHA-256. The error is that of Aggregate, or
// says what became of the namespace meanwhile; what is left then is Close.
func (n *Namespace) Begin(hash crypto.Hash, nsrefCurrent bool) (err error) {
	if err := n.door.err(); err != nil {
		return err
	}
	n.setDigest(hash)
	n.config.NSRefCurrent = nsrefCurrent
	if n.config.Judge != nil {
		if n.aggregate, err = Aggregate(n.config.Digest); err != nil {
			return fmt.Errorf("begin a namespace: %w", err)
		}
	}
	n.state.Digest = uint32(n.config.Digest.Size())
	// Whoever removes the kernel half closes all namespaces, also at this moment.
	if flags := atomic.LoadUint32(&n.state.Flags); flags&bpf.NamespaceClosed != 0 || !atomic.CompareAndSwapUint32(&n.state.Flags, flags, n.config.flags()) {
		return fmt.Errorf("begin a namespace: %w", loader.ErrRemoved)
	}
	n.id = n.engine.NewID()
	atomic.StoreUint64(&n.state.Id, n.id) // the last: now it is shown
	return nil
}

// bareNamespace returns one that has nothing in the kernel half yet, nor an id.
func bareNamespace(engine *loader.Engine, config Config) *Namespace {
	n := &Namespace{engine: engine, config: config, digests: digest.New(), urgent: make(chan struct{}, 1)}
	n.setDigest(config.Digest)
	return n
}

// setDigest chooses the digest function of a namespace that nobody reads yet.
func (n *Namespace) setDigest(hash crypto.Hash) {
	n.config.Digest = cmp.Or(hash, crypto.SHA256)
	n.joiner = newJoiner(n.config.Digest, n.digests, n.config.digestWait(), n.engine, func() { n.magazine.Wake() })
}

func (n *Namespace) make() error {
	if err := n.engine.Attach(n.config.events()); err != nil {
		return err
	}
	share := uint32(n.config.Cache << 10)
	reserve := share * n.shares()
	size := max(minMagazine, uint32(1)<<bits.Len32(2*reserve-1))
	magazine, err := n.inner("magazines", size)
	if err != nil {
		return err
	}
	creations, err := n.inner("creations", 0)
	if err != nil {
		return err
	}
	ring, err := ringbuf.Open(magazine)
	if err != nil {
		return err
	}
	n.magazine = ring
	n.ledger = ringbuf.NewLedger(ring.Window(int(unsafe.Sizeof(bpf.Record{}))), 0)
	if n.index, err = n.engine.Occupy(); err != nil {
		return err
	}
	n.state, n.release = n.engine.Namespace(n.index), n.giveBack
	if err := n.engine.Furnish(n.index, map[string]*ebpf.Map{"magazines": magazine, "creations": creations}); err != nil {
		return err
	}
	*n.state = bpf.Namespace{
		Id: n.state.Id, Flags: n.config.flags(), Magazine: size, Reserve: reserve, Share: share,
		Keeper: n.engine.Keeper(), Digest: uint32(n.config.Digest.Size()),
		Wait: uint64(n.config.Wait), Deadline: uint64(n.config.Deadline),
		Events: n.config.events(), Deny: n.config.deny(), Passing: n.config.passing(),
	}
	if n.config.Judge == nil {
		return nil
	}
	return n.openGate()
}

// shares returns how many shares of the reserve anybody uses on this kernel: not the first one, which is nobody's, nor
// those of the hooks that wait for room (bpf/event.h, share_of).
func (n *Namespace) shares() uint32 {
	used := len(n.state.Shares) - 1
	for _, hook := range n.engine.Support().Hooks {
		if hook.Waits {
			used--
		}
	}
	return uint32(used)
}

// inner makes a map for an index of an array of maps; entries 0 means as specified.
func (n *Namespace) inner(name string, entries uint32) (*ebpf.Map, error) {
	spec := n.engine.MapSpecOf(name)
	if entries != 0 {
		spec.MaxEntries = entries
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("map for %s: %w", name, err)
	}
	n.maps = append(n.maps, m)
	return m, nil
}

// ID returns the id of the namespace, the "context" of its records.
func (n *Namespace) ID() uint64 { return n.id }

// Start starts a command whose first task, and all that descend from it, live in
// the namespace. The command's own errors come from cmd.Start.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if n.door != nil {
		return startInside(n.engine, n.index, cmd)
	}
	// The first use of processes makes Go try out pidfds with a child of its own,
	// which is not to be born in the namespace.
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Release()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := n.engine.Announce(n.index); err != nil {
		return err
	}
	err := cmd.Start()
	return errors.Join(err, n.engine.Announce(0))
}

// Enter puts a task into the namespace that sleeps in a request which this process has to answer
// (loader.Engine.Caller), and out of any other one. Its children follow, its other threads stay
// where they are. It waits for nothing. The errors are those of loader.Engine.Put.
func (n *Namespace) Enter(c loader.Caller) error {
	n.life.RLock()
	defer n.life.RUnlock()
	if n.release == nil { // the index may be another one's
		return fmt.Errorf("enter namespace %d, which was closed: %w", n.id, unix.EBUSY)
	}
	return n.engine.Put(c, n.index)
}

// AdoptHost makes this the namespace of every task of the host that is in no other
// one, until Close; tasks join with their first event. Kernel threads and keepers stay out.
func (n *Namespace) AdoptHost() error {
	n.host.Store(true)
	return n.engine.SetRoot(n.index)
}

// SetWait changes Config.Wait; 0: an event that finds no room is refused at once. Whoever waits by now waits as long as it was
// told. From any goroutine.
func (n *Namespace) SetWait(wait time.Duration) {
	n.life.RLock()
	defer n.life.RUnlock()
	atomic.StoreUint64(&n.state.Wait, uint64(wait))
}

// Tasks returns how many tasks are in the namespace now; after Close, how many were.
func (n *Namespace) Tasks() uint64 {
	n.life.RLock()
	defer n.life.RUnlock()
	return atomic.LoadUint64(&n.state.Tasks)
}

// Shut ends the modeling: tasks that are left run on and raise no more events (but see TakeOver).
// Export writes what was raised before, and returns.
func (n *Namespace) Shut() {
	n.life.RLock()
	defer n.life.RUnlock()
	if now := time.Now(); n.shut.CompareAndSwap(nil, &now) {
		n.door.shut() // before the flag lets the gate process end it: who waits gets a verdict
		atomic.OrUint32(&n.state.Flags, n.endFlag())
		n.magazine.Wake()
	}
}

// Close gives the index, the maps and the workers of its digests back. It ends an Export that is
// under way, with ringbuf.ErrClosed, and waits for it; what that did not read is gone.
// It cannot interrupt a write or a sink.
func (n *Namespace) Close() error {
	var errs []error
	if n.magazine != nil {
		if n.release != nil {
			n.Shut()
		}
		// In this order: whoever is in the magazine may be judging what it has found.
		errs = append(errs, n.magazine.Close(), n.door.close())
	}
	n.reading.Lock()
	defer n.reading.Unlock()
	n.life.Lock()
	defer n.life.Unlock()
	if n.release != nil {
		last := *n.state
		if n.host.Load() {
			errs = append(errs, n.engine.SetRoot(0)) // before the index is another one's, which would be that of the host
		}
		errs = append(errs, n.release())
		n.state, n.release = &last, nil
	}
	for _, m := range n.maps {
		errs = append(errs, m.Close())
	}
	n.maps = nil
	n.digests.Close()
	return errors.Join(errs...)
}

// ended says whether everything that was raised before Shut is accounted for.
func (n *Namespace) ended() bool {
	shut := n.shut.Load()
	if shut == nil || !n.magazine.Drained() {
		return false
	}
	return n.balance().Err() == nil || time.Since(*shut) > endWait
}

// waitForRecords blocks until there may be something to read.
func (n *Namespace) waitForRecords() error {
	look := min(time.Second, max(0, n.joiner.patience()))
	if n.shut.Load() != nil {
		// A hook under way may end without a record, and then wakes nobody.
		look = min(look, 10*time.Millisecond)
	}
	if arrived := n.door.attendant(); arrived != nil {
		select {
		case <-arrived:
		case <-time.After(look):
		}
		return nil
	}
	if err := n.magazine.Wait(look); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}
