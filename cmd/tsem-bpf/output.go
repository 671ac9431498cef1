// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What one write to a pipe carries: up to this size a write is whole or not at all
// (PIPE_BUF, pipe(7)), so that lines are not mixed with what CMD writes there, and
// it is certain which lines a reader that stopped has got.
const pipeWrite = 4096

var (
	errGivenUp = errors.New("given up, as its reader is too slow")
	errSymlink = errors.New("is a symbolic link, which is not followed; name the file itself")
	errKind    = errors.New("can be no output: name a regular file, a FIFO or a character device")
	errNobody  = errors.New("nobody reads from this FIFO")
)

// output is where the records go. It is Export's writer, and never fails for it: the
// first error ends the writing and closes failed, and what comes later is dropped,
// so that the namespace can be read to its end and its account balances.
type output struct {
	name  string // in messages
	path  string // empty for a stream that was open before
	w     io.Writer
	file  *os.File // to be closed; w is the same
	made  bool     // file was not there before
	limit int      // of one write; 0: none
	stays bool     // what is in the file; and a FIFO without reader is an error. To be set before open

	buffer  []byte                    // of the write that is under way
	begun   atomic.Pointer[time.Time] // when that write began; nil: none is
	written atomic.Uint64             // whole lines that were taken
	cut     bool                      // a part of one more was, and could not be taken back

	failed chan struct{} // closed once err is set
	err    error         // why nothing more is written; read it after failed
	stop   chan struct{} // closed by giveUp
	giveUp func()        // ends a write that is under way, and all later ones
}

// newOutput looks at what -o names, and touches nothing: what can be known to go
// wrong is said before the kernel half is loaded, which takes seconds. The output is there also
// with an error, to fail.
func newOutput(name string, stdout io.Writer) (*output, error) {
	o := &output{name: name, failed: make(chan struct{}), stop: make(chan struct{})}
	o.giveUp = sync.OnceFunc(func() { close(o.stop) })
	if name == "-" {
		o.name, o.w = "standard output", stdout
		file, ok := stdout.(*os.File)
		if !ok {
			return o, nil
		}
		if closed(file) {
			return o, errClosed(o.name)
		}
		return o, o.use(file)
	}
	if fd, ok := inherited(name); ok {
		// A file of our own, which can be closed; CMD is to hold neither open.
		ours, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return o, fmt.Errorf("output %s: %w", name, err)
		}
		unix.CloseOnExec(fd)
		o.file = os.NewFile(uintptr(ours), name)
		if fd <= 2 && closed(o.file) {
			return o, errClosed(name)
		}
		return o, o.use(o.file)
	}
	o.path = name
	if err := look(name); err != nil {
		return o, fmt.Errorf("output %s: %w", name, err)
	}
	return o, nil
}

// inherited returns the descriptor that a name stands for, as that of a process
// substitution of the shell does. It is no symbolic link that others could have laid.
func inherited(name string) (fd int, ok bool) {
	for _, folder := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if number, ok := strings.CutPrefix(name, folder); ok {
			fd, err := strconv.ParseUint(number, 10, 31)
			return int(fd), err == nil
		}
	}
	fd, ok = map[string]int{"/dev/stdout": 1, "/dev/stderr": 2}[name]
	return fd, ok
}

func errClosed(name string) error {
	return fmt.Errorf("%s is closed, or /dev/null and open for reading too: name a file with -o (/dev/null if nobody is to read the records)", name)
}

// closed says whether a standard stream was closed when tsem-bpf began. Go has opened
// /dev/null in its place then (runtime, fds_unix.go), and for reading and writing. Who redirects to it opens it for
// writing only, mostly: Python's subprocess.DEVNULL cannot be told from a closed stream.
func closed(file *os.File) bool {
	var null, there unix.Stat_t
	flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
	if err != nil || unix.Fstat(int(file.Fd()), &there) != nil {
		return true
	}
	return flags&unix.O_ACCMODE == unix.O_RDWR && unix.Stat(os.DevNull, &null) == nil &&
		there.Mode&unix.S_IFMT == unix.S_IFCHR && there.Rdev == null.Rdev
}

// use finds out what a file is that is open already.
func (o *output) use(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("output %s: %w", o.name, cause(err))
	}
	if flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0); err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fmt.Errorf("output %s: is open for reading only", o.name)
	}
	o.w = file
	if !info.Mode().IsRegular() {
		o.limit = pipeWrite
	}
	return nil
}

// look says why a file could not be opened for writing, if that can be seen.
func look(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) && path != "" {
		folder := filepath.Dir(path)
		if err := unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return fmt.Errorf("cannot be made in the folder %s: %w", folder, err)
		}
		return nil
	}
	if err != nil {
		return cause(err)
	}
	if err := suitable(info.Mode()); err != nil {
		return err
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
}

// suitable says whether records can be written to a file of this kind.
func suitable(mode fs.FileMode) error {
	switch kind := mode.Type(); {
	case kind.IsRegular(), kind == fs.ModeNamedPipe, kind == fs.ModeDevice|fs.ModeCharDevice:
		return nil
	case kind == fs.ModeSymlink:
		return errSymlink
	case kind == fs.ModeDir:
		return fmt.Errorf("is a folder, and %w", errKind)
	case kind == fs.ModeSocket:
		return fmt.Errorf("is a socket, and %w", errKind)
	default:
		return fmt.Errorf("is a block device, and %w", errKind)
	}
}

