// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// Contents of the same size, which leave the same traces.
var (
	contentA = strings.Repeat("A", 5000)
	contentB = strings.Repeat("B", 5000)
)

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// settle waits until the change time of a file is so old that its digest may be kept.
func settle(path string) {
	for {
		var stat unix.Stat_t
		must(unix.Stat(path, &stat))
		age := time.Since(time.Unix(stat.Ctim.Unix()))
		if age > 1100*time.Millisecond {
			return
		}
		time.Sleep(1100*time.Millisecond - age)
	}
}

func mapShared(fd int) []byte {
	memory, err := unix.Mmap(fd, 0, len(contentA), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	return memory
}

// use opens and maps a file.
func use(path string) {
	fd := open(path, unix.O_RDONLY, 0)
	_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	must(err)
	must(unix.Close(fd))
}

// actSharedMapping uses a file that it has mapped shared and writable, changes it through
// the mapping, which leaves no trace, and uses it again; then once more, unmapped.
func actSharedMapping(dir string, know func(string, string, ...any)) func() {
	path := plain(dir)
	fd := open(path, unix.O_RDWR, 0)
	memory := mapShared(fd)
	must(unix.Close(fd))
	memory[0] = 'A' // the page is writable from here on
	settle(path)
	return func() {
		use(path)
		use(path)
		copy(memory, contentB)
		use(path)
		must(unix.Munmap(memory))
		settle(path) // the first store into the second page has left a change time
		use(path)
	}
}

// TestSharedMapping: no digest of a file that may change without a trace is exact; the
// one that is taken before is not kept for after.
func TestSharedMapping(t *testing.T) {
	path := plain(folder(t, "shared_mapping"))
	if err := os.WriteFile(path, []byte(contentA), 0o604); err != nil {
		t.Fatal(err)
	}
	o := observe(t, "shared_mapping", namespace.Config{})
	var got []string
	for _, r := range o.events {
		hook := at(r, "event.type").(string)
		state := at(r, hook+".file.digest_state")
		if at(r, hook+".file.path.pathname") != path {
			continue
		}
		switch digest := at(r, hook+".file.digest"); {
		case state != nil:
			got = append(got, state.(string))
		case digest == digestOf(contentB):
			got = append(got, "B")
		default:
			got = append(got, "stale")
		}
	}
	want := "changed changed changed changed changed changed B B"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("digests of two events each: %s, want %s", s, want)
	}
}

// imaPolicy makes IMA measure what is read of the files of a user that nobody is.
const imaPolicy = "measure func=FILE_CHECK mask=MAY_READ fowner=4242\n"

const imaPolicyFile = "/sys/kernel/security/ima/policy"

// loadIMAPolicy loads it for the first who needs it: the kernel takes one policy in its life.
var loadIMAPolicy = sync.OnceValue(func() error {
	if _, err := os.Stat(imaPolicyFile); err != nil {
		return err
	}
	return os.WriteFile(imaPolicyFile, []byte(imaPolicy), 0o600)
})

// needIMAPolicy ends a test if IMA, which is there, can have no policy.
func needIMAPolicy(t *testing.T) {
	t.Helper()
	err := loadIMAPolicy()
	if errors.Is(err, os.ErrNotExist) {
		lacks(t, "CONFIG_IMA_WRITE_POLICY, or has taken a policy")
	}
	if err != nil {
		t.Fatalf("load an IMA policy: %v", err)
	}
}

// TestOldIMAHash: what IMA measured, by its policy, before the file was changed in a way
// that IMA does not see is not taken for the digest of what the file is now.
func TestOldIMAHash(t *testing.T) {
	needIMA(t)
	needIMAPolicy(t)
	measure := func(path string) { must(unix.Close(open(path, unix.O_RDONLY, 0))) }
	for name, change := range map[string]func(path string) (done func()){
		"by a descriptor that is still open": func(path string) func() {
			fd := open(path, unix.O_RDWR, 0)
			measure(path)
			_, err := unix.Pwrite(fd, []byte(contentB), 0)
			must(err)
			return func() { must(unix.Close(fd)) }
		},
		"by a mapping that is gone": func(path string) func() {
			fd := open(path, unix.O_RDWR, 0)
			memory := mapShared(fd)
			memory[0] = 'A'
			measure(path)
			copy(memory, contentB)
			must(unix.Munmap(memory))
			must(unix.Close(fd))
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := plain(folder(t, "mmap_file"))
			defer os.Remove(path) // which the policy is about
			if err := os.WriteFile(path, []byte(contentA), 0o604); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, 4242, 0); err != nil {
				t.Fatal(err)
			}
			defer change(path)()
			settle(path)
			o := observe(t, "mmap_file", namespace.Config{})
			for _, r := range o.events {
				digest := at(r, "mmap_file.file.digest")
				if digest == nil || at(r, "mmap_file.file.digest_state") != nil {
					continue
				}
				if digest != digestOf(contentB) {
					t.Errorf("the digest of old content: %v", r)
				}
			}
		})
	}
}

