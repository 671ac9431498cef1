// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestWords: what is wrong with the words is said before anything is loaded.
func TestWords(t *testing.T) {
	for _, test := range []struct {
		words  string
		status int
		says   string
	}{
		{"", 0, "Usage: tsem-bpf <command>"},
		{"--help", 0, "Usage: tsem-bpf <command>"},
		{"--version", 0, "tsem-bpf"},
		{"run --help", 0, "Exit status"},
		{"frobnicate", exitUsage, "frobnicate"},
		{"run", exitUsage, "which command? For example: tsem-bpf run -- ls"},
		{"run --", exitUsage, "which command?"},
		{"run -q", exitUsage, "which command?"},
		{"run --frobnicate true", exitUsage, "--frobnicate"},
		{"run --dialect=v9 true", exitUsage, "v9"},
		{"run --digest=md5 true", exitUsage, "md5"},
		{"run --cache=0 true", exitUsage, "--cache=0: 1 to 4096 KiB"},
		{"run --cache=4097 true", exitUsage, "--cache=4097: 1 to 4096 KiB"},
		{"run --cache=many true", exitUsage, "many"},
		{"run --wait=-1s true", exitUsage, "--wait=-1s: more than 0, at most 5m0s"},
		{"run --wait=0s true", exitUsage, "--wait=0s: more than 0, at most 5m0s"},
		{"run --wait=301s true", exitUsage, "--wait=5m1s: more than 0, at most 5m0s"},
		{"run no-such-command", exitNotFound, "no-such-command: command not found"},
		{"run ./no-such-file", exitNotFound, "./no-such-file: no such file"},
		{"run /etc", exitNotRunnable, "/etc: is a directory"},
		{"run ./main_test.go", exitNotRunnable, "not executable"},
		{"run -o /no/such/folder true", exitFailed, "/no/such/folder"},
		{"run --enforce true", exitUsage, "--enforce needs --external"},
		{"run --tma=trust true", exitUsage, "--tma needs --external"},
		{"run --deadline=1s true", exitUsage, "--deadline needs --external"},
		{"run --deny=file_open true", exitUsage, "--deny needs --external"},
		{"run --external --enforce --deny=file_open true", exitUsage, "--deny is part of --enforce"},
		{"run --external --deny=file_open,no_such_hook true", exitUsage, `--deny=file_open,no_such_hook: "no_such_hook" is no type of event; one of `},
		{"run --external --deny=bprm_committed_creds true", exitUsage, `"bprm_committed_creds" is no type of event`},
		{"run --external --events=capable --deny=capable,file_open true", exitUsage, "--deny=capable,file_open: no event of type file_open is raised, and so none is refused: --events"},
		{"run --external --deny=file_truncate true", exitUsage, "no event of type file_truncate is raised"},
		{"run --external --events=file_truncate --deny=v3 true", exitUsage, "--deny=v3: none of these events is raised"},
		{"run --external --events=all --deny=file_truncate no-such-command", exitNotFound, "command not found"},
		{"run --external --events=capable --deny=all no-such-command", exitNotFound, "command not found"},
		{"run --external --events=!capable --deny=v3,!file_open no-such-command", exitNotFound, "command not found"},
		{"run --external --events=wrong --deny=file_truncate true", exitUsage, `--events=wrong: "wrong" is no type of event`},
		{"run --on-failure=open true", exitUsage, "--on-failure needs --external"},
		{"run --external --on-failure=ajar true", exitUsage, "ajar"},
		{"run --external --on-failure=closed true", exitUsage, "--on-failure=closed needs --enforce"},
		{"run --external --deadline=0s true", exitUsage, "--deadline=0s: more than 0, at most 5m0s"},
		{"run --external --deadline=301s true", exitUsage, "--deadline=5m1s: more than 0, at most 5m0s"},
		{"run --external --tma=distrust true", exitUsage, "--tma=distrust: trust, or exec: and a command"},
		{"run --external --tma=exec: true", exitUsage, "--tma=exec:: trust, or exec: and a command"},
		{"run --external --tma=exec:cat --dialect=v3 true", exitUsage, "--dialect=v3: has no task number"},
		{"run --external --tma=exec:no-such-agent true", exitUsage, "--tma=exec:no-such-agent: agent no-such-agent"},
		{"run --takeover=3 true", exitUsage, "--takeover=3: its tasks are there, and no command is started: leave true out"},
		{"run --takeover=3 --enforce", exitUsage, "--enforce is settled in a namespace that is there"},
		{"run --takeover=3 --digest=sha256", exitUsage, "--digest is settled in a namespace that is there"},
		{"run --takeover=3 --tma=distrust", exitUsage, "--tma=distrust: trust, or exec: and a command"},
		{"run --takeover=three", exitUsage, "three"},
		{"run --takeover=0", exitUsage, "which command?"},
		{"release trusted", exitUsage, "which event?"},
		{"release maybe --pid 1", exitUsage, "maybe"},
		{"release trusted --ticket 17", exitUsage, "--ticket=17: two numbers with a dot between"},
		{"release trusted --ticket 17.3x", exitUsage, "--ticket=17.3x: two numbers"},
		{"release trusted --ticket 0.3", exitUsage, "--ticket=0.3: two numbers"},
		{"release trusted --ticket 017.3", exitUsage, "--ticket=017.3: two numbers"},
		{"release trusted --ticket 17.03", exitUsage, "--ticket=17.03: two numbers"},
		{"run --coefficients --dialect=v3 true", exitUsage, "--coefficients needs --dialect=current"},
		{"export --root --coefficients --dialect=v3", exitUsage, "--coefficients needs --dialect=current"},
		{"run --events=capable,!capable true", exitUsage, "--events=capable,!capable: it leaves no type of event"},
		{"export --root --events=file_open,", exitUsage, `--events=file_open,: "" is no type of event`},
		{"export --root --external", exitUsage, "--external"},
		{"export", exitUsage, "--root"},
		{"run --metrics=9560 true", exitUsage, "--metrics=9560: HOST:PORT with a number as port"},
		{"run --metrics=:http true", exitUsage, "--metrics=:http: HOST:PORT with a number as port"},
		{"run --metrics=:65536 true", exitUsage, "--metrics=:65536: HOST:PORT with a number as port"},
		{"daemon --metrics=localhost", exitUsage, "--metrics=localhost: HOST:PORT"},
		{"daemon --deadline=0s", exitUsage, "--deadline=0s: more than 0, at most 5m0s"},
		{"daemon --root-events=v3", exitUsage, "--root-events needs --root-export"},
		{"daemon --root-export=/dev/null --root-events=v4", exitUsage, `--root-events=v4: "v4" is no type of event`},
		{"daemon --root-export=/dev/null --root-wait=0s", exitUsage, "--root-wait=0s: more than 0, at most 5m0s"},
		{"daemon --root-export=/dev/null --root-dialect=v3 --root-coefficients", exitUsage, "--root-coefficients needs --root-dialect=current"},
		{"daemon --config= --mount=/no/such/folder", exitFailed, "--mount=/no/such/folder: no folder can be made in /no/such/: no such file or directory"},
		{"daemon --config= --mount=/no/such/folder//", exitFailed, "no folder can be made in /no/such/: no such file or directory"},
		{"daemon --config= --mount=main_test.go/folder", exitFailed, "no folder can be made in main_test.go/: not a directory"},
		{"daemon --root-export=/no/such/folder", exitFailed, "/no/such/folder"},
		{"run --metrics-config=web.yml true", exitUsage, "--metrics-config needs --metrics"},
		{"export --root --metrics=localhost", exitUsage, "--metrics=localhost: HOST:PORT"},
		{"run --metrics=:0 --metrics-config=main_test.go true", exitFailed, "--metrics-config=main_test.go: yaml: "},
		{"run --metrics=:0 --metrics-config=no-such-file true", exitFailed, "tsem-bpf: --metrics-config=no-such-file: open no-such-file: no such file"},
		{"run --metrics=systemd true", exitFailed, "--metrics=systemd: systemd has handed over 0 sockets"},
		{"top --interval=99ms", exitUsage, "--interval=99ms: at least 100ms"},
		{"completion tcsh", exitUsage, "tcsh"},
		{"orchestrate", exitUsage, "which command?"},
		{"orchestrate no-such-command", exitNotFound, "no-such-command: command not found"},
		{"orchestrate --mount=/no/such/folder -- true", exitFailed, "no control plane can be used at /no/such/folder: no such file or directory; tsem-bpf daemon serves one"},
		{"ns show", exitUsage, "<namespace>"},
		{"export --root=false", exitUsage, "--root=false: only the whole host can be exported"},
		{"run --external --tma= true", exitUsage, "--tma has no value: leave it out for the default"},
		{"run --external --deny= true", exitUsage, "--deny has no value"},
		{"run --external --enforce --on-failure= true", exitUsage, "--on-failure has no value"},
		{"run --events= true", exitUsage, "--events has no value"},
		{"run --metrics= true", exitUsage, "--metrics has no value"},
		{"daemon --config= --root-export= --check", exitUsage, "--root-export has no value"},
		{"run --takeover=0 true", exitUsage, "--takeover=0: more than 0"},
		{"release trusted --ticket= --pid 1", exitUsage, "--ticket has no value"},
		{"release trusted --ticket 17.3 --pid 0", exitUsage, "--pid=0: more than 0"},
		{"release trusted --ticket 17.3 --tnum 0", exitUsage, "--tnum=0: more than 0"},
		{"release trusted --ticket 17.3 --namespace 0", exitUsage, "--namespace=0: more than 0"},
		{"ns enforce all", exitUsage, "all"},
		{"export --root --duration=0s", exitUsage, "--duration=0s: more than 0"},
		{"export --root --duration=-1s", exitUsage, "--duration=-1s: more than 0"},
	} {
		var out bytes.Buffer
		if status := run(strings.Fields(test.words), &out, &out); status != test.status {
			t.Errorf("tsem-bpf %s: status %d, want %d", test.words, status, test.status)
		}
		if !strings.Contains(out.String(), test.says) {
			t.Errorf("tsem-bpf %s says %q, want %q in it", test.words, out.String(), test.says)
		}
	}
}

