// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// ErrPins: what is pinned is no kernel half that can be used.
var ErrPins = errors.New("the pinned kernel half cannot be used")

// ErrForeign: the pinned kernel half is of another version.
var ErrForeign = errors.New("kernel half of another version")

// bpffs is where the kernel half is pinned, as everything else on most hosts.
const bpffs = "/sys/fs/bpf"

// The folder of the kernel half in bpffs, and what its name is while it is made and while it
// is removed. A bpffs has no names with dots in them (kernel/bpf/inode.c, bpf_lookup).
const (
	pinFolder  = "tsem-bpf"
	pinNew     = pinFolder + "_new"
	pinOld     = pinFolder + "_old"
	pinUsers   = pinFolder + "_users" // what all who need it have locked, from before they wait for it
	pinAbout   = "about"
	pinMap     = "map_"
	pinHidden  = pinMap + "_" // of what is for programs only: their variables
	pinProgram = "program_"
	pinLink    = "link_"
)

// aboutMax is the size of the map `about`: nearly three times what it says of 100 events.
const aboutMax = 32 << 10

// about is what whoever opens a pinned kernel half has to know of it, without looking at the
// object or the kernel. It is JSON, in a map of its own.
type about struct {
	Version string // of the object
	Stays   bool   // also when nobody uses it
	Support *Support
	Inner   map[string]innerMap // of arrays of maps
}

// innerMap is the part of a map's specification that is needed for one more of them.
type innerMap struct {
	Type                        ebpf.MapType
	KeySize, ValueSize, Entries uint32
	Flags                       uint32
}

// pins are the places of a kernel half in a bpffs. Everything but open is done with the lock
// held.
type pins struct {
	root    string // of the bpffs
	version string // of the object that this program has
}

func (p *pins) folder() string { return filepath.Join(p.root, pinFolder) }

// pinned opens a map of the pinned kernel half, of whatever version.
func (p *pins) pinned(name string) (*ebpf.Map, error) {
	return ebpf.LoadPinnedMap(filepath.Join(p.folder(), pinMap+name), nil)
}

// check says whether there is a bpffs.
func (p *pins) check() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(p.root, &fs); err != nil || fs.Type != unix.BPF_FS_MAGIC {
		return &SupportError{ErrPins, "there is no bpffs at " + p.root, "mount it: mount -t bpf bpf " + p.root}
	}
	return nil
}

// checkThere is check for who needs a kernel half that is there. The error is fs.ErrNotExist if there is none, with or without a bpffs.
func (p *pins) checkThere() error {
	if _, err := os.Stat(p.folder()); errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.check()
}

// lockWait is how long one waits at least for others who install or remove a kernel half, which
// takes seconds on an emulated machine. It is anew for each of those who have their turn before.
const lockWait = 2 * time.Minute

// lock keeps all others from installing and removing, until what it returns is closed.
func (p *pins) lock() (*os.File, error) {
	looks := time.NewTicker(lockWait)
	defer looks.Stop()
	return p.lockUnless(looks.C, p.turn)
}

// turn returns when somebody got the lock last.
func (p *pins) turn() (time.Time, error) {
	info, err := os.Stat(p.root)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// lockUnless waits for the lock, unless nobody else has got it from one look to the next. Those
// who wait have their turns in the order in which they came (fs/locks.c, __locks_insert_block),
// and each changes the time of the root for the others to see.
func (p *pins) lockUnless(looks <-chan time.Time, turn func() (time.Time, error)) (*os.File, error) {
	f, err := os.Open(p.root)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- waitForLock(f) }()
	for last := (time.Time{}); ; {
		select {
		case err := <-locked:
			if err == nil {
				err = os.Chtimes(p.root, time.Time{}, time.Now())
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("lock %s: %w", p.root, err), f.Close())
			}
			return f, nil
		case <-looks:
		}
		now, err := turn()
		if err == nil && now.Equal(last) {
			err = fmt.Errorf("lock %s, which another tsem-bpf holds: %w", p.root, os.ErrDeadlineExceeded)
		}
		if err != nil {
			go func() {
				<-locked
				_ = f.Close()
			}()
			return nil, err
		}
		last = now
	}
}

func waitForLock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// enter makes known that this process needs the kernel half, also while it waits for it,
// until what it returns is closed. Without that, of many who come and go at once each could
// install it and, being the last at that moment, remove it again. Without the lock held.
func (p *pins) enter() (*os.File, error) {
	path := filepath.Join(p.root, pinUsers)
	for {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the last one has just gone
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		locked, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(locked, now) {
			return f, nil
		}
		_ = f.Close() // it was removed in between
	}
}