// TestFirstDigest: IMA asks for the version of an inode, which sets a mark in it. That
// is no change: the first digest counts, and is kept.
func TestFirstDigest(t *testing.T) {
	needIMA(t)
	none := observe(t, "nothing", namespace.Config{}).totals
	path := plain(folder(t, "mmap_file"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	folder(t, "mmap_file") // with another inode, whose version nobody has asked for
	settle(path)
	first := observe(t, "mmap_file", namespace.Config{}).totals
	second := observe(t, "mmap_file", namespace.Config{}).totals
	byIMA := func(t namespace.Totals) uint64 { return t.DigestsIMA + t.DigestsCached }
	if got := byIMA(first) - byIMA(none); got != 1 {
		t.Errorf("%d digests by IMA of a file that is new, want 1", got)
	}
	if first.DigestsCached+1 != second.DigestsCached {
		t.Errorf("%d digests are known, then %d", first.DigestsCached, second.DigestsCached)
	}
}

// actOverlay does what cat does with files of an overlayfs, as another user than the one
// who mounted it.
func actOverlay(dir string, know func(string, string, ...any)) func() {
	_, _, errno := unix.Syscall(unix.SYS_SETFSUID, 1000, 0, 0)
	if errno != 0 {
		must(errno)
	}
	return func() {
		for _, name := range []string{"/merged/low", "/merged/up", "/merged/shared"} {
			fd := open(dir+name, unix.O_RDONLY, 0)
			var stat unix.Stat_t
			must(unix.Fstat(fd, &stat))
			_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
			must(err)
			_, err = unix.Read(fd, make([]byte, 1<<16))
			must(err)
			must(unix.Close(fd))
		}
	}
}

// mountOverlay makes an overlayfs at /merged with a file of the lower layer, one of the
// upper, and one that is mapped shared and writable by way of a descriptor that is closed.
func mountOverlay(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"/lower", "/upper", "/work", "/merged"} {
		must(os.Mkdir(dir+name, 0o755))
	}
	must(os.WriteFile(dir+"/lower/low", []byte(contentA), 0o644))
	must(os.WriteFile(dir+"/upper/up", []byte(contentB), 0o644))
	must(os.WriteFile(dir+"/upper/shared", []byte(contentB), 0o644))
	layers := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	must(unix.Mount("none", dir+"/merged", "overlay", 0, layers))
	fd := open(dir+"/merged/shared", unix.O_RDWR, 0)
	memory := mapShared(fd)
	must(unix.Close(fd))
	memory[0] = 'A'
	t.Cleanup(func() {
		must(unix.Munmap(memory))
		must(unix.Unmount(dir+"/merged", 0))
	})
	settle(dir + "/merged/shared")
}

// TestOverlay: a file of an overlayfs is one file, and its digest as exact as elsewhere.
func TestOverlay(t *testing.T) {
	needFilesystem(t, "overlay", "CONFIG_OVERLAY_FS")
	dir := folder(t, "overlay")
	mountOverlay(t, dir)
	o := observe(t, "overlay", namespace.Config{})
	known := map[any]string{digestOf(contentA): "A", digestOf(contentB): "B"}
	var got []string
	for _, r := range o.events {
		hook := at(r, "event.type").(string)
		path, worth := at(r, hook+".file.path.pathname"), known[at(r, hook+".file.digest")]
		if hook == "inode_getattr" {
			path = at(r, "inode_getattr.path.path.pathname")
		}
		if state := at(r, hook+".file.digest_state"); state != nil {
			worth = state.(string)
		}
		got = append(got, strings.TrimSpace(fmt.Sprint(hook, " ", strings.TrimPrefix(fmt.Sprint(path), dir), " ", worth)))
		if at(r, "COE.fsuid") != "1000" {
			t.Errorf("%s: fsuid %v of the task with 1000", hook, at(r, "COE.fsuid"))
		}
	}
	want := []string{
		"file_open /merged/low A", "inode_getattr /merged/low", "mmap_file /merged/low A",
		"file_open /merged/up B", "inode_getattr /merged/up", "mmap_file /merged/up B",
		"file_open /merged/shared changed", "inode_getattr /merged/shared", "mmap_file /merged/shared changed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if o.totals.Inner < 3 {
		t.Errorf("%d calls for the layers are counted, of 3 files", o.totals.Inner)
	}
}
