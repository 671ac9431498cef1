// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

// Command verifycost loads the kernel half as package loader prepares it, attaching
// nothing, and prints what each program cost the verifier: instructions walked, states,
// bytes of machine code. With -hot it tells of one program how often the verifier walked
// each function and line. It runs in the VM only:
//
//	CGO_ENABLED=0 go build -tags vmtest -o build/verifycost ./vmtest/verifycost
//	vmtest/run -k 6.12 -- build/verifycost
//	vmtest/run -k 6.12 -- build/verifycost -hot file_open
//	TSEM_TIER=export vmtest/run -k 6.12 -- build/verifycost
package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/tsem-bpf/tsem-bpf/loader"
)

func main() {
	hot := flag.String("hot", "", "tell of this program what the verifier walked, and how often")
	flag.Parse()
	if err := run(*hot); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(hot string) error {
	if !insideVM() {
		return errors.New("this loads BPF programs; run it by vmtest/run, in a VM")
	}
	spec, _, err := loader.Prepare()
	if err != nil {
		return err
	}
	if hot != "" {
		if spec.Programs[hot] == nil {
			return fmt.Errorf("no program %s on this kernel", hot)
		}
		return where(spec, hot)
	}
	fmt.Println("program instructions states jited")
	var total cost
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		c, _, err := load(spec, name, ebpf.LogLevelStats)
		if err != nil {
			return err
		}
		fmt.Println(name, c.instructions, c.states, c.jited)
		total.instructions += c.instructions
		total.states += c.states
		total.jited += c.jited
	}
	fmt.Println("total", total.instructions, total.states, total.jited)
	return nil
}

// insideVM looks for the ports by which vmtest/run talks to its machine.
func insideVM() bool {
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	return slices.ContainsFunc(ports, func(port string) bool {
		text, _ := os.ReadFile(port)
		return strings.HasPrefix(string(text), "tsem.")
	})
}

type cost struct{ instructions, states, jited int }

var totalStates = regexp.MustCompile(`total_states (\d+)`)

// load loads one program and forgets it again; it returns its cost and the log.
func load(spec *ebpf.CollectionSpec, name string, level ebpf.LogLevel) (cost, string, error) {
	one := spec.Copy()
	one.Programs = map[string]*ebpf.ProgramSpec{name: one.Programs[name]}
	collection, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: level, LogSizeStart: 1 << 16},
	})
	if err != nil {
		var refusal *ebpf.VerifierError
		if errors.As(err, &refusal) {
			return cost{}, "", fmt.Errorf("load %s: %+v", name, refusal) // with all that the verifier says
		}
		return cost{}, "", err
	}
	defer collection.Close()
	program := collection.Programs[name]
	info, err := program.Info()
	if err != nil {
		return cost{}, "", fmt.Errorf("program %s: %w", name, err)
	}
	instructions, _ := info.VerifiedInstructions()
	jited, _ := info.JitedSize()
	c := cost{instructions: int(instructions), jited: int(jited)}
	if m := totalStates.FindStringSubmatch(program.VerifierLog); m != nil {
		c.states, _ = strconv.Atoi(m[1])
	}
	return c, program.VerifierLog, nil
}

// Lines of the verifier's log: where a function begins, a line of the source, and an
// instruction that is walked.
var (
	functionLine    = regexp.MustCompile(`^func#(\d+) @(\d+)`)
	sourceLine      = regexp.MustCompile(`^; (.*)$`)
	instructionLine = regexp.MustCompile(`^(?:from \d+ to \d+: )?(\d+): \([0-9a-f]{2}\) `)
)

// walks counts what the verifier walked, by function (its first instruction) and line.
type walks struct {
	starts    []int
	functions map[int]map[int]int // first instruction, instruction: how often
	source    map[int]string      // of an instruction
}

func (w *walks) read(log string) {
	line := ""
	for text := range strings.Lines(log) {
		text = strings.TrimRight(text, "\n")
		if m := functionLine.FindStringSubmatch(text); m != nil {
			at, _ := strconv.Atoi(m[2])
			w.starts = append(w.starts, at)
		} else if m := sourceLine.FindStringSubmatch(text); m != nil {
			line = m[1]
		} else if m := instructionLine.FindStringSubmatch(text); m != nil {
			at, _ := strconv.Atoi(m[1])
			start := 0
			for _, s := range w.starts {
				if s <= at {
					start = max(start, s)
				}
			}
			if w.functions[start] == nil {
				w.functions[start] = make(map[int]int)
			}
			w.functions[start][at]++
			if w.source[at] == "" {
				w.source[at] = line
			}
		}
	}
}

// where prints the functions of a program, and the 25 dearest lines.
func where(spec *ebpf.CollectionSpec, name string) error {
	_, log, err := load(spec, name, ebpf.LogLevelStats|ebpf.LogLevelInstruction)
	if err != nil {
		return err
	}
	w := walks{functions: make(map[int]map[int]int), source: make(map[int]string)}
	w.read(log)
	var functions []string
	lines := make(map[string]int)
	for start, counts := range w.functions {
		sum := 0
		for at, n := range counts {
			sum += n
			lines[w.source[at]] += n
		}
		functions = append(functions, fmt.Sprintf("%7d walked, %5d distinct, entered %4d times: function at %d, %s",
			sum, len(counts), counts[start], start, w.source[start]))
	}
	var dear []string
	for line, n := range lines {
		dear = append(dear, fmt.Sprintf("%7d %s", n, line))
	}
	for _, list := range [][]string{functions, dear} {
		slices.SortFunc(list, func(a, b string) int { return strings.Compare(b, a) })
		fmt.Println(strings.Join(list[:min(25, len(list))], "\n") + "\n")
	}
	return nil
}
