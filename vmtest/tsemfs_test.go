// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/fuse"
	"github.com/tsem-bpf/tsem-bpf/tsemfs"
)

// plane is a control plane in which everybody may do everything, and nothing happens but that
// it is noted.
type plane struct {
	mu       sync.Mutex
	commands []string
	id       uint64 // of whoever asks; 0: none
	queue    *tsemfs.Queue
	making   chan struct{} // gets something when a Create is under way, which then waits for it to be closed
}

func (p *plane) with(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *plane) Admit(uint32) error { return nil }

func (p *plane) Command(tid uint32, command control.Command) error {
	if _, ok := command.(control.Create); ok {
		p.making <- struct{}{}
		p.making <- struct{}{}
	}
	p.with(func() { p.commands = append(p.commands, fmt.Sprintf("%d %T", tid, command)) })
	return nil
}

func (p *plane) Refused(tid uint32, err error) {
	p.with(func() { p.commands = append(p.commands, fmt.Sprintf("%d refused", tid)) })
}

func (p *plane) ID(uint32) (id uint64, err error) {
	p.with(func() {
		if id = p.id; id == 0 {
			err = unix.ENOENT
		}
	})
	return id, err
}

func (p *plane) Aggregate(uint32) ([]byte, error) { return make([]byte, 32), nil }
func (p *plane) Namespaces() []uint64             { return []uint64{7} }

func (p *plane) Records(namespace uint64) *tsemfs.Queue {
	if namespace != 7 {
		return nil
	}
	return p.queue
}

// expectCommands compares what was written with what should have been, and forgets it.
func (p *plane) expectCommands(t *testing.T, want ...string) {
	t.Helper()
	p.with(func() {
		if got := strings.Join(p.commands, ", "); got != strings.Join(want, ", ") {
			t.Errorf("commands %s, want %s", got, strings.Join(want, ", "))
		}
		p.commands = nil
	})
}

// serveFiles mounts the control plane at a folder until the test ends. The result ends the
// connection, as the end of who serves would.
func serveFiles(t *testing.T, p tsemfs.Plane, folder string) (end func()) {
	t.Helper()
	needFilesystem(t, "fuse", "CONFIG_FUSE_FS")
	if err := unix.Mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	device, err := fuse.OpenDevice()
	check(t, err)
	mount, err := tsemfs.Mount(device)
	check(t, err)
	served := make(chan error, 1)
	go func() { served <- fuse.NewServer(device, tsemfs.New(p)).Serve() }()
	check(t, tsemfs.Attach(mount, folder))
	check(t, unix.Close(mount))
	var stat unix.Stat_t
	check(t, unix.Stat(folder, &stat))
	end = sync.OnceFunc(func() {
		abort := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(stat.Dev))
		check(t, os.WriteFile(abort, []byte("1"), 0))
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		end()
		_ = unix.Unmount(folder, unix.MNT_DETACH) // unless a successor did that
	})
	return end
}

// openRaw opens a file without the help of package os, which would poll it.
func openRaw(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestControlPlane is about the files as a kernel shows them: what its FUSE makes of system
// calls, and they of what is answered.
func TestControlPlane(t *testing.T) {
	folder := t.TempDir()
	p := &plane{queue: tsemfs.NewQueue(1 << 20), making: make(chan struct{})}
	serveFiles(t, p, folder)
	for name, test := range map[string]func(*testing.T, *plane, string){
		"tree":         testPlaneTree,
		"shell":        testPlaneShell,
		"inherited":    testPlaneInherited,
		"slow command": testPlaneSlowCommand,
		"id":           testPlaneID,
		"records":      testPlaneRecords,
		"poll":         testPlanePoll,
	} {
		t.Run(name, func(t *testing.T) { test(t, p, folder) })
	}
	t.Run("hang-up", func(t *testing.T) { testPlaneHangUp(t, p, folder) })
}

// output is what a shell writes.
func output(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func testPlaneTree(t *testing.T, _ *plane, folder string) {
	got := output(t, "cd "+folder+" && find . -mindepth 1 -printf '%P %y%m\\n' | LC_ALL=C sort")
	want := "README f444\naggregate f400\ncontrol f200\nexternal_tma d555\nexternal_tma/7 f400\nid f400\n"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := os.Chmod(folder+"/control", 0o666); !errors.Is(err, unix.EPERM) {
		t.Errorf("change the mode: %v", err)
	}
	if err := os.Remove(folder + "/id"); !errors.Is(err, unix.ENOSYS) {
		t.Errorf("remove a file: %v", err)
	}
	other := exec.Command("cat", folder+"/README")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if out, err := other.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("another user: %v, %s", err, out)
	}
}

// testPlaneShell: what > of a shell does, which truncates, and what is no command.
func testPlaneShell(t *testing.T, p *plane, folder string) {
	pid := strings.TrimSpace(output(t, "echo $$; echo enforce >"+folder+"/control; echo seal >>"+folder+"/control"))
	p.expectCommands(t, pid+" control.Enforce", pid+" control.Seal")
	control := openRaw(t, folder+"/control", unix.O_WRONLY)
	for _, wrong := range []string{"enforce", "lock\n", strings.Repeat("x", 10000) + "\n"} {
		if n, err := unix.Write(control, []byte(wrong)); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%.10q: %d, %v", wrong, n, err)
		}
	}
	p.with(func() { p.commands = nil })
	for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR} {
		if _, err := unix.Open(folder+"/control", flags, 0); !errors.Is(err, unix.EACCES) {
			t.Errorf("open it with %#x: %v", flags, err)
		}
	}
}

