// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"crypto/sha512"
	"encoding/hex"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/namespace"
)

// hostile is a name that would break out of a string, and is not UTF-8.
const hostile = "a\"b\\c\nd\xffe{}"

// deep has 20 components of 200 bytes: 4020 bytes with their slashes. With the work
// folder before it that still fits; tooDeep does not.
var (
	component = strings.Repeat("d", 200)
	deep      = strings.Repeat("/"+component, 20)
	tooDeep   = strings.Repeat("/"+component, 21)
)

// makeDeep makes a tree step by step, since no path name may be that long, and ends
// inside it.
func makeDeep(dir, tree string) {
	must(unix.Chdir(dir))
	for name := range strings.SplitSeq(tree[1:], "/") {
		if err := unix.Mkdir(name, 0o755); err != unix.EEXIST {
			must(err)
		}
		must(unix.Chdir(name))
	}
	must(os.WriteFile("leaf", []byte(content), 0o644))
}

func actPaths(dir string, know func(string, string, ...any)) func() {
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, name := range []string{"/source", "/bind", "/jail"} {
		must(unix.Mkdir(dir+name, 0o755))
	}
	for _, name := range []string{"/" + hostile, "/source/x", "/jail/x"} {
		must(os.WriteFile(dir+name, []byte(content), 0o644))
	}
	must(unix.Mount(dir+"/source", dir+"/bind", "", unix.MS_BIND, ""))
	makeDeep(dir, tooDeep)
	tooLong := open(".", unix.O_DIRECTORY, 0)
	makeDeep(dir, deep)
	settle("leaf") // the last one that is written
	deleted := open(plain(dir), unix.O_RDONLY, 0)
	must(unix.Unlink(plain(dir)))
	memory, err := unix.MemfdCreate("anonymous", 0)
	must(err)
	return func() {
		_, err := unix.IoctlGetInt(deleted, unix.FS_IOC_GETFLAGS)
		must(err)
		_, err = unix.IoctlGetInt(memory, unix.TIOCINQ)
		must(err)
		open(dir+"/"+hostile, unix.O_RDONLY, 0)
		open(dir+"/bind/x", unix.O_RDONLY, 0)
		must(unix.Unlink(dir + "/bind/x"))
		open("leaf", unix.O_RDONLY, 0)
		_, err = unix.Openat(tooLong, "leaf", unix.O_RDONLY, 0)
		must(err)
		must(unix.Chroot(dir + "/jail"))
		open("/x", unix.O_RDONLY, 0)
	}
}

// TestPaths: names that are deleted, bind-mounted, hostile, long, and seen from a chroot.
func TestPaths(t *testing.T) {
	dir := folder(t, "paths")
	o := observe(t, "paths", namespace.Config{})
	inFS := strings.TrimPrefix(dir, work)
	type named struct{ Hook, Type, Path, Digest string }
	want := []named{
		{"file_ioctl", "namespace", dir + "/plain", "unavailable"}, // gone; nobody can read it any more
		{"file_ioctl", "namespace", "memfd:anonymous", ""},         // on no mount: the last component
		{"file_open", "namespace", dir + "/" + strings.ReplaceAll(hostile, "\xff", "\ufffdff"), ""},
		{"file_open", "namespace", dir + "/bind/x", "unavailable"}, // unlinked by the next step
		{"inode_unlink", "", inFS + "/source/x", ""},
		{"file_open", "namespace", dir + deep + "/leaf", ""},
		{"file_open", "namespace", "leaf", "unavailable"}, // longer than PATH_MAX
		{"file_open", "chroot", dir + "/jail/x", ""},
	}
	var got []named
	for _, r := range o.events {
		hook := at(r, "event.type").(string)
		n := named{Hook: hook}
		for _, path := range []string{".file.path", ".dentry.path"} {
			if name, ok := at(r, hook+path+".pathname").(string); ok {
				n.Path = name
				n.Type, _ = at(r, hook+path+".type").(string)
			}
		}
		n.Digest, _ = at(r, hook+".file.digest_state").(string)
		got = append(got, n)
	}
	// Whether a file that the actor removes is read before, or meanwhile, depends on who is
	// faster, and with IMA it is always known.
	for i := range got {
		if i < len(want) && want[i].Digest == "unavailable" && (got[i].Digest == "" || got[i].Digest == "changed") {
			got[i].Digest = "unavailable"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

// TestUserNamespace: ids of a task in a user namespace, in both views.
func TestUserNamespace(t *testing.T) {
	needFile(t, "/proc/self/ns/user", "CONFIG_USER_NS")
	for _, test := range []struct {
		current         bool
		task, rootsFile string
	}{
		{false, "1000", "0"},
		{true, "0", "4294967295"}, // root of the host is nobody there
	} {
		folder(t, "inode_getattr")
		cmd := actorCommand("inode_getattr")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			Credential:  &syscall.Credential{NoSetGroups: true}, // 0 there
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
		}
		o := runIn(t, namespace.Config{NSRefCurrent: test.current}, cmd)
		if o.exit != nil {
			t.Fatal(o.exit)
		}
		found := false
		for _, r := range o.all {
			if at(r, "inode_getattr.path.path.pathname") != work+"/inode_getattr/plain" {
				continue
			}
			found = true
			if uid, owner := at(r, "COE.uid"), at(r, "inode_getattr.path.inode.uid"); uid != test.task || owner != test.rootsFile {
				t.Errorf("nsref current %v: task %v, file %v; want %s, %s", test.current, uid, owner, test.task, test.rootsFile)
			}
		}
		if !found {
			t.Error("the actor's stat is not among the records")
		}
	}
}

// TestDigestFunctions: another function of the namespace than IMA has.
func TestDigestFunctions(t *testing.T) {
	folder(t, "mmap_file")
	o := observe(t, "mmap_file", namespace.Config{Digest: crypto512})
	sum := sha512.Sum512([]byte(content))
	if got, want := at(o.events[0], "mmap_file.file.digest"), hex.EncodeToString(sum[:]); got != want {
		t.Errorf("digest %v, want %s", got, want)
	}
	if o.totals.DigestsIMA != 0 {
		t.Errorf("%d sha256 digests by IMA in a namespace of sha512", o.totals.DigestsIMA)
	}
}

// TestDigestSource: IMA digests in the hook where hooks can sleep, once for each file.
func TestDigestSource(t *testing.T) {
	if engine.Support().Tier != loader.TierExport {
		needIMA(t)
	}
	folder(t, "mmap_file")
	o := observe(t, "mmap_file", namespace.Config{})
	ima := o.totals.DigestsIMA + o.totals.DigestsCached
	if sleeps := engine.Support().Tier != "export"; sleeps != (ima > 0) {
		t.Errorf("tier %s: %d digests by IMA", engine.Support().Tier, ima)
	}
	if o.totals.Digests.Exact+o.totals.Digests.Cached == 0 {
		t.Error("no digest by user space")
	}
}