// leave undoes enter, and says whether nobody else has entered. With the lock held.
func (p *pins) leave(users *os.File) (last bool) {
	defer users.Close()
	if unix.Flock(int(users.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	return os.Remove(users.Name()) == nil
}

// pin pins a kernel half that is loaded and attached. It is there as a whole, or not at all.
func (p *pins) pin(e *Engine) error {
	if err := p.clean(); err != nil {
		return err
	}
	made := filepath.Join(p.root, pinNew)
	if err := os.Mkdir(made, 0o700); err != nil {
		return err
	}
	err := p.fill(made, e)
	if err == nil {
		e.folder, err = os.Open(made)
	}
	if err == nil {
		err = os.Rename(made, p.folder())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("pin the kernel half: %w", err), p.clean())
	}
	return nil
}

func (p *pins) fill(folder string, e *Engine) error {
	a := about{Version: p.version, Stays: e.stays, Support: e.support, Inner: make(map[string]innerMap)}
	for name, m := range e.inner {
		a.Inner[name] = innerMap{m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags}
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: pinAbout, Type: ebpf.Array, KeySize: 4, ValueSize: aboutMax, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := a.put(m); err != nil {
		return err
	}
	if err := m.Pin(filepath.Join(folder, pinAbout)); err != nil {
		return err
	}
	for name, m := range e.maps {
		if err := m.Pin(filepath.Join(folder, pinnedMap(name))); err != nil {
			return err
		}
	}
	if err := errors.Join(pinPrograms(e.programs, folder), pinPrograms(e.opened, folder)); err != nil {
		return err
	}
	return pinLinks(e.links, folder)
}

// pinnedMap returns the name under which a map is pinned: a bpffs has no names with dots in them.
func pinnedMap(name string) string { return pinMap + strings.ReplaceAll(name, ".", "_") }

// pinPrograms pins programs in a folder.
func pinPrograms(programs map[string]*ebpf.Program, folder string) error {
	for name, program := range programs {
		if err := program.Pin(filepath.Join(folder, pinProgram+name)); err != nil {
			return err
		}
	}
	return nil
}

// pinLinks pins the links of programs in a folder.
func pinLinks(links map[string]link.Link, folder string) error {
	for name, l := range links {
		if err := l.Pin(filepath.Join(folder, pinLink+name)); err != nil {
			return err
		}
	}
	return nil
}

// put writes what is to be known of a kernel half.
func (a *about) put(m *ebpf.Map) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if len(text) > aboutMax {
		return fmt.Errorf("%d bytes to say of it, at most %d are possible", len(text), aboutMax)
	}
	return m.Put(uint32(0), append(text, make([]byte, aboutMax-len(text))...))
}

// say changes what the pinned kernel half says of itself.
func (p *pins) say(a *about) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.folder(), pinAbout), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	return a.put(m)
}

// open returns the pinned kernel half. The error is fs.ErrNotExist if there is none,
// ErrForeign if it is of another version, ErrPins if it is not whole, or not ours.
func (p *pins) open() (*Engine, error) {
	names, err := p.names(p.folder())
	if err != nil {
		return nil, err
	}
	a, err := p.about()
	if err != nil {
		return nil, err
	}
	e := newEngine(a.Support)
	e.stays, e.pins = a.Stays, p
	if e.folder, err = os.Open(p.folder()); err != nil {
		return nil, err
	}
	for name, m := range a.Inner {
		e.inner[name] = &ebpf.MapSpec{Type: m.Type, KeySize: m.KeySize, ValueSize: m.ValueSize, MaxEntries: m.Entries, Flags: m.Flags}
	}
	later := e.support.later(allEvents)
	for _, name := range names {
		path := filepath.Join(p.folder(), name)
		if short, ok := strings.CutPrefix(name, pinMap); ok && !strings.HasPrefix(name, pinHidden) {
			e.maps[short], err = ebpf.LoadPinnedMap(path, nil)
		} else if short, ok := strings.CutPrefix(name, pinProgram); ok && !attaches(short) {
			e.programs[short], err = ebpf.LoadPinnedProgram(path, nil)
		} else if ok && !slices.Contains(later, short) {
			e.constant = append(e.constant, short)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), e.release())
		}
	}
	for _, name := range needed {
		if e.maps[name] == nil {
			return nil, errors.Join(p.broken("has no map "+name), e.release())
		}
	}
	return e, nil
}

// needed are the maps that a process looks into, whatever it does.
var needed = []string{"namespaces", "keepers", "slots", "magazines", "creations", "task_ids"}

