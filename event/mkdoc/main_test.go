// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tsem-bpf/tsem-bpf/event"
)

const checkout = "../.."

func thePage(t *testing.T) *page {
	t.Helper()
	p, err := newPage(checkout)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(checkout, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestPage: docs/events.md is what go generate makes it.
func TestPage(t *testing.T) {
	want, err := thePage(t).markdown()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file(t, pageFile), want) {
		t.Errorf("%s is not up to date: go generate ./event", pageFile)
	}
}

// TestEntries: the page has each event of the event table once, with all that belongs to it.
func TestEntries(t *testing.T) {
	here := make(map[string]bool)
	for _, e := range thePage(t).All {
		here[e.Name] = true
		for _, m := range e.Members {
			if m.Form == "" || m.Meaning == "" {
				t.Errorf("%s: %s has the form %q and the meaning %q", e.Name, m.Name, m.Form, m.Meaning)
			}
		}
		if !json.Valid([]byte(e.Object())) {
			t.Errorf("%s: the example is %s", e.Name, e.Object())
		}
	}
	for _, hook := range event.Hooks() {
		if !here[hook.String()] {
			t.Errorf("the page lacks %s", hook)
		}
	}
}

// TestReadme: the numbers of README.md are those of the page.
func TestReadme(t *testing.T) {
	p, readme := thePage(t), string(file(t, "README.md"))
	for _, want := range []string{
		fmt.Sprintf("These are the %d events of TSEM v3", len(p.V3())), fmt.Sprintf("and %d of later versions", len(p.Later())),
	} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.md lacks %q", want)
		}
	}
	cells := regexp.MustCompile(`\| (\d+ of \d+) \|\n`).FindAllStringSubmatch(readme, -1)
	if len(cells) != len(p.Kernels) {
		t.Fatalf("README.md has numbers of hooks for %d kernels, %s has %d kernels", len(cells), waitsFile, len(p.Kernels))
	}
	for i, cell := range cells {
		present := 0
		for _, e := range p.V3() {
			if e.Kinds[i] != "–" {
				present++
			}
		}
		if want := fmt.Sprintf("%d of %d", present, len(p.V3())); cell[1] != want {
			t.Errorf("README.md says %s of kernel %s, want %s", cell[1], p.Kernels[i], want)
		}
	}
}

// TestContradictions: what the page would be made of does not fit together.
func TestContradictions(t *testing.T) {
	waits := string(file(t, waitsFile))
	for name, test := range map[string]struct{ replace, by, want string }{
		"an event without row":    {"| capget |", "| other |", "capget is not in docs/waits.md"},
		"a row without event":     {"| capget |", "| x | no | no | no |\n| capget |", "x is in docs/waits.md, and no event of TSEM"},
		"a word of another table": {"| capget | no |", "| capget | maybe |", `capget has "maybe"`},
		"a cell is missing":       {"| capget | no |", "| capget |", "capget has 2 cells for 3 kernels"},
		"a kernel of tier export": {"6.1 (poll)", "6.1 (export)", "on 6.1 nothing waits"},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "docs"), 0o755); err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(waits, test.replace, test.by, 1)
		if err := os.WriteFile(filepath.Join(dir, waitsFile), []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := newPage(dir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}
