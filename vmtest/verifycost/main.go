// SPDX-License-Identifier: Apache-2.0

// Command verifycost loads the kernel half, attaching nothing, and prints what the
// verifier did for each program. Run it in the VM only:
//
//	go build -o build/verifycost ./vmtest/verifycost
//	vmtest/run -k 6.12 -- build/verifycost
//	vmtest/run -k 6.12 -- build/verifycost -hot -p file_open
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

var (
	object = flag.String("o", "", "object file instead of the built-in one")
	export = flag.Bool("export", false, "as in tier export: nothing sleeps")
	only   = flag.String("p", "", "only these programs, comma separated")
	hot    = flag.Bool("hot", false, "where the verifier walked, by function and line")
	dump   = flag.String("log", "", "write the full log of each program to this folder")
	full   = flag.Bool("v", false, "print the verifier's whole message on failure")
)

func main() {
	flag.Parse()
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	inside := false
	for _, port := range ports {
		text, _ := os.ReadFile(port)
		inside = inside || strings.HasPrefix(string(text), "tsem.")
	}
	if !inside {
		fail(fmt.Errorf("this loads BPF programs and runs in the VM only"))
	}
	for _, name := range strings.Split(*object, ",") {
		if err := run(name); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

var (
	stats    = regexp.MustCompile(`processed (\d+) insns .*total_states (\d+) peak_states (\d+) mark_read (\d+)`)
	duration = regexp.MustCompile(`verification time (\d+) usec`)
	stack    = regexp.MustCompile(`stack depth ([0-9+]+)`)
	visit    = regexp.MustCompile(`^(?:from \d+ to \d+: )?(\d+): \(([0-9a-f]{2})\) `)
	place    = regexp.MustCompile(`^; (.*)$`)
	funcAt   = regexp.MustCompile(`^func#(\d+) @(\d+)`)
)

func run(name string) error {
	var spec *ebpf.CollectionSpec
	var err error
	began := time.Now()
	if name == "" {
		spec, err = bpf.Load()
	} else {
		spec, err = ebpf.LoadCollectionSpec(name)
	}
	if err != nil {
		return err
	}
	parsed := time.Since(began)
	began = time.Now()
	cache := btf.NewCache()
	kernel, err := cache.Kernel()
	if err != nil {
		return err
	}
	kernelTook := time.Since(began)
	for name, p := range spec.Programs {
		var f *btf.Func
		if p.Type == ebpf.LSM && kernel.TypeByName("bpf_lsm_"+p.AttachTo, &f) != nil {
			fmt.Println("missing here:", name)
			delete(spec.Programs, name)
		}
		if *export && p.Type != ebpf.Syscall {
			p.Flags &^= unix.BPF_F_SLEEPABLE
		}
		if *only != "" && !slices.Contains(strings.Split(*only, ","), name) {
			delete(spec.Programs, name)
		}
	}
	if err := configure(spec, !*export); err != nil {
		return err
	}
	programs := spec.Programs
	spec.Programs = nil
	began = time.Now()
	base, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: cache})
	if err != nil {
		return err
	}
	defer base.Close()
	mapsTook := time.Since(began)
	fmt.Printf("object %q: parsed in %v, kernel types in %v, %d maps in %v\n", name,
		parsed.Round(time.Millisecond), kernelTook.Round(time.Millisecond), len(base.Maps), mapsTook.Round(time.Millisecond))
	fmt.Printf("%-22s %8s %7s %7s %7s %8s %8s %8s %8s  %s\n", "program", "insns", "states", "peak", "size", "xlated", "jited", "ver ms", "load ms", "stack")
	var names []string
	for name := range programs {
		names = append(names, name)
	}
	slices.Sort(names)
	var insns, states, size, xlated, jited, took, usec int
	failed := 0
	for _, name := range names {
		one := spec.Copy()
		one.Programs = map[string]*ebpf.ProgramSpec{name: programs[name].Copy()}
		level := ebpf.LogLevelStats
		if *hot || *dump != "" {
			level = ebpf.LogLevelStats | ebpf.LogLevelInstruction
		}
		began = time.Now()
		c, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{
			Cache: cache, MapReplacements: base.Maps,
			Programs: ebpf.ProgramOptions{LogLevel: level, LogSizeStart: 1 << 16},
		})
		d := time.Since(began)
		if err != nil {
			failed++
			text := fmt.Sprintf("%+v", err)
			if v := new(ebpf.VerifierError); errors.As(err, &v) {
				text = fmt.Sprintf("%+v", v)
			}
			lines := strings.Split(text, "\n")
			if !*full {
				lines = lines[max(0, len(lines)-6):]
			}
			fmt.Printf("%-22s FAILED: %s\n", name, strings.Join(lines, "\n    "))
			continue
		}
		p := c.Programs[name]
		info, err := p.Info()
		if err != nil {
			return err
		}
		verified, _ := info.VerifiedInstructions()
		x, _ := info.TranslatedSize()
		j, _ := info.JitedSize()
		log := p.VerifierLog
		m := stats.FindStringSubmatch(log)
		if m == nil {
			m = make([]string, 5)
		}
		n := 0
		for _, ins := range one.Programs[name].Instructions {
			n += int(ins.Size() / 8)
		}
		st, _ := strconv.Atoi(m[2])
		pk, _ := strconv.Atoi(m[3])
		var us int
		if t := duration.FindStringSubmatch(log); t != nil {
			us, _ = strconv.Atoi(t[1])
		}
		var deep string
		if t := stack.FindStringSubmatch(log); t != nil {
			deep = t[1]
		}
		fmt.Printf("%-22s %8d %7d %7d %7d %8d %8d %8.1f %8.1f  %s\n", name, verified, st, pk, n, x/8, j, float64(us)/1000, float64(d.Microseconds())/1000, deep)
		insns += int(verified)
		states += st
		size += n
		xlated += x / 8
		jited += int(j)
		took += int(d.Microseconds())
		usec += us
		if *dump != "" {
			if err := os.WriteFile(filepath.Join(*dump, name+".log"), []byte(log), 0o644); err != nil {
				return err
			}
		}
		if *hot {
			where(log, info)
		}
		c.Close()
	}
	fmt.Printf("%-22s %8d %7d %7s %7d %8d %8d %8.1f %8.1f  failed %d\n\n", "total", insns, states, "", size, xlated, jited, float64(usec)/1000, float64(took)/1000, failed)
	return nil
}