// TestEnded: of several errors each is said, whichever has the exit status.
func TestEnded(t *testing.T) {
	plain, silent := errors.New("the output is full"), &exitError{status: 3}
	refused := &exitError{exitNotRunnable, errors.New("ls: permission denied")}
	for _, test := range []struct {
		err    error
		status int
		says   string
	}{
		{nil, 0, ""},
		{plain, exitFailed, "tsem-bpf: the output is full\n"},
		{silent, 3, ""},
		{refused, exitNotRunnable, "tsem-bpf: ls: permission denied\n"},
		{errors.Join(refused, plain), exitNotRunnable, "tsem-bpf: ls: permission denied\nthe output is full\n"},
		{errors.Join(plain, refused), exitNotRunnable, "tsem-bpf: the output is full\nls: permission denied\n"},
		{errors.Join(silent, plain), 3, "tsem-bpf: the output is full\n"},
		{fmt.Errorf("%w, and no more", refused), exitNotRunnable, "tsem-bpf: ls: permission denied, and no more\n"},
	} {
		var said bytes.Buffer
		if status := ended(test.err, &said); status != test.status || said.String() != test.says {
			t.Errorf("%v: status %d, %q; want %d, %q", test.err, status, said.String(), test.status, test.says)
		}
	}
}

// TestBytes: names of files and the arguments of CMD are bytes, and arrive as they are, in UTF-8 or not.
func TestBytes(t *testing.T) {
	const name = "/\xff\xed\xa0\x80\u2028<\x01\u00e9\xc3"
	for _, words := range [][]string{
		{"run", "-o", name, "rm", name}, {"run", "-o" + name, "--", "rm", name}, {"run", "--output=" + name, "rm", name},
		{"orchestrate", "--mount", name, "rm", name}, {"orchestrate", "--mount=" + name, "--", "rm", name},
	} {
		parser, err := newParser(io.Discard, io.Discard, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(words); err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		parsed := parser.Model.Target.Interface().(commands)
		file, args := parsed.Run.Output, parsed.Run.args()
		if words[0] == "orchestrate" {
			file, args = parsed.Orchestrate.Mount, commandWords(parsed.Orchestrate.Command)
		}
		if file != name || !slices.Equal(args, []string{"rm", name}) {
			t.Errorf("%q: %q and %q", words, file, args)
		}
	}
}
