// SPDX-License-Identifier: Apache-2.0

// Command mkgate compiles gate.c and makes an executable file of it for each
// architecture, byte for byte the same wherever it runs: the object of clang-19 is one
// section of code, and an ELF header and two program headers before it are all that
// the kernel needs. A linker would add what differs from one release of it to the next.
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// What is compiled, by the name of the result.
var targets = map[string]string{
	"gate-amd64.elf": "x86_64-linux-gnu",
	"gate-arm64.elf": "aarch64-linux-gnu",
}

// Without vector registers no constant is loaded from a section of its own.
var flags = []string{
	"-Os", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdinc", "-mgeneral-regs-only",
	"-fno-pic", "-fno-jump-tables", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
}

func main() {
	for name, target := range targets {
		if err := makeProgram(name, target); err != nil {
			fmt.Fprintf(os.Stderr, "mkgate: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

func makeProgram(name, target string) error {
	object := name + ".o"
	defer os.Remove(object)
	compile := exec.Command("clang-19", append(flags, "--target="+target, "-c", "gate.c", "-o", object)...)
	compile.Stderr = os.Stderr
	if err := compile.Run(); err != nil {
		return fmt.Errorf("compile gate.c: %w", err)
	}
	file, err := elf.Open(object)
	if err != nil {
		return err
	}
	defer file.Close()
	program, err := link(file)
	if err != nil {
		return err
	}
	return os.WriteFile(name, program, 0o644)
}

// The code begins right behind the headers, in the same page.
const (
	base    = 0x400000
	align   = 0x10000 // the largest page of arm64
	headers = 64 + 2*56
)

// link returns the executable file of an object that refers to nothing outside its code.
func link(object *elf.File) ([]byte, error) {
	for _, section := range object.Sections {
		if section.Type == elf.SHT_RELA || section.Type == elf.SHT_REL {
			return nil, fmt.Errorf("%s: gate.c needs something outside its code: avoid the constant, variable or call", section.Name)
		}
	}
	text := object.Section(".text")
	if text == nil {
		return nil, errors.New("no code")
	}
	code, err := text.Data()
	if err != nil {
		return nil, err
	}
	start, err := symbol(object, "_start")
	if err != nil {
		return nil, err
	}
	size := uint64(headers + len(code))
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(object.Machine),
		Version: uint32(elf.EV_CURRENT),
		Entry:   base + headers + start,
		Phoff:   64,
		Ehsize:  64, Phentsize: 56, Phnum: 2,
	}
	load := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: align,
	}
	// Without it the stack would be executable.
	stack := elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16}
	var out bytes.Buffer
	for _, part := range []any{header, load, stack, code} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// symbol returns where a symbol is in the code.
func symbol(object *elf.File, name string) (uint64, error) {
	symbols, err := object.Symbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == name && int(s.Section) < len(object.Sections) && object.Sections[s.Section].Name == ".text" {
			return s.Value, nil
		}
	}
	return 0, fmt.Errorf("no symbol %s in the code", name)
}
