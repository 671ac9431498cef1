// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

// checked runs "tsem-bpf daemon --check" with more words.
func checked(words ...string) (status int, out, errs string) {
	var stdout, stderr bytes.Buffer
	status = run(append([]string{"daemon", "--check"}, words...), &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// configFile makes a configuration file.
func configFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfig: a line of the file is what the flag of that name is, and the command line wins.
func TestConfig(t *testing.T) {
	file := configFile(t, "# Comment.\n\n  deadline =  10s  \r\nmetrics=localhost:9560\n#mount = /tmp\n\tmount\t= /a = b # c")
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"--config", file}, "mount = /a = b # c\ndeadline = 10s\nmetrics = localhost:9560\n"},
		{[]string{"--config", file, "--deadline=1m", "--mount", "/x"}, "mount = /x\ndeadline = 1m0s\nmetrics = localhost:9560\n"},
		{[]string{"--metrics=:1", "--config=" + file}, "mount = /a = b # c\ndeadline = 10s\nmetrics = :1\n"},
		{[]string{"--config="}, "mount = /run/tsem\ndeadline = 5s\n"},
	} {
		if status, out, errs := checked(test.words...); status != 0 || !strings.HasPrefix(out, test.want) || errs != "" {
			t.Errorf("%q: status %d, %s\n%s, want\n%s", test.words, status, errs, out, test.want)
		}
	}
}

// TestConfigWrong: what is wrong with a file is said with its name and the line, and nothing is done.
func TestConfigWrong(t *testing.T) {
	for text, want := range map[string]string{
		"deadline=1s\nfrobnicate = 3":     `line 2: "frobnicate" is none of mount deadline `,
		"\n\n--deadline = 3s":             `line 3: "--deadline" is none of mount `,
		"Deadline = 3s":                   `line 1: "Deadline" is none of mount `,
		"config = /etc/other":             `line 1: "config" is none of mount `,
		"check = true":                    `line 1: "check" is none of mount `,
		"help = true":                     `line 1: "help" is none of mount `,
		"# one\ndeadline = 10":            `line 2: --deadline: expected duration but got "10"`,
		"deadline = 301s":                 "line 1: daemon: --deadline=5m1s: more than 0, at most 5m0s",
		"metrics = 9560":                  "line 1: daemon: --metrics=9560: HOST:PORT with a number as port",
		"deadline = 1s\n\ndeadline = 1s":  "line 3: deadline is set in line 1 already",
		"deadline":                        "line 1: is neither name = value, nor empty, nor begins with #",
		"= 3s":                            "line 1: is neither name = value",
		"a deadline = 3s":                 "line 1: is neither name = value",
		"[daemon]":                        "line 1: is neither name = value",
		"deadline =":                      "line 1: deadline has no value: leave the line out for the default",
		`mount = "/run/tsem"`:             "line 1: mount begins with a quote",
		"mount = /a\x00b":                 "line 1: is not text in UTF-8 without control characters",
		"mount = \xff":                    "line 1: is not text in UTF-8",
		strings.Repeat("#\n", maxConfig):  "more than 64 KiB",
		"metrics-config = web.yml":        "--metrics-config needs --metrics",
		"metrics = :1\nmetrics-config=no": "--metrics-config=no: open no: ",
		"root-wait = 1s":                  "--root-wait needs --root-export",
	} {
		file := configFile(t, text)
		status, out, errs := checked("--config", file)
		if !strings.Contains(errs, want) || out != "" || status == 0 {
			t.Errorf("%.40q: status %d, %s%s, want %s", text, status, out, errs, want)
		}
		if line := strings.HasPrefix(want, "line"); line && (status != exitUsage || !strings.Contains(errs, "configuration "+file+": line ")) {
			t.Errorf("%.40q: status %d, %s", text, status, errs)
		}
	}
}