// testPlaneInherited: parent and child write to one descriptor, in turn and at growing
// offsets, and each command is that of who wrote it.
func testPlaneInherited(t *testing.T, p *plane, folder string) {
	script := "exec 3>>" + folder + "/control; echo $$; echo enforce >&3; sh -c 'echo $$; echo seal >&3'; echo enforce >&3; true"
	pids := strings.Fields(output(t, script))
	if len(pids) != 2 || pids[0] == pids[1] {
		t.Fatalf("wrote %q", pids)
	}
	p.expectCommands(t, pids[0]+" control.Enforce", pids[1]+" control.Seal", pids[0]+" control.Enforce")
}

// testPlaneSlowCommand: while one thread waits for its namespace others write commands, and open control,
// truncate it and append to it, also where IMA has a policy.
func testPlaneSlowCommand(t *testing.T, p *plane, folder string) {
	needSecurityFS(t)
	if _, err := os.Stat(filepath.Dir(imaPolicyFile)); err == nil {
		needIMAPolicy(t)
	}
	control := openRaw(t, folder+"/control", unix.O_WRONLY)
	slow := exec.Command("sh", "-c", "echo external >"+folder+"/control")
	check(t, slow.Start())
	<-p.making
	if _, err := unix.Write(control, []byte("enforce\n")); err != nil {
		t.Error(err)
	}
	output(t, "echo enforce >"+folder+"/control; echo enforce >>"+folder+"/control; cat "+folder+"/aggregate")
	p.with(func() {
		if len(p.commands) != 3 {
			t.Errorf("commands %q before the namespace was made", p.commands)
		}
	})
	<-p.making
	check(t, slow.Wait())
	p.with(func() {
		if len(p.commands) != 4 || !strings.HasSuffix(p.commands[3], "control.Create") {
			t.Errorf("commands %q", p.commands)
		}
		p.commands = nil
	})
}

// testPlaneID: it is asked for again and again until it is there.
func testPlaneID(t *testing.T, p *plane, folder string) {
	for range 3 {
		if _, err := unix.Open(folder+"/id", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
			t.Errorf("before there is one: %v", err)
		}
	}
	p.with(func() { p.id = 7 })
	if got := output(t, "dd bs=1 status=none if="+folder+"/id"); got != "7\n" {
		t.Errorf("%q", got)
	}
}

func testPlaneRecords(t *testing.T, p *plane, folder string) {
	fd := openRaw(t, folder+"/external_tma/7", unix.O_RDONLY)
	buffer := make([]byte, 4096)
	read := func(size int, want string, wantErr error) {
		t.Helper()
		n, err := unix.Read(fd, buffer[:size])
		if got := string(buffer[:max(n, 0)]); got != want || err != wantErr {
			t.Errorf("%.20q, %v, want %.20q, %v", got, err, want, wantErr)
		}
	}
	rewind := func() {
		t.Helper()
		if n, err := unix.Seek(fd, 0, unix.SEEK_SET); n != 0 || err != nil {
			t.Errorf("rewind: %d, %v", n, err)
		}
	}
	longest := strings.Repeat("x", tsemfs.MaxRecord-1) + "\n"
	rewind()
	read(4096, "", unix.ENODATA)
	for _, record := range []string{"first\n", longest, "third\n"} {
		check(t, p.queue.Append([]byte(record)))
	}
	read(4096, "first\n", nil)
	read(4096, "", nil)
	rewind()
	read(100, longest[:100], nil)
	read(4096, longest[100:], nil)
	read(4096, "", nil)
	rewind()
	read(4096, "third\n", nil)
	rewind()
	read(4096, "", unix.ENODATA)
	if _, err := unix.Open(folder+"/external_tma/8", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("another namespace: %v", err)
	}
}

