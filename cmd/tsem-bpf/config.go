// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

const (
	// defaultConfig is read if it is there and --config names no other file.
	defaultConfig = "/etc/tsem-bpf/daemon.conf"
	// maxConfig is more than all flags with a comment for each take.
	maxConfig = 64 << 10
)

// configFlags say which file the flags of a command can stand in, beside the command line.
type configFlags struct {
	Config *string `placeholder:"FILE" help:"Take flags from this file, one on each line: name = value, where the name is that of a flag without --. The command line wins. Nobody but root, or the user who runs tsem-bpf, may be able to write to it (default ${config}, if it is there; empty: none)."`
	Check  bool    `help:"Only check all flags, print them in the form of such a file, and exit."`
}

// notInConfig are the flags that make no sense in such a file.
var notInConfig = []string{"config", "check"}

// setting is a line of a configuration file.
type setting struct {
	line        int // from 1 on
	name, value string
}

// parseConfig returns the settings of a configuration file, in its order. Only the form is checked, and that no name comes
// twice: what there can be checkSettings knows.
func parseConfig(text []byte) (all []setting, err error) {
	if len(text) > maxConfig {
		return nil, fmt.Errorf("more than %d KiB", maxConfig>>10)
	}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		s, err := parseSetting(string(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		s.line = number
		if i := slices.IndexFunc(all, func(before setting) bool { return before.name == s.name }); i >= 0 {
			return nil, fmt.Errorf("line %d: %s is set in line %d already", number, s.name, all[i].line)
		}
		all = append(all, s)
	}
	return all, nil
}

// parseSetting parses a line that is neither empty nor a comment.
func parseSetting(line string) (s setting, err error) {
	if i := strings.IndexFunc(line, func(c rune) bool { return c == utf8.RuneError || unicode.IsControl(c) && c != '\t' }); i >= 0 {
		return s, errors.New("is not text in UTF-8 without control characters")
	}
	name, value, ok := strings.Cut(line, "=")
	s.name, s.value = strings.TrimSpace(name), strings.TrimSpace(value)
	switch {
	case !ok || s.name == "" || strings.ContainsFunc(s.name, unicode.IsSpace):
		// What it says may be nobody's business, if this is another file.
		return s, errors.New("is neither name = value, nor empty, nor begins with #")
	case s.value == "":
		return s, fmt.Errorf("%s has no value: leave the line out for the default", s.name)
	case strings.ContainsAny(s.value[:1], `"'`):
		return s, fmt.Errorf("%s begins with a quote: a value stands without, and goes to the end of the line", s.name)
	}
	return s, nil
}

// checkSettings checks each setting as the flag that it stands for, so that an error can name its line. command is the name of
// the command, names are those of its flags.
func checkSettings(command string, names []string, all []setting) error {
	parser, err := newParser(io.Discard, io.Discard, func(int) {})
	if err != nil {
		return err
	}
	for _, s := range all {
		if !slices.Contains(names, s.name) {
			return fmt.Errorf("line %d: %q is none of %s", s.line, s.name, strings.Join(names, " "))
		}
		if _, err := parser.Parse([]string{command, "--config=", "--" + s.name + "=" + s.value}); err != nil {
			return fmt.Errorf("line %d: %w", s.line, err)
		}
	}
	return nil
}

// readConfig reads a file that decides about security: no other user can have written it. It may be missing if it is not named.
func readConfig(path string, named bool) ([]byte, error) {
	// A FIFO would wait for somebody.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if !named && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cause(err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, err
	}
	switch {
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("is no regular file")
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return nil, fmt.Errorf("belongs to user %d, who could change it: chown root", stat.Uid)
	case stat.Mode&0o022 != 0:
		return nil, fmt.Errorf("has mode %04o, with which others than its owner can change it: chmod go-w", stat.Mode&0o7777)
	}
	return io.ReadAll(io.LimitReader(file, maxConfig+1))
}

// BeforeResolve is called by kong, when the command line was parsed and before what is missing there gets its value.
func (c *configFlags) BeforeResolve(ctx *kong.Context) error {
	path, named := defaultConfig, false
	for _, trace := range ctx.Path {
		if trace.Flag != nil && trace.Flag.Name == "config" {
			path, named = *ctx.FlagValue(trace.Flag).(*string), true
		}
	}
	if path == "" {
		return nil
	}
	text, err := readConfig(path, named)
	var all []setting
	if err == nil {
		all, err = parseConfig(text)
	}
	if err == nil {
		err = checkSettings(ctx.Selected().Name, configurable(ctx.Selected()), all)
	}
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	values := make(map[string]string)
	for _, s := range all {
		values[s.name] = s.value
	}
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if value, ok := values[flag.Name]; ok {
			return value, nil
		}
		return nil, nil
	}))
	return nil
}

// configurable returns the names of the flags of a command that can stand in a configuration file.
func configurable(command *kong.Node) (names []string) {
	for _, flag := range command.Flags {
		if !slices.Contains(notInConfig, flag.Name) {
			names = append(names, flag.Name)
		}
	}
	return names
}

// printConfig prints what the flags of a command are as a configuration file; those that have no value, or no effect, are left out.
// A value that such a file cannot have is an error, and nothing is printed.
func printConfig(w io.Writer, command *kong.Node, unused func(flag string) bool) error {
	var text bytes.Buffer
	for _, flag := range command.Flags {
		value := reflect.Indirect(flag.Target)
		if slices.Contains(notInConfig, flag.Name) || unused(flag.Name) || !value.IsValid() || fmt.Sprint(value) == "" {
			continue
		}
		line := fmt.Sprintf("%s = %v", flag.Name, value)
		if s, err := parseSetting(line); err != nil || s.value != fmt.Sprint(value) {
			return &exitError{exitUsage, fmt.Errorf("--%s=%v: cannot stand in a configuration file: "+
				"there a value is UTF-8 without control characters, does not begin with a quote, and neither begins nor ends with a blank", flag.Name, value)}
		}
		text.WriteString(line + "\n")
	}
	_, err := text.WriteTo(w)
	return err
}
