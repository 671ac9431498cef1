// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A path that is no kernel. The user has to name another one, or to build more of it.
var errBadKernel = errors.New("no kernel to boot")

// isPath tells the path of a kernel from a name of vmtest/kernels.list.
func isPath(kernel string) bool {
	return strings.Contains(kernel, "/") || kernel == "." || kernel == ".."
}

const builtImage = "arch/x86/boot/bzImage"

// openBuilt takes a kernel that somebody built: a file, a build folder of the kernel's
// source, or a folder into which one was installed. What modules of a build folder need
// is made in scratch.
func openBuilt(path, scratch string) (kernel, error) {
	bad := func(format string, args ...any) (kernel, error) {
		return kernel{}, fmt.Errorf("-k %s: %w: %s", path, errBadKernel, fmt.Sprintf(format, args...))
	}
	whole, err := filepath.Abs(path)
	if err == nil {
		whole, err = filepath.EvalSymlinks(whole)
	}
	if err != nil {
		return bad("%v", err)
	}
	image, tree := whole, ""
	if folder, err := os.Stat(whole); err != nil {
		return bad("%v", err)
	} else if folder.IsDir() {
		if image, tree, err = imageIn(whole); err != nil {
			return bad("%v", err)
		}
	} else if top, ok := strings.CutSuffix(whole, "/"+builtImage); ok {
		tree = top
	}
	version, err := imageVersion(image)
	if err != nil {
		return bad("%v", err)
	}
	k := kernel{name: path, image: image, version: version}
	if tree != "" {
		k.modules, err = modulesOfTree(tree, version, scratch)
		k.show = []string{tree}
	} else {
		k.modules, err = installedModules(image, version)
	}
	if err != nil {
		return bad("%v", err)
	}
	return k, nil
}

// imageIn finds the image of a kernel in a folder, and says whether that is a build folder.
func imageIn(folder string) (image, tree string, err error) {
	image = filepath.Join(folder, builtImage)
	if _, err := os.Stat(image); err == nil {
		return image, folder, nil
	}
	if _, err := os.Stat(filepath.Join(folder, "Kbuild")); err == nil {
		return "", "", fmt.Errorf("a source folder without %s; make bzImage modules", builtImage)
	}
	var found []string
	for _, pattern := range []string{"vmlinuz", "vmlinuz-*", "bzImage", "boot/vmlinuz-*", "boot/bzImage"} {
		matches, err := fs.Glob(os.DirFS(folder), pattern)
		if err != nil {
			return "", "", err
		}
		found = append(found, matches...)
	}
	if len(found) != 1 {
		return "", "", fmt.Errorf("a folder has one kernel, as %s, vmlinuz, vmlinuz-VERSION or boot/vmlinuz-VERSION; this one has %d %q",
			builtImage, len(found), found)
	}
	return filepath.Join(folder, found[0]), "", nil
}

// The header of a bzImage (Documentation/arch/x86/boot.rst of the kernel).
const (
	headerMagic   = 0x202 // "HdrS"
	headerVersion = 0x20e // where the version text is, from 0x200 on
	headerBase    = 0x200
	headerRoom    = 64 << 10 // the set-up code and its texts lie before the compressed kernel
)

// imageVersion reads the release, as uname -r says it, from the image itself.
func imageVersion(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	start := make([]byte, headerRoom)
	n, err := io.ReadFull(f, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	start = start[:n]
	if bytes.HasPrefix(start, []byte("\x7fELF")) {
		return "", fmt.Errorf("%s is an ELF file and does not boot by itself; take %s", path, builtImage)
	}
	if n < headerVersion+2 || string(start[headerMagic:headerMagic+4]) != "HdrS" {
		return "", fmt.Errorf("%s is not a bzImage or vmlinuz for x86", path)
	}
	at := headerBase + int(binary.LittleEndian.Uint16(start[headerVersion:]))
	if at >= n {
		return "", fmt.Errorf("%s does not say its version", path)
	}
	text, _, _ := bytes.Cut(start[at:], []byte{0})
	words := strings.Fields(string(text))
	if len(words) == 0 || strings.Contains(words[0], "/") {
		return "", fmt.Errorf("%s does not say its version", path)
	}
	return words[0], nil
}

// installedModules finds the modules that were installed with an image: in
// lib/modules/VERSION beside it or beside its boot folder, or around it. A kernel may
// have none.
func installedModules(image, version string) (string, error) {
	folder := filepath.Dir(image)
	candidates := []string{filepath.Join(folder, "lib/modules", version), filepath.Join(filepath.Dir(folder), "lib/modules", version)}
	if filepath.Base(folder) == version {
		candidates = append(candidates, folder)
	}
	for _, modules := range candidates {
		if _, err := os.Stat(modules); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(modules, modulesDep)); err != nil {
			return "", fmt.Errorf("%w; depmod makes it", err)
		}
		return modules, nil
	}
	others, err := os.ReadDir(filepath.Join(folder, "lib/modules"))
	if err == nil && len(others) > 0 {
		return "", fmt.Errorf("%s is %s, and the modules beside it are of %s", image, version, others[0].Name())
	}
	return "", nil
}

// modulesOfTree makes a folder as modules_install does, of links to the modules of a
// build folder. The list of them, modules.order, is there once they were built.
func modulesOfTree(tree, version, scratch string) (string, error) {
	order, err := os.ReadFile(filepath.Join(tree, "modules.order"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	modules := filepath.Join(scratch, "lib/modules", version)
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return "", err
	}
	installed := new(bytes.Buffer)
	for line := range strings.Lines(string(order)) {
		// Kernels before 6.3 list *.ko, some with kernel/ before it; later ones *.o.
		file := strings.TrimPrefix(strings.TrimSpace(line), "kernel/")
		file = strings.TrimSuffix(strings.TrimSuffix(file, ".o"), ".ko") + ".ko"
		target := filepath.Join(tree, file)
		if _, err := os.Stat(target); err != nil {
			return "", fmt.Errorf("modules.order lists a module that is not built; make modules: %w", err)
		}
		link := filepath.Join(modules, "kernel", file)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return "", err
		}
		if err := os.Symlink(target, link); err != nil {
			return "", err
		}
		fmt.Fprintf(installed, "kernel/%s\n", file)
	}
	if err := os.WriteFile(filepath.Join(modules, "modules.order"), installed.Bytes(), 0o644); err != nil {
		return "", err
	}
	if err := copyBuiltin(tree, modules); err != nil {
		return "", err
	}
	return modules, depmod(scratch, version)
}

// copyBuiltin copies what a folder tells of modules that are built in; a file that is not
// there becomes an empty one, which depmod wants.
func copyBuiltin(from, to string) error {
	for _, name := range []string{modulesBuiltin, "modules.builtin.modinfo"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// depmod makes the lists of the modules in top/lib/modules/VERSION.
func depmod(top, version string) error {
	if out, err := exec.Command("depmod", "-b", top, version).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
