// SPDX-License-Identifier: Apache-2.0

package gateproc

import (
	_ "embed"
	"errors"
	"fmt"
	"runtime"
)

//go:generate go run ./mkgate

// The name of the program in the root of the gate's file system, as package verdict has it.
const name = "gate"

var (
	//go:embed gate-amd64.elf
	programAMD64 []byte
	//go:embed gate-arm64.elf
	programARM64 []byte
)

// ErrArchitecture: there is no gate program for this architecture.
var ErrArchitecture = errors.New("no gate program for this architecture")

// Program returns what the file of a verdict.Gate has to contain, for the architecture of
// this process: an executable file of about 1 KB. Do not change it. ErrArchitecture.
func Program() ([]byte, error) {
	switch runtime.GOARCH {
	case "amd64":
		return programAMD64, nil
	case "arm64":
		return programARM64, nil
	}
	return nil, fmt.Errorf("%w: %s (amd64 and arm64 have one; gate.c needs its system calls)", ErrArchitecture, runtime.GOARCH)
}

// What the program inherits (enum descriptor in gate.c).
const (
	fdNamespaces = 3
	fdAbort      = 4
	fdLife       = 5
	fdReady      = 6
)

// What the program writes to fdReady.
const ready = "r"

// Exit statuses of the program (enum status in gate.c).
const (
	exitKeeperGone = iota
	exitClosed
	exitLate
	exitNoArguments
	exitNoMap
	exitNoLock
	exitNoReady
	exitNoAbort
)
