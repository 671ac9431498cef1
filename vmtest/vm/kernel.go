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
	"strings"
)

// A kernel that vmtest/kernels fetched.
type kernel struct {
	name    string
	dir     string // has vmlinuz, version, lib/modules/VERSION
	version string
}

// What the guest needs before it has a root file system; the rest comes by modprobe.
var needed = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// errNoKernel: there is no kernel of that name.
var errNoKernel = errors.New("no such kernel")

// openKernel fetches the kernel if it is not there yet.
func openKernel(name, script string) (kernel, error) {
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
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	return kernel{name, dir, strings.TrimSpace(string(version))}, err
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

func (k kernel) modules() string {
	return filepath.Join(k.dir, "lib/modules", k.version)
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

// initramfs packs the running program as /init, the modules and the request.
func (k kernel) initramfs(r request) ([]byte, error) {
	var c cpio
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	c.add("init", cpioFile|0o755, self)
	dep, err := os.ReadFile(filepath.Join(k.modules(), "modules.dep"))
	if err != nil {
		return nil, err
	}
	c.add("modules", cpioDir|0o755, nil)
	for _, file := range loadOrder(dep, needed) {
		path := filepath.Join(k.modules(), file)
		data, err := os.ReadFile(path)
		if strings.HasSuffix(file, ".xz") {
			data, err = exec.Command("xz", "-dc", path).Output()
		}
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", file, err)
		}
		name := moduleName(file) + ".ko"
		r.Modules = append(r.Modules, name)
		c.add("modules/"+name, cpioFile|0o644, data)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	c.add(strings.TrimPrefix(requestFile, "/"), cpioFile|0o600, text)
	return c.end(), nil
}