// polled waits for a descriptor. A wait in the kernel ends with the machine, not before.
func polled(t *testing.T, fd int) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if !errors.Is(err, unix.EINTR) {
			check(t, err)
			return fds[0].Revents
		}
	}
}

// testPlanePoll: everybody who waits is woken, by poll and epoll and on all descriptors, and
// as long as there is a record everybody who looks is told so.
func testPlanePoll(t *testing.T, p *plane, folder string) {
	one, two := openRaw(t, folder+"/external_tma/7", unix.O_RDONLY), openRaw(t, folder+"/external_tma/7", unix.O_RDONLY)
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	check(t, err)
	defer unix.Close(ep)
	check(t, unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, two, &unix.EpollEvent{Events: unix.EPOLLIN}))
	for round := range 20 {
		if round == 0 { // one who waits as well, and is killed
			script := "import select, sys\np = select.poll()\np.register(open(sys.argv[1]), select.POLLIN)\np.poll()"
			killed := exec.Command("python3", "-c", script, folder+"/external_tma/7")
			check(t, killed.Start())
			time.Sleep(100 * time.Millisecond) // it may wait by now; nothing depends on it
			check(t, killed.Process.Kill())
			_ = killed.Wait()
		}
		var waiting sync.WaitGroup
		for range 2 {
			waiting.Go(func() {
				if got := polled(t, one); got != unix.POLLIN {
					t.Errorf("poll: %#x", got)
				}
			})
		}
		waiting.Go(func() {
			events := make([]unix.EpollEvent, 1)
			for {
				n, err := unix.EpollWait(ep, events, -1)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if n != 1 || err != nil || events[0].Events != unix.EPOLLIN {
					t.Errorf("epoll: %d, %v, %#x", n, err, events[0].Events)
				}
				return
			}
		})
		if round%2 == 0 { // some find the record, others wait for it
			time.Sleep(time.Millisecond)
		}
		check(t, p.queue.Append([]byte("record\n")))
		waiting.Wait()
		if got := polled(t, two); got != unix.POLLIN {
			t.Errorf("poll again: %#x", got)
		}
		buffer := make([]byte, 4096)
		if n, err := unix.Pread(one, buffer, 0); n != 7 || err != nil {
			t.Errorf("read: %d, %v", n, err)
		}
		fds := []unix.PollFd{{Fd: int32(one), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 0); n != 0 || err != nil {
			t.Errorf("poll, and nothing is there: %d, %v, %#x", n, err, fds[0].Revents)
		}
	}
}

// testPlaneHangUp: only who has read the last record learns that it was the last.
func testPlaneHangUp(t *testing.T, p *plane, folder string) {
	fd := openRaw(t, folder+"/external_tma/7", unix.O_RDONLY)
	check(t, p.queue.Append([]byte("last\n")))
	p.queue.End()
	if got := polled(t, fd); got != unix.POLLIN {
		t.Errorf("with a record left: %#x", got)
	}
	buffer := make([]byte, 4096)
	if n, err := unix.Read(fd, buffer); n != 5 || err != nil {
		t.Errorf("read: %d, %v", n, err)
	}
	if got := polled(t, fd); got != unix.POLLHUP {
		t.Errorf("afterwards: %#x", got)
	}
}

// TestControlPlaneKilled: when who serves has died nobody hangs, and a successor can take the place.
func TestControlPlaneKilled(t *testing.T) {
	folder := t.TempDir()
	p := &plane{queue: tsemfs.NewQueue(1 << 20), id: 7}
	end := serveFiles(t, p, folder)
	control, records := openRaw(t, folder+"/control", unix.O_WRONLY), openRaw(t, folder+"/external_tma/7", unix.O_RDONLY)
	woken := make(chan int16, 1)
	go func() { woken <- polled(t, records) }()
	end()
	if got := <-woken; got&unix.POLLERR == 0 {
		t.Errorf("poll: %#x", got)
	}
	if _, err := unix.Write(control, []byte("enforce\n")); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("write: %v", err)
	}
	serveFiles(t, p, folder)
	if got := output(t, "cat "+folder+"/id"); got != "7\n" {
		t.Errorf("%q", got)
	}
}
