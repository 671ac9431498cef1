// SPDX-License-Identifier: Apache-2.0

package main

// What the host asks of the guest; JSON in the initramfs. Words are bytes, since
// they need not be UTF-8.
type request struct {
	Words         [][]byte
	Env           [][]byte
	Dir           string
	Show          []string // folders to have at their own paths, also below /tmp
	KernelModules string   // folder to have as /lib/modules/VERSION; empty if there is none
	Modules       []string // in the initramfs, in the order to load them
}

// What the guest answers: once when the command begins, and when it has ended.
type answer struct {
	Begun  bool
	Status int
	Stdout int64 // bytes written to the port
	Stderr int64
	Error  string // of the guest itself; then there was no command
}

// Names of the virtio ports.
const (
	portStdout = "tsem.stdout"
	portStderr = "tsem.stderr"
	portAnswer = "tsem.answer"
)

// portNames are in the order of the streams that a machine starts with, after the console.
var portNames = []string{portStdout, portStderr, portAnswer}

// insideVng is the first word of this program where virtme-ng starts it in the guest;
// the second is the request.
const insideVng = "--inside-vng"

// Where things are in the initramfs, or in the scratch folder of virtme-ng's machine.
const (
	initFile    = "/init"
	requestFile = "/request"
	moduleDir   = "/modules"
)

// consoleEnd is the last line on the console of a machine that answers.
// Without the end of line an old kernel keeps it back: more could follow.
const consoleEnd = "vmtest: end of the command\n"
