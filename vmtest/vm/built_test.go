// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bzImage returns the start of an image that says its version.
func bzImage(version string) string {
	image := make([]byte, 0x4000)
	copy(image[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[headerVersion:], 0x3000)
	copy(image[headerBase+0x3000:], version+" (me@here) #1 SMP\x00")
	return string(image)
}

// tree writes files, and returns their folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func TestOpenBuilt(t *testing.T) {
	const version = "6.99.0-mine+"
	dep := "lib/modules/" + version + "/modules.dep"
	for _, test := range []struct {
		name, path     string
		files          map[string]string
		image, modules string // below the folder
	}{
		{"an image alone", "my.img", map[string]string{"my.img": bzImage(version)}, "my.img", ""},
		{"an image with modules beside it", "vmlinuz", map[string]string{"vmlinuz": bzImage(version), dep: ""}, "vmlinuz", filepath.Dir(dep)},
		{"an installed image", "boot/vmlinuz-x", map[string]string{"boot/vmlinuz-x": bzImage(version), dep: ""}, "boot/vmlinuz-x", filepath.Dir(dep)},
		{"an image among its modules", "lib/modules/" + version + "/vmlinuz",
			map[string]string{"lib/modules/" + version + "/vmlinuz": bzImage(version), dep: ""}, "lib/modules/" + version + "/vmlinuz", filepath.Dir(dep)},
		{"a folder like the cache has", ".", map[string]string{"vmlinuz": bzImage(version), "version": version, dep: ""}, "vmlinuz", filepath.Dir(dep)},
		{"a folder that was installed to", ".", map[string]string{"boot/vmlinuz-x": bzImage(version), dep: ""}, "boot/vmlinuz-x", filepath.Dir(dep)},
		{"a build folder without modules", ".", map[string]string{builtImage: bzImage(version), "Kbuild": ""}, builtImage, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			top := tree(t, test.files)
			got, err := openKernel(filepath.Join(top, test.path), "no script", t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			want := kernel{name: filepath.Join(top, test.path), image: filepath.Join(top, test.image), version: version}
			if test.modules != "" {
				want.modules = filepath.Join(top, test.modules)
			}
			got.show = nil
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(kernel{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The modules of a build folder are found by its list, in each form that the list has had.
func TestModulesOfTree(t *testing.T) {
	top := tree(t, map[string]string{
		builtImage:        bzImage("6.99.0"),
		"modules.order":   "fs/9p/9p.o\nfs/overlayfs/overlay.ko\nkernel/net/9p/9pnet.ko\n",
		"modules.builtin": "kernel/drivers/virtio/virtio_pci.ko\n",
		"fs/9p/9p.ko":     "", "fs/overlayfs/overlay.ko": "", "net/9p/9pnet.ko": "",
	})
	for _, path := range []string{top, filepath.Join(top, builtImage)} {
		scratch := t.TempDir()
		k, err := openBuilt(path, scratch)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{top}, k.show); diff != "" || k.modules != filepath.Join(scratch, "lib/modules/6.99.0") {
			t.Errorf("modules in %s; %s", k.modules, diff)
		}
		files := []string{"fs/9p/9p.ko", "fs/overlayfs/overlay.ko", "net/9p/9pnet.ko"}
		for _, file := range files {
			if target, err := os.Readlink(filepath.Join(k.modules, "kernel", file)); target != filepath.Join(top, file) {
				t.Errorf("%s leads to %q (%v)", file, target, err)
			}
		}
		order, err := os.ReadFile(filepath.Join(k.modules, "modules.order"))
		if want := "kernel/" + strings.Join(files, "\nkernel/") + "\n"; string(order) != want {
			t.Errorf("modules.order: %q (%v)", order, err)
		}
		if _, err := os.Stat(filepath.Join(k.modules, modulesDep)); err != nil {
			t.Error(err)
		}
		_, err = k.moduleFiles([]string{"virtio_pci", "9p", "virtio_console"}, []string{"virtiofs"})
		if err == nil || !strings.Contains(err.Error(), "is virtio_console,") {
			t.Errorf("a kernel without virtio_console: %v", err)
		}
	}
}

// Each error names the path and the rule.
func TestOpenBuiltRefuses(t *testing.T) {
	for _, test := range []struct {
		name, path string
		files      map[string]string
		says       string
	}{
		{"nothing there", "none", nil, "no such file"},
		{"an empty file", "k", map[string]string{"k": ""}, "is not a bzImage or vmlinuz for x86"},
		{"another file", "k", map[string]string{"k": strings.Repeat("text\n", 1000)}, "is not a bzImage or vmlinuz for x86"},
		{"an ELF file", "vmlinux", map[string]string{"vmlinux": "\x7fELF" + strings.Repeat("\x00", 1000)}, "take " + builtImage},
		{"an image without a version", "k", map[string]string{"k": bzImage("")[:0x3000]}, "does not say its version"},
		{"a version that is a path", "k", map[string]string{"k": bzImage("../x")}, "does not say its version"},
		{"an empty folder", ".", nil, "this one has 0"},
		{"two kernels", ".", map[string]string{"vmlinuz-1": "", "vmlinuz-2": ""}, "this one has 2"},
		{"a source folder", ".", map[string]string{"Kbuild": ""}, "make bzImage modules"},
		{"modules of another", ".", map[string]string{"vmlinuz": bzImage("1.2.3"), "lib/modules/1.2.4/modules.dep": ""}, "modules beside it are of 1.2.4"},
		{"modules without depmod", ".", map[string]string{"vmlinuz": bzImage("1.2.3"), "lib/modules/1.2.3/x.ko": ""}, "depmod makes it"},
		{"modules that are not built", ".", map[string]string{builtImage: bzImage("1.2.3"), "modules.order": "fs/x.o\n"}, "make modules"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(tree(t, test.files), test.path)
			k, err := openBuilt(path, t.TempDir())
			if err == nil {
				t.Fatalf("accepted as %+v", k)
			}
			if !errors.Is(err, errBadKernel) || !strings.Contains(err.Error(), "-k "+path) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("it says %q, want %q in it", err, test.says)
			}
		})
	}
}
