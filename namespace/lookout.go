// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A lookout gives up when nothing has come for so many times the time that it takes to
	// wake it: that is what a task saves that it sees in time.
	lookoutPatience = 4
	// It is woken at once by luck, or late because all CPUs are busy: then nobody is helped
	// by one more who keeps a CPU.
	leastPatience = 50 * time.Microsecond
	mostPatience  = time.Millisecond
	// mostDeaf is how many calls a lookout misses that was called in vain again and again.
	mostDeaf = 64
)

// lookout keeps the magazine in sight while one event follows another closely: a goroutine
// that looks at it all the time and judges what comes. It says so in the state of the
// namespace, and tasks then look for their verdict for a while before they fall asleep
// (look in bpf/verdict.h): that is quicker for both than a sleep. While it waits for a call it
// uses no CPU, and nobody looks.
type lookout struct {
	watch func(patience time.Duration) (seen int, inTime bool) // until nothing has come for so long

	calls   chan struct{} // of one element
	called  atomic.Int64  // when, ns since start
	looking atomic.Bool
	missed  atomic.Int64 // calls since the last that was heard
	deaf    atomic.Int64 // how many are missed before one is heard
	start   time.Time

	once  sync.Once
	over  chan struct{} // closed by end
	ended chan struct{} // closed when the goroutine has ended
}

// newLookout starts a lookout. It returns nil, whose methods do nothing, where it would keep
// everybody else of this process from running.
func newLookout(watch func(patience time.Duration) (seen int, inTime bool)) *lookout {
	if runtime.GOMAXPROCS(0) < 2 {
		return nil
	}
	l := &lookout{
		watch: watch, calls: make(chan struct{}, 1), start: time.Now(),
		over: make(chan struct{}), ended: make(chan struct{}),
	}
	go l.run()
	return l
}

// call says that an event was judged at once: another one may follow. It is called for each of
// them, so that it costs nothing while the lookout looks, and next to nothing while it is deaf.
// Any goroutine.
func (l *lookout) call() {
	if l == nil || l.looking.Load() || l.missed.Add(1) <= l.deaf.Load() {
		return
	}
	l.missed.Store(0)
	l.called.Store(int64(time.Since(l.start)))
	select {
	case l.calls <- struct{}{}:
	default:
	}
}

func (l *lookout) run() {
	defer close(l.ended)
	for {
		select {
		case <-l.over:
			return
		case <-l.calls:
		}
		l.looking.Store(true)
		woken := time.Since(l.start) - time.Duration(l.called.Load())
		seen, inTime := l.watch(min(max(lookoutPatience*woken, leastPatience), mostPatience))
		if inTime && seen > 0 {
			l.deaf.Store(0)
		} else {
			l.deaf.Store(min(2*l.deaf.Load()+1, mostDeaf))
		}
		l.looking.Store(false)
	}
}

// end ends the goroutine, after the watch that is under way. Any goroutine, any number of times.
func (l *lookout) end() {
	if l == nil {
		return
	}
	l.once.Do(func() { close(l.over) })
	<-l.ended
}

// watch judges what comes into the magazine, until nothing has come for so long, or a task has
// looked for its verdict in vain: then this thread had lost its CPU, or the agent takes its
// time. It returns how many records came, and whether no task looked in vain.
func (n *Namespace) watch(patience time.Duration) (seen int, inTime bool) {
	awake := &n.state.Awake
	atomic.StoreUint32(awake, 1)
	for n.magazine.Await(patience) {
		got, err := n.magazine.Scan(n.door.judge)
		seen += got
		if err != nil || atomic.LoadUint32(awake) == 0 {
			break
		}
	}
	inTime = atomic.SwapUint32(awake, 0) != 0
	n.look() // a task that has seen the mark, and whose record has not been seen
	return seen, inTime
}
