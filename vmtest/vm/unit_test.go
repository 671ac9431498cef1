// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Read back as the kernel does: headers and data begin at multiples of four.
func TestCpio(t *testing.T) {
	var c cpio
	c.add("dir", cpioDir|0o755, nil)
	c.add("dir/odd", cpioFile|0o600, []byte("12345"))
	c.add("even", cpioFile|0o644, []byte("1234"))
	image := c.end()

	type file struct {
		Name, Data string
		Mode       uint32
	}
	want := []file{
		{"dir", "", cpioDir | 0o755},
		{"dir/odd", "12345", cpioFile | 0o600},
		{"even", "1234", cpioFile | 0o644},
		{"TRAILER!!!", "", 0},
	}
	var got []file
	for at := 0; at < len(image); {
		if at%4 != 0 || string(image[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		field := func(n int) (v int) {
			for _, digit := range string(image[at+6+8*n : at+14+8*n]) {
				v = v*16 + strings.IndexRune("0123456789abcdef", digit)
			}
			return v
		}
		align := func(n int) int { return (n + 3) &^ 3 }
		name := image[at+110 : at+110+field(11)]
		data := align(at + 110 + field(11))
		if name[len(name)-1] != 0 {
			t.Fatalf("name %q does not end with 0", name)
		}
		got = append(got, file{string(name[:len(name)-1]), string(image[data : data+field(6)]), uint32(field(1))})
		at = align(data + field(6))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/fs/netfs/netfs.ko.xz: kernel/fs/fscache/fscache.ko.xz
kernel/fs/fscache/fscache.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/drivers/char/virtio-console.ko:
`
	for _, test := range []struct {
		name  string
		names []string
		want  []string
	}{
		{"nothing", nil, nil},
		{"built in", []string{"overlay"}, nil},
		{"dash and underscore", []string{"virtio_console"}, []string{"kernel/drivers/char/virtio-console.ko"}},
		{"what is needed comes first, once", []string{"9pnet_virtio", "9p"}, []string{
			"kernel/net/9p/9pnet.ko.xz", "kernel/net/9p/9pnet_virtio.ko.xz",
			"kernel/fs/fscache/fscache.ko.xz", "kernel/fs/netfs/netfs.ko.xz", "kernel/fs/9p/9p.ko.xz",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, loadOrder([]byte(dep), test.names)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParse(t *testing.T) {
	base := options{kernel: "latest", cpus: 2, memory: "1G", seconds: 600}
	with := func(change func(*options)) options {
		o := base
		change(&o)
		return o
	}
	for _, test := range []struct {
		name string
		args []string
		want options
	}{
		{"command", []string{"true"}, with(func(o *options) { o.words = []string{"true"} })},
		{"its options are its own", []string{"ls", "-k", "x"}, with(func(o *options) { o.words = []string{"ls", "-k", "x"} })},
		{"words stay as they are", []string{"--", "", "a b", "\n\xff", "--"}, with(func(o *options) { o.words = []string{"", "a b", "\n\xff", "--"} })},
		{"all", []string{"-k", "6.1", "-c", "4", "-m", "512M", "-t", "5", "-a", "lsm=yama x", "-W", "-r", "-v", "--", "true"},
			options{"6.1", 4, "512M", 5, "lsm=yama x", true, true, false, false, true, []string{"true"}}},
		{"a path", []string{"-k", "../my linux", "true"}, with(func(o *options) { o.kernel, o.words = "../my linux", []string{"true"} })},
		{"this folder", []string{"-k", ".", "true"}, with(func(o *options) { o.kernel, o.words = ".", []string{"true"} })},
		{"virtme-ng", []string{"--vng", "-k", "6.1", "--", "true"}, with(func(o *options) { o.vng, o.kernel, o.words = true, "6.1", []string{"true"} })},
		{"counting", []string{"-i", "-c", "1", "true"}, with(func(o *options) { o.count, o.cpus, o.words = true, 1, []string{"true"} })},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(test.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(options{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range []string{"", "--", "-c 0 true", "-c x true", "-t 0 true", "-m 0 true", "-m 1g true", "-k .lock true", "-x true", "-i true", "-i -c 1 --vng true"} {
		t.Run(args, func(t *testing.T) {
			if o, err := parse(strings.Fields(args)); err == nil {
				t.Errorf("accepted as %+v", o)
			}
		})
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestHidden(t *testing.T) {
	for _, test := range []struct {
		name       string
		dirs, want []string
	}{
		{"elsewhere", []string{"/home/me/repo", "/", "/tmpfiles/repo"}, nil},
		{"the mount itself", []string{"/tmp", "/run"}, nil},
		{"inside another", []string{"/tmp/a/b", "/tmp/a", "/tmp/a", "/tmp/a-b"}, []string{"/tmp/a", "/tmp/a-b"}},
		{"all mounts", []string{"/dev/shm/r", "/run/r", "/tmp/r"}, []string{"/dev/shm/r", "/run/r", "/tmp/r"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, hidden(test.dirs)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConsole(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"quiet", "[ 1.0] RAS: Correctable Errors collector initialized.\r\n", ""},
		{"from the first mark on", "before\r\nWARNING: CPU: 0\r\nCall Trace:\r\n", "WARNING: CPU: 0\nCall Trace:"},
		{"lockdep", "WARNING: possible circular locking dependency detected\n", "WARNING: possible circular locking dependency detected"},
		{"hung task", "INFO: task sh:1 blocked for more than 120 seconds.\n", "INFO: task sh:1 blocked for more than 120 seconds."},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newConsole(nil)
			for _, b := range []byte(test.text) { // a serial line gives single bytes
				_, _ = c.Write([]byte{b})
			}
			if diff := cmp.Diff(test.want, c.warnings()); diff != "" {
				t.Error(diff)
			}
		})
	}

	t.Run("shows a panic whole", func(t *testing.T) {
		for _, lines := range []int{3, consoleLines, 2 * consoleLines} {
			c := newConsole(nil)
			report := "[ 2.0] Kernel panic - not syncing: sysrq\n" + strings.Repeat("[ 2.1]  ? trace\n", lines)
			_, _ = c.Write([]byte(strings.Repeat("[ 1.0] before\n", 100) + report))
			got := c.last()
			if !strings.HasSuffix(got+"\n", report) || strings.Count(got, "\n")+1 != max(consoleLines, lines+1) {
				t.Errorf("%d lines of report:\n%s", lines, got)
			}
		}
	})
	t.Run("keeps the end", func(t *testing.T) {
		c := newConsole(nil)
		for range 100 {
			_, _ = c.Write([]byte(strings.Repeat("x", consoleMax/50) + "\n"))
		}
		_, _ = c.Write([]byte("last line\n"))
		if n := len(c.text); n > consoleMax {
			t.Errorf("%d bytes are kept", n)
		}
		if !strings.HasSuffix(c.last(), "\nlast line") {
			t.Error("the last line is not the last")
		}
	})
	t.Run("waits for the end", func(t *testing.T) {
		c := newConsole(nil)
		done := make(chan struct{})
		go func() { c.waitEnd(time.Hour); close(done) }()
		_, _ = c.Write([]byte("[ 5.0] " + consoleEnd[:4]))
		_, _ = c.Write([]byte(consoleEnd[4:] + "\n"))
		<-done
	})
}

func TestCounter(t *testing.T) {
	t.Run("waits for the last byte", func(t *testing.T) {
		var to strings.Builder
		c := newCounter(&to)
		go func() {
			for range 1000 {
				_, _ = c.Write([]byte("xyz"))
			}
		}()
		if err := c.wait(t.Context(), 3000); err != nil {
			t.Fatal(err)
		}
		if to.Len() != 3000 {
			t.Errorf("%d bytes", to.Len())
		}
	})
	t.Run("tells that the reader is gone", func(t *testing.T) {
		r, w := io.Pipe()
		r.Close()
		c := newCounter(w)
		_, _ = c.Write([]byte("x"))
		if err := c.wait(t.Context(), 1); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%v", err)
		}
	})
}

// fetched makes a cache with a kernel of that name in it.
func fetched(t *testing.T, name string) (dir string) {
	t.Helper()
	cache := t.TempDir()
	t.Setenv("TSEM_BPF_CACHE", cache)
	dir = filepath.Join(cache, "kernels", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("1.2.3-test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// kernelNames returns the names in kernels.list.
func kernelNames(t *testing.T) (names []string) {
	t.Helper()
	list, err := os.ReadFile("../kernels.list")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if !strings.HasPrefix(line, "#") {
			names = append(names, strings.Fields(line)[0])
		}
	}
	return names
}

// What is in the cache is not fetched again, and what is not in the list not at all.
func TestOpenKernel(t *testing.T) {
	for _, name := range kernelNames(t) {
		t.Run(name, func(t *testing.T) {
			dir := fetched(t, name)
			want := kernel{name: name, listed: true, image: dir + "/vmlinuz", version: "1.2.3-test", modules: dir + "/lib/modules/1.2.3-test", note: dir + "/kvm"}
			got, err := openKernel(name, "../kernels", "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(kernel{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("unknown", func(t *testing.T) {
		fetched(t, "other")
		if _, err := openKernel("other", "../kernels", ""); !errors.Is(err, errNoKernel) {
			t.Errorf("%v", err)
		}
	})
}

// What the tests hold to be a listed kernel is for the runner to say, and not for who calls it.
func TestListedKernel(t *testing.T) {
	t.Setenv(listedKernel, "forged")
	for _, test := range []struct {
		kernel kernel
		want   []string
	}{
		{kernel{name: "6.1", listed: true}, []string{listedKernel + "=6.1"}},
		{kernel{name: "./linux"}, nil},
	} {
		r, err := newRequest([]string{"true"}, "/repo", test.kernel)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range r.Env {
			if strings.HasPrefix(string(e), listedKernel) {
				got = append(got, string(e))
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestKernelsHelp(t *testing.T) {
	out, err := exec.Command("../kernels", "--help").Output()
	if err != nil || !strings.Contains(string(out), "trixie-backports") {
		t.Errorf("%v: %s", err, out)
	}
}