// where prints how often the verifier walked the instructions of each function and line.
func where(log string, info *ebpf.ProgramInfo) {
	offsets, _ := info.FuncInfos()
	var names []string
	for _, o := range offsets {
		names = append(names, o.Func.Name)
	}
	starts := map[int]int{}
	byFunc := map[int]int{}
	first := map[int]int{} // entries
	byLine := map[string]int{}
	line := ""
	seen := map[int]string{}
	uniq := map[int]map[int]bool{}
	for text := range strings.Lines(log) {
		text = strings.TrimRight(text, "\n")
		if m := funcAt.FindStringSubmatch(text); m != nil {
			n, _ := strconv.Atoi(m[1])
			at, _ := strconv.Atoi(m[2])
			starts[n] = at
			continue
		}
		if m := place.FindStringSubmatch(text); m != nil {
			line = m[1]
			continue
		}
		m := visit.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		at, _ := strconv.Atoi(m[1])
		best := 0
		for n, s := range starts {
			if s <= at && s >= starts[best] {
				best = n
			}
		}
		byFunc[best]++
		if uniq[best] == nil {
			uniq[best] = map[int]bool{}
		}
		uniq[best][at] = true
		if at == starts[best] {
			first[best]++
		}
		if seen[at] == "" {
			seen[at] = line
		}
		byLine[seen[at]]++
	}
	type count struct {
		what string
		n    int
	}
	var list []count
	for n, c := range byFunc {
		name := fmt.Sprint("#", n)
		if n < len(names) {
			name = names[n]
		}
		list = append(list, count{fmt.Sprintf("%-24s entered %4d, %5d distinct", name, first[n], len(uniq[n])), c})
	}
	slices.SortFunc(list, func(a, b count) int { return b.n - a.n })
	for _, c := range list {
		fmt.Printf("    %7d %s\n", c.n, c.what)
	}
	list = nil
	for l, n := range byLine {
		list = append(list, count{l, n})
	}
	slices.SortFunc(list, func(a, b count) int { return b.n - a.n })
	for _, c := range list[:min(25, len(list))] {
		fmt.Printf("        %7d %s\n", c.n, c.what)
	}
}

// sleepable is the variable of that name: the hooks whose programs sleep.
func sleepable(spec *ebpf.CollectionSpec, any bool) []bool {
	var ordinals *btf.Enum
	hooks := make([]bool, bpf.HookMax)
	if !any || spec.Types.TypeByName("tsem_hook", &ordinals) != nil {
		return hooks
	}
	for _, v := range ordinals.Values {
		p := spec.Programs[strings.TrimPrefix(v.Name, "TSEM_HOOK_")]
		hooks[min(int(v.Value), len(hooks)-1)] = p != nil && p.Flags&unix.BPF_F_SLEEPABLE != 0
	}
	return hooks
}

// configure is what package loader does.
func configure(spec *ebpf.CollectionSpec, maySleep bool) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	if spec.Maps["buffers"] == nil {
		return nil // another object
	}
	buffers := spec.Maps["buffers"].MaxEntries * uint32(cpus)
	spec.Maps["buffers"].MaxEntries = buffers
	for name, value := range map[string]any{
		"buffers_count":  buffers,
		"sleepable":      sleepable(spec, maySleep),
		"identity_key":   [2]uint64{0x0123456789abcdef, 0xfedcba9876543210},
		"mnt_ns_initial": uint32(0xf0000000),
		"tai_offset":     uint64(37_000_000_000),
	} {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return fmt.Errorf("variable %s: %w", name, err)
			}
		}
	}
	return nil
}