// TestConfigUnprintable: what --check prints is what the flags are, or it prints nothing.
func TestConfigUnprintable(t *testing.T) {
	for _, value := range []string{" /a", "/a ", "/a\nmetrics = :1", `"/a"`, "'/a", "/\xff"} {
		status, out, errs := checked("--config=", "--mount="+value)
		if want := fmt.Sprintf("--mount=%s: cannot stand in a configuration file", value); status != exitUsage || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%q: status %d, %s%s, want %s", value, status, out, errs, want)
		}
	}
}

// TestConfigFile: a file that others could have written decides nothing.
func TestConfigFile(t *testing.T) {
	file := configFile(t, "deadline = 1s")
	folder := filepath.Dir(file)
	fifo, link := filepath.Join(folder, "fifo"), filepath.Join(folder, "link")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	fails := func(path, want string) {
		t.Helper()
		if status, _, errs := checked("--config", path); status != exitUsage || !strings.Contains(errs, "configuration "+path+": "+want) {
			t.Errorf("status %d, %s, want %s", status, errs, want)
		}
	}
	fails(filepath.Join(folder, "missing"), "no such file or directory")
	fails(folder, "is no regular file")
	fails(fifo, "is no regular file")
	fails("/dev/null", "is no regular file")
	for _, mode := range []os.FileMode{0o620, 0o602} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		fails(link, fmt.Sprintf("has mode %04o, with which others than its owner can change it: chmod go-w", mode))
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := checked("--config", link); status != 0 || !strings.Contains(out, "deadline = 1s\n") {
		t.Errorf("status %d, %s%s", status, out, errs)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 65534, 0); err != nil {
			t.Fatal(err)
		}
		fails(file, "belongs to user 65534, who could change it: chown root")
	}
	if text, err := readConfig(filepath.Join(folder, "missing"), false); text != nil || err != nil {
		t.Errorf("a file that nobody has named: %q, %v", text, err)
	}
}

// TestConfigExample: the example has a comment for each flag, and what it has in comments can be set.
func TestConfigExample(t *testing.T) {
	const example = "../../deploy/daemon.conf"
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := parseConfig(text); len(all) > 0 || err != nil {
		t.Errorf("it sets %v, %v", all, err)
	}
	all, err := parseConfig(regexp.MustCompile(`(?m)^#([a-z-]+ =)`).ReplaceAll(text, []byte("$1")))
	if err != nil {
		t.Fatal(err)
	}
	parser, err := newParser(io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	command := parser.Model.Children[slices.IndexFunc(parser.Model.Children, func(n *kong.Node) bool { return n.Name == "daemon" })]
	if want := configurable(command); !slices.Equal(names, want) {
		t.Errorf("the flags are\n%v, and it has\n%v", want, names)
	}
	if err := checkSettings("daemon", names, all); err != nil {
		t.Error(err)
	}
}

// FuzzConfig: a file is worth the same as its lines on the command line, and what --check prints the same as the file.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"deadline = 10s\nmount = /run/tsem\n", "# comment\n\n metrics\t=localhost:9560\r\n", "deadline=1h", "deadline = 1s\ndeadline = 1s",
		"metrics-config = /x", "mount==", "mount = --deadline=1s", "mount = -", "check = true", "mount = '/a'", "mount = /a\x01",
	} {
		f.Add([]byte(seed))
	}
	file := filepath.Join(f.TempDir(), "daemon.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		write := func(text []byte) {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(text)
		status, out, errs := checked("--config", file)
		all, err := parseConfig(text)
		if err != nil {
			if status != exitUsage || !strings.Contains(errs, err.Error()) {
				t.Fatalf("%q: %v, but status %d, %s", text, err, status, errs)
			}
			return
		}
		words := []string{"--config="}
		for _, s := range all {
			words = append(words, "--"+s.name+"="+s.value)
		}
		switch sameStatus, same, _ := checked(words...); {
		case status == 0 && (sameStatus != 0 || same != out):
			t.Fatalf("%q is\n%s, but %q\n%s", text, out, words, same)
		case status != 0:
			return // which may be of a flag that only the command line has
		}
		write([]byte(out))
		if status, again, errs := checked("--config", file); status != 0 || again != out {
			t.Fatalf("%q is\n%s, and that\n%s%s", text, out, again, errs)
		}
	})
}