// open opens the file and leaves its content and mode alone; close without commit
// removes what is new. That of a FIFO waits for a reader, or for a signal that ends
// tsem-bpf.
func (o *output) open(signals <-chan os.Signal) error {
	if o.path == "" {
		return nil
	}
	type result struct {
		file *os.File
		made bool
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		file, made, err := openFile(o.path, o.stays)
		opened <- result{file, made, err}
	}()
	for {
		select {
		case r := <-opened:
			if r.err != nil {
				return fmt.Errorf("output %s: %w", o.name, r.err)
			}
			o.file, o.made = r.file, r.made
			return o.use(r.file)
		case sent := <-signals:
			if ends(sent) {
				go func() { // should a reader come after all
					if r := <-opened; r.file != nil {
						r.file.Close()
					}
				}()
				return fmt.Errorf("output %s: signal %v came before a reader", o.name, sent)
			}
		}
	}
}

func openFile(path string, stays bool) (file *os.File, made bool, err error) {
	flags := os.O_WRONLY | unix.O_NOFOLLOW | unix.O_NOCTTY
	if stays {
		flags |= unix.O_APPEND | unix.O_NONBLOCK
	}
	file, err = os.OpenFile(path, flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL, 0o600)
		made = err == nil
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, false, errSymlink
	case errors.Is(err, unix.ENXIO):
		return nil, false, errNobody
	case err != nil:
		return nil, false, cause(err)
	}
	// It may be another one than that which look saw.
	info, err := file.Stat()
	if err == nil {
		err = suitable(info.Mode())
	}
	if err != nil {
		return nil, false, errors.Join(err, file.Close())
	}
	return file, made, nil
}

// commit makes the file what it is to be: empty and readable by its owner only, or, if what is
// in it stays, one that ends with a whole line. It is called when it is certain that events will come.
func (o *output) commit() error {
	if o.path == "" || o.limit != 0 {
		return nil
	}
	o.made = o.made && !o.stays
	if o.stays {
		return endLine(o.file)
	}
	// First the mode: nobody else is to open it meanwhile.
	err := o.file.Chmod(0o600)
	if err == nil {
		err = o.file.Truncate(0)
	}
	if err != nil {
		return err
	}
	o.made = false
	return nil
}

// endLine ends the last line of a file, which is open for appending: who wrote it was killed.
func endLine(file *os.File) error {
	readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return cause(err)
	}
	defer readable.Close()
	info, err := readable.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := readable.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err = file.WriteString("\n")
	return err
}

// Write writes whole lines. It returns no error: see output.
func (o *output) Write(lines []byte) (int, error) {
	for rest := lines; len(rest) > 0 && o.fine(); {
		next := head(rest, o.limit)
		rest = rest[len(next):]
		if err := o.put(next); err != nil {
			o.fail(err)
		}
	}
	return len(lines), nil
}

// fail ends the writing. It is called once, by whoever may write at that time.
func (o *output) fail(err error) {
	o.err = err
	close(o.failed)
}

func (o *output) fine() bool {
	select {
	case <-o.failed:
		return false
	default:
		return true
	}
}

// head returns the whole lines at the start that fit into one write, one at least.
func head(lines []byte, limit int) []byte {
	if limit == 0 || len(lines) <= limit {
		return lines
	}
	if end := bytes.LastIndexByte(lines[:limit], '\n'); end >= 0 {
		return lines[:end+1]
	}
	return lines[:bytes.IndexByte(lines, '\n')+1]
}

// put makes one write, which giveUp can end. The copy is for the write that stays
// behind then, while lines changes.
func (o *output) put(lines []byte) error {
	select {
	case <-o.stop:
		return errGivenUp
	default:
	}
	o.buffer = append(o.buffer[:0], lines...)
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	now := time.Now()
	o.begun.Store(&now)
	defer o.begun.Store(nil)
	go func(w io.Writer, buffer []byte) {
		n, err := w.Write(buffer)
		done <- result{n, err}
	}(o.w, o.buffer)
	select {
	case r := <-done:
		o.written.Add(uint64(bytes.Count(lines[:r.n], []byte("\n"))))
		if part := r.n - 1 - bytes.LastIndexByte(lines[:r.n], '\n'); part > 0 {
			o.cut = !o.takeBack(part)
		}
		return r.err
	case <-o.stop:
		return errGivenUp
	}
}

// takeBack removes the part of a line at the end of our own file.
func (o *output) takeBack(part int) bool {
	if o.path == "" || o.limit != 0 {
		return false
	}
	end, err := o.file.Seek(0, io.SeekCurrent)
	return err == nil && o.file.Truncate(end-int64(part)) == nil
}

// stuckFor returns how long the write under way has been so.
func (o *output) stuckFor() time.Duration {
	if begun := o.begun.Load(); begun != nil {
		return time.Since(*begun)
	}
	return 0
}

// end says how the writing ended, after Export. A full disk may show only now.
func (o *output) end() error {
	if o.fine() && o.file != nil {
		file := o.file
		o.file = nil
		if err := file.Close(); err != nil {
			o.fail(err)
		}
	}
	if o.fine() {
		return nil
	}
	more := ""
	if o.cut {
		more = ", and a part of one more"
	}
	return fmt.Errorf("write to %s: %w; %d records are written%s", o.name, cause(o.err), o.written.Load(), more)
}

// close gives the file back, and removes it if it is new and nothing came of it.
func (o *output) close() error {
	if o.file == nil {
		return nil
	}
	if o.made {
		o.remove()
	}
	if errors.Is(o.err, errGivenUp) {
		return nil // a write to it is under way; both go with the process
	}
	return o.file.Close()
}

// remove removes the file if it still has its name.
func (o *output) remove() {
	ours, err := o.file.Stat()
	if err != nil {
		return
	}
	if there, err := os.Lstat(o.path); err == nil && os.SameFile(ours, there) {
		_ = os.Remove(o.path)
	}
}
