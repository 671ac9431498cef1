// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A kernel to boot.
type kernel struct {
	name    string   // as it is called after -k
	listed  bool     // in vmtest/kernels.list
	image   string   // its bzImage
	version string   // as uname -r says it
	modules string   // folder of its modules; empty if all is built in
	note    string   // where kvmWorks notes what it found; empty if nowhere
	show    []string // folders into which links among the modules lead
}

// Files among the modules of a kernel.
const (
	modulesDep     = "modules.dep"
	modulesBuiltin = "modules.builtin"
)

// What the guest needs before it has a root file system; the rest comes by modprobe.
var needed = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// errNoKernel: there is no kernel of that name.
var errNoKernel = errors.New("no such kernel")

// openKernel opens what -k names. What has to be made for it is in scratch.
func openKernel(name, script, scratch string) (kernel, error) {
	if isPath(name) {
		return openBuilt(name, scratch)
	}
	return openFetched(name, script)
}

// openFetched fetches the kernel if it is not there yet.
func openFetched(name, script string) (kernel, error) {
	fetch := exec.Command(script, name)
	fetch.Stderr = os.Stderr
	err := fetch.Run()
	if fetch.ProcessState != nil && fetch.ProcessState.ExitCode() == statusUsage {
		return kernel{}, errNoKernel
	}
	if err != nil {
		return kernel{}, fmt.Errorf("kernel %q cannot be had: %w", name, err)
	}
	dir := filepath.Join(cacheDir(), "kernels", name)
	text, err := os.ReadFile(filepath.Join(dir, "version"))
	version := strings.TrimSpace(string(text))
	return kernel{
		name: name, listed: true, image: filepath.Join(dir, "vmlinuz"), version: version,
		modules: filepath.Join(dir, "lib/modules", version), note: filepath.Join(dir, "kvm"),
	}, err
}

func cacheDir() string {
	if dir := os.Getenv("TSEM_BPF_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "tsem-bpf")
	}
	return filepath.Join(os.Getenv("HOME"), ".cache", "tsem-bpf")
}

// moduleName is how modprobe calls the module of a file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder resolves the names through modules.dep; what a module depends on
// comes before it. A name that is not there is built in, or the guest says so.
func loadOrder(dep []byte, names []string) []string {
	type line struct {
		file string
		deps []string
	}
	modules := make(map[string]line)
	for scanner := bufio.NewScanner(bytes.NewReader(dep)); scanner.Scan(); {
		file, deps, ok := strings.Cut(scanner.Text(), ":")
		if ok {
			modules[moduleName(file)] = line{file, strings.Fields(deps)}
		}
	}
	var order []string
	seen := make(map[string]bool)
	var visit func(name string)
	visit = func(name string) {
		m, ok := modules[name]
		if !ok || seen[name] {
			return
		}
		seen[name] = true
		for _, d := range m.deps {
			visit(moduleName(d))
		}
		order = append(order, m.file)
	}
	for _, name := range names {
		visit(name)
	}
	return order
}

// lacking gives those of the names that are neither a module of this kernel nor built
// in; none where the kernel does not tell what is built in.
func (k kernel) lacking(dep []byte, names []string) ([]string, error) {
	builtin, err := os.ReadFile(filepath.Join(k.modules, modulesBuiltin))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(builtin) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool)
	for line := range strings.Lines(string(builtin)) {
		there[moduleName(strings.TrimSpace(line))] = true
	}
	var missing []string
	for _, name := range names {
		if !there[name] && len(loadOrder(dep, []string{name})) == 0 {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// moduleFiles gives what has to be loaded of the names, in this order, decompressed.
// The kernel may lack the optional ones.
func (k kernel) moduleFiles(names, optional []string) ([]module, error) {
	if k.modules == "" {
		return nil, nil
	}
	dep, err := os.ReadFile(filepath.Join(k.modules, modulesDep))
	if err != nil {
		return nil, err
	}
	if missing, err := k.lacking(dep, names); err != nil {
		return nil, err
	} else if len(missing) > 0 {
		return nil, fmt.Errorf("kernel %s: neither built in nor a module is %s, which the machine needs; docs/vm.md lists the options",
			k.name, strings.Join(missing, ", "))
	}
	var found []module
	for _, file := range loadOrder(dep, slices.Concat(names, optional)) {
		path := filepath.Join(k.modules, file)
		data, err := os.ReadFile(path)
		if program := decompressors[filepath.Ext(file)]; program != "" {
			data, err = exec.Command(program, "-dc", path).Output()
		}
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", file, err)
		}
		found = append(found, module{moduleName(file) + ".ko", data})
	}
	return found, nil
}

// A module as the kernel loads it.
type module struct {
	file string
	data []byte
}

// What CONFIG_MODULE_COMPRESS_* makes of modules, and what undoes it.
var decompressors = map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}

// initramfs packs the running program as /init, the modules and the request.
func (k kernel) initramfs(r request) ([]byte, error) {
	var c cpio
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	c.add(strings.TrimPrefix(initFile, "/"), cpioFile|0o755, self)
	modules, err := k.moduleFiles(needed, nil)
	if err != nil {
		return nil, err
	}
	c.add("modules", cpioDir|0o755, nil)
	for _, m := range modules {
		r.Modules = append(r.Modules, m.file)
		c.add("modules/"+m.file, cpioFile|0o644, m.data)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	c.add(strings.TrimPrefix(requestFile, "/"), cpioFile|0o600, text)
	return c.end(), nil
}
