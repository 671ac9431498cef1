// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
)

type completionCommand struct {
	Shell string `arg:"" optional:"" enum:"bash,zsh,fish," default:"" help:"bash, zsh or fish; without it that of $$SHELL."`
}

// Help is shown below the flags.
func (completionCommand) Help() string {
	return `The shell then asks tsem-bpf for commands, flags and their values. What tsem-bpf
cannot know, such as files and the arguments of CMD, it completes as usual.

Examples:
  tsem-bpf completion bash >>~/.bashrc
  tsem-bpf completion zsh >>~/.zshrc
  tsem-bpf completion fish >~/.config/fish/completions/tsem-bpf.fish`
}

// What a shell has to be told; %[1]s is the path of tsem-bpf in the quotes of that shell. Each runs tsem-bpf with the line in
// COMP_LINE, and completes file names if there is no answer. Bash adds words to the command of complete -C, and zsh splits it
// at blanks in quotes too, but a function is one word and takes none.
var completions = map[string]string{
	"bash": `_tsem_bpf() { %[1]s __complete; }
complete -o default -C _tsem_bpf tsem-bpf
`,
	"zsh": `autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
_tsem_bpf() { %[1]s __complete; }
complete -o default -C _tsem_bpf tsem-bpf
`,
	"fish": `function __complete_tsem_bpf
    set -lx COMP_LINE (commandline -cp)
    set -l words (%[1]s __complete)
    if set -q words[1]
        printf '%%s\n' $words
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -f -c tsem-bpf -a "(__complete_tsem_bpf)"
`,
}

// script returns what a shell has to be told; ok says whether it is one of completions.
func script(shell, self string) (text string, ok bool) {
	quotes := strings.NewReplacer(`'`, `'\''`)
	if shell == "fish" {
		quotes = strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	}
	text, ok = completions[shell]
	return fmt.Sprintf(text, "'"+quotes.Replace(self)+"'"), ok
}

// Run implements the command.
func (c *completionCommand) Run(std *streams) error {
	shell := c.Shell
	if shell == "" {
		shell = filepath.Base(os.Getenv("SHELL"))
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the path of tsem-bpf: %w", err)
	}
	text, ok := script(shell, self)
	if !ok {
		return &exitError{exitUsage, fmt.Errorf("no completion for the shell %q: name bash, zsh or fish", shell)}
	}
	_, err = io.WriteString(std.out, text)
	return err
}

// completeCommand is what the completions call: only the variables would not do, for whatever runs below a completion
// has them in its environment.
type completeCommand struct{}

// Run implements the command.
func (completeCommand) Run(std *streams, given *kong.Context) error {
	for _, word := range complete(given.Model.Node, lineToCursor()) {
		if _, err := fmt.Fprintln(std.out, word); err != nil {
			return err
		}
	}
	return nil
}

// lineToCursor returns the part of the line up to the cursor (Programmable Completion in bash(1), complete -C).
func lineToCursor() string {
	line := os.Getenv("COMP_LINE")
	if at, err := strconv.Atoi(os.Getenv("COMP_POINT")); err == nil && at >= 0 && at < len(line) {
		line = line[:at]
	}
	return line
}

// complete returns what the last word of a line can be: a command, a flag, or the value
// of a flag or argument with a list of them. There is nothing for what tsem-bpf does not
// know, such as files and all that belongs to CMD. Quotes are not understood: behind a
// quoted blank there is no answer.
func complete(node *kong.Node, line string) []string {
	words := append(strings.Fields(line), "")
	if !strings.HasSuffix(line, " ") {
		words = words[:len(words)-1]
	}
	if len(words) < 2 {
		return nil
	}
	last := words[len(words)-1]
	var valueOf *kong.Flag // the flag whose value the next word is
	for _, word := range words[1 : len(words)-1] {
		switch {
		case valueOf != nil:
			valueOf = nil
		case word == "--":
			return nil
		case strings.HasPrefix(word, "-"):
			if flag := findFlag(node, word); flag != nil && !flag.IsBool() {
				valueOf = flag
			}
		default:
			i := slices.IndexFunc(node.Children, func(child *kong.Node) bool { return child.Name == word })
			if i < 0 {
				return nil
			}
			node = node.Children[i]
		}
	}
	if name, value, ok := strings.Cut(last, "="); ok && valueOf == nil {
		// To the shell the word begins behind the sign (COMP_WORDBREAKS in bash(1)).
		valueOf, last = findFlag(node, name), value
		if valueOf == nil {
			return nil
		}
	}
	return slices.DeleteFunc(candidates(node, valueOf, last), func(word string) bool {
		return word == "" || !strings.HasPrefix(word, last)
	})
}

// candidates returns all words that can stand at a place: values of a flag, or what a
// node has of commands, of flags if the word begins like one, and of values.
func candidates(node *kong.Node, valueOf *kong.Flag, last string) (words []string) {
	switch {
	case valueOf != nil:
		if words := valueOf.Tag.Get("words"); words != "" {
			return strings.Fields(words)
		}
		if valueOf.Tag.Get("list") == "events" {
			return listed(last)
		}
		return valueOf.EnumSlice()
	case strings.HasPrefix(last, "-"):
		for _, flag := range slices.Concat(node.AllFlags(true)...) {
			words = append(words, "--"+flag.Name)
		}
		return words
	}
	for _, child := range node.Children {
		if !child.Hidden {
			words = append(words, child.Name)
		}
	}
	for _, value := range node.Positional {
		words = append(words, value.EnumSlice()...)
		if value.Tag.Get("list") == "namespaces" {
			words = append(words, namespaces()...)
		}
	}
	return words
}

// namespaces returns the ids of the namespaces of this host, if who asks may know.
func namespaces() (ids []string) {
	engine, err := loader.Peek()
	if err != nil {
		return nil
	}
	defer engine.Close()
	for _, ns := range engine.States() {
		ids = append(ids, strconv.FormatUint(ns.Id, 10))
	}
	return ids
}

// listed returns what a list of event types can become by one more.
func listed(list string) (words []string) {
	before := list[:strings.LastIndexAny(list, ",!")+1]
	if !strings.HasSuffix(before, "!") { // which takes one type away
		words = append(words, before+"v3", before+"all")
	}
	for _, hook := range event.Hooks() {
		words = append(words, before+hook.String())
	}
	return words
}

// findFlag finds a flag of a command by the word that it is, "--name" or "-n".
func findFlag(node *kong.Node, word string) *kong.Flag {
	for _, flag := range slices.Concat(node.AllFlags(true)...) {
		if word == "--"+flag.Name || flag.Short != 0 && word == "-"+string(flag.Short) {
			return flag
		}
	}
	return nil
}