// unrunnable returns a program that a keeper runs and that is not there, "" if there is none: somebody has unpinned it.
func (e *Engine) unrunnable() string {
	for _, name := range runnable {
		// These two are not of every kernel half (adapt).
		if name == probeProgram || name == gateProgram && e.support.Tier != TierSleep {
			continue
		}
		if e.programs[name] == nil {
			return name
		}
	}
	return ""
}

// about reads what the pinned kernel half says of itself.
func (p *pins) about() (*about, error) { return p.aboutIn(p.folder()) }

// aboutIn is about for one that may be pinned in another folder. The error is as that of open, and with ErrForeign what it says is
// returned, too.
func (p *pins) aboutIn(folder string) (*about, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(folder, pinAbout), nil)
	if err != nil {
		if _, gone := os.Stat(folder); errors.Is(gone, fs.ErrNotExist) {
			return nil, gone // somebody has removed it meanwhile
		}
		return nil, p.broken("does not say what it is (" + err.Error() + ")")
	}
	defer m.Close()
	if m.ValueSize() != aboutMax {
		return nil, p.broken(fmt.Sprintf("says what it is in %d bytes, not in %d", m.ValueSize(), aboutMax))
	}
	text := make([]byte, aboutMax)
	if err := m.Lookup(uint32(0), &text); err != nil {
		return nil, err
	}
	return p.parse(bytes.TrimRight(text, "\x00"))
}

// parse parses what a kernel half says of itself. With ErrForeign it returns that, too.
func (p *pins) parse(text []byte) (*about, error) {
	a := new(about)
	err := json.Unmarshal(text, a)
	if a.Version != "" && a.Version != p.version {
		// Another version may say things that are not understood here.
		if a.Support == nil {
			a.Support = new(Support)
		}
		return a, fmt.Errorf("%w: %s is pinned at %s, this tsem-bpf has %s", ErrForeign, a.Version, p.folder(), p.version)
	}
	if err != nil || a.Support == nil {
		return nil, p.broken("does not say what it is")
	}
	for _, name := range []string{"magazines", "creations"} {
		if _, there := a.Inner[name]; !there {
			return nil, p.broken("does not say what the maps in " + name + " are")
		}
	}
	for _, h := range a.Support.Hooks {
		if int(h.Ordinal) >= bpf.HookMax {
			return nil, p.broken(fmt.Sprintf("says that hook %s has the ordinal %d; the highest is %d", h.Name, h.Ordinal, bpf.HookMax-1))
		}
	}
	return a, nil
}

func (p *pins) broken(what string) error {
	return &SupportError{ErrPins, p.folder() + " " + what, "remove that folder when no tsem-bpf runs"}
}

// names returns what is pinned in a folder, links first: without them no program runs. The
// error is fs.ErrNotExist if there is no such folder, ErrPins if there is anything else in it.
func (p *pins) names(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var links, others []string
	for _, entry := range entries {
		name := entry.Name()
		ours := name == pinAbout || strings.HasPrefix(name, pinMap) || strings.HasPrefix(name, pinProgram) || strings.HasPrefix(name, pinLink)
		if !ours || !entry.Type().IsRegular() {
			return nil, &SupportError{ErrPins, "there is " + filepath.Join(folder, name) + ", which tsem-bpf did not put there", "take it away"}
		}
		if strings.HasPrefix(name, pinLink) {
			links = append(links, name)
		} else {
			others = append(others, name)
		}
	}
	return append(links, others...), nil
}

// remove unpins the kernel half. Its programs are detached when nobody holds them any more, which nobody
// waits for.
func (p *pins) remove() error {
	if _, err := p.names(p.folder()); err != nil {
		return err
	}
	if err := p.clean(); err != nil {
		return err
	}
	if err := os.Rename(p.folder(), filepath.Join(p.root, pinOld)); err != nil {
		return fmt.Errorf("unpin the kernel half: %w", err)
	}
	return p.clean()
}

// unpin removes a folder with what is pinned there.
func (p *pins) unpin(folder string, names []string) error {
	// Kernels of tier sleep, and of it alone, are certain to detach in their own time.
	if a, err := p.aboutIn(folder); err != nil || a.Support.Tier != TierSleep {
		// Without it this only takes longer.
		if letGo, err := holdLinks(folder, names); err == nil {
			defer letGo()
		}
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return os.Remove(folder)
}

// clean removes what somebody left who was interrupted.
func (p *pins) clean() error {
	for _, name := range []string{pinNew, pinOld} {
		folder := filepath.Join(p.root, name)
		names, err := p.names(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = p.unpin(folder, names)
		}
		if err != nil {
			return fmt.Errorf("unpin the kernel half: %w", err)
		}
	}
	return nil
}
