// SPDX-License-Identifier: Apache-2.0

// Command mkdoc writes docs/events.md in the checkout that it is given. What the page says of
// an event has one place each: which events there are, the event table (package event); what
// they are, their members and an example, the specification (package eventtest); what they are on
// the kernels of the tests, docs/waits.md, which was asked of these kernels; which hooks raise
// them, the programs in bpf/hooks. What is no event, though it seems to be one, is in notes.go, and
// all other text in events.md.tmpl.
package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/event/eventtest"
)

func main() {
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "mkdoc:", err)
		os.Exit(1)
	}
}

func write(checkout string) error {
	p, err := newPage(checkout)
	if err != nil {
		return err
	}
	text, err := p.markdown()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(checkout, pageFile), text, 0o644)
}

// Files of the checkout.
const (
	pageFile  = "docs/events.md"
	waitsFile = "docs/waits.md"
	programs  = "bpf/hooks/*.c"
)

// A page is what the template makes docs/events.md of.
type page struct {
	Kernels []string // the names of the columns
	All     []entry  // every event, in the order of the ordinals: those of TSEM v3, and then later ones
}

// V3 returns the events of TSEM v3.
func (p *page) V3() []entry { return p.events(false) }

// Later returns the events of later versions.
func (p *page) Later() []entry { return p.events(true) }

func (p *page) events(later bool) []entry {
	return slices.DeleteFunc(slices.Clone(p.All), func(e entry) bool { return e.Later != later })
}

// An entry is one event.
type entry struct {
	eventtest.Specified
	note

	Kinds   []string // of its records, by kernel
	Others  []string // hooks that raise it beside its own
	Members []member
}

// A member of the object of an event, or of an object in it.
type member struct{ Name, Form, Meaning string }

// newPage brings together what a checkout says. The error names what contradicts what.
func newPage(checkout string) (*page, error) {
	all, err := eventtest.All()
	if err != nil {
		return nil, err
	}
	kernels, kinds, err := readWaits(filepath.Join(checkout, waitsFile))
	if err != nil {
		return nil, err
	}
	others, err := readOthers(filepath.Join(checkout, programs))
	if err != nil {
		return nil, err
	}
	p := &page{Kernels: kernels}
	for _, s := range all {
		if s.ExportType == "" {
			continue
		}
		if hook, ok := event.Lookup(s.Name); !ok || uint16(hook) != s.Ordinal {
			return nil, fmt.Errorf("%s is %d in the event table, and specified as %d", s.Name, hook, s.Ordinal)
		}
		e := entry{Specified: s, note: notes[s.Name], Kinds: kinds[s.Name], Others: others[s.Name]}
		if e.Kinds == nil {
			return nil, fmt.Errorf("%s is not in %s; make wait-table makes that", s.Name, waitsFile)
		}
		e.Members = members(&s, s.Shape, "")
		p.All = append(p.All, e)
		delete(kinds, s.Name)
	}
	for name := range kinds {
		return nil, fmt.Errorf("%s is in %s, and no event of TSEM", name, waitsFile)
	}
	for name := range notes {
		if _, here := event.Lookup(name); !here {
			return nil, fmt.Errorf("%s has a note, and is not in the event table", name)
		}
	}
	return p, nil
}

// readWaits returns the kernels of docs/waits.md and the kind that the records of each event
// have there: those that wait are an `event`, and where a kernel lets others wait, all else is
// an `async_event`.
func readWaits(name string) (kernels []string, kinds map[string][]string, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	kinds = make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		line, isRow := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if !isRow {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(line, " |"), " | ")
		event, cells := cells[0], cells[1:]
		for i, cell := range cells {
			var tier string
			switch {
			case event == "hook":
				cell, tier, _ = strings.Cut(cell, " (")
				if tier == "export)" {
					return nil, nil, fmt.Errorf("%s: on %s nothing waits: what waits does not tell kinds of records", name, cell)
				}
			case cell == "waits":
				cell = "`event`"
			case cell == "no":
				cell = "`async_event`"
			case cell != "–":
				return nil, nil, fmt.Errorf("%s: %s has %q", name, event, cell)
			}
			cells[i] = cell
		}
		if event == "hook" {
			kernels = cells
			continue
		}
		if len(cells) != len(kernels) {
			return nil, nil, fmt.Errorf("%s: %s has %d cells for %d kernels", name, event, len(cells), len(kernels))
		}
		kinds[event] = cells
	}
	return kernels, kinds, nil
}

// An event that is raised in another hook than its own has this macro (bpf/event.h).
var raisedElsewhere = regexp.MustCompile(`int BPF_PROG\((\w+),[^{}]*\)\n\{\n\tEVENT_ATOMIC\(e, (\w+),`)

// readOthers returns the hooks that raise the event of another hook, by that event.
func readOthers(pattern string) (map[string][]string, error) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	others := make(map[string][]string)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for _, m := range raisedElsewhere.FindAllStringSubmatch(string(text), -1) {
			others[m[2]] = append(others[m[2]], m[1])
		}
	}
	return others, nil
}

// A member of a layout, which may be in brackets: a name, and a format, the name of an object, or an object
// in braces.
var memberOf = regexp.MustCompile(`(\[(?:, )?)?"(\w+)": +([^{\[\],]+|\{[^}]*\})`)

// members returns the members in a layout, with those of objects that have no name of their own. Their paths
// have a prefix.
func members(s *eventtest.Specified, layout, prefix string) (all []member) {
	layout = strings.TrimSuffix(strings.TrimPrefix(layout, "{"), "}")
	for _, m := range memberOf.FindAllStringSubmatch(layout, -1) {
		optional, name, form := m[1] != "", prefix+m[2], m[3]
		if form[0] == '{' {
			all = append(all, members(s, form, name+".")...)
			continue
		}
		found := member{Name: name, Form: form}
		if about, isObject := objects[form]; isObject {
			found.Form, found.Meaning = "["+form+"](#members)", about.of(s, name)
			if optional {
				found.Form += ", not always"
			}
		} else {
			p := param(s, name)
			found.Form, found.Meaning = forms[p.Format+p.Encoding], p.Meaning
			if p.When != "" {
				found.Form += ", if " + p.When
			}
		}
		all = append(all, found)
	}
	return all
}

// param returns a value of an event.
func param(s *eventtest.Specified, path string) eventtest.Param {
	i := slices.IndexFunc(s.Params, func(p eventtest.Param) bool { return p.Path == path })
	if i < 0 {
		panic("events.json: " + s.Name + " has no " + path)
	}
	return s.Params[i]
}

// forms are the formats of the specification (sections 2.2 and 2.3) in words; in the object of an event, and
// not below it, each digest is a TASK_ID.
var forms = map[string]string{
	"%u": "number", "%lu": "number of 64 bits", "%llu": "number of 64 bits", "%d": "signed number", "%ld": "signed number of 64 bits",
	"0%o": "octal", "0x%llx": "hexadecimal", "%*phN": "TASK_ID", "%s": "text", "%sbase64": "base64",
}

// An object of section 4 of the specification says by the meaning of one of its values whose it is: what comes
// behind certain words.
type object struct{ value, behind string }

var objects = map[string]object{
	"FILE": {".flags", " of "}, "INODE": {".uid", " owns "}, "PATH": {".pathname", " of "}, "DENTRY": {".path.pathname", " of "},
	"SOCK": {".family", " of "}, "IPCPERM": {".uid", " of "}, "CREDS": {".uid", " of "},
	"ADDR": {}, // has no value that is always there
}

// of returns what an object is of.
func (o object) of(s *eventtest.Specified, name string) string {
	if o.value == "" {
		return "the address"
	}
	_, whose, found := strings.Cut(param(s, name+o.value).Meaning, o.behind)
	if !found {
		panic("events.json: " + s.Name + "." + name + o.value + " does not tell what it is of")
	}
	return whose
}

// Kind returns what the records of an event are, in one phrase.
func (p *page) Kind(e entry) string {
	var phrase string
	if kinds := slices.Compact(slices.Clone(e.Kinds)); len(kinds) == 1 {
		phrase = kinds[0]
	} else {
		var each []string
		for i, kind := range e.Kinds {
			each = append(each, kind+" on "+p.Kernels[i])
		}
		phrase = strings.Join(each, ", ")
	}
	if v3 := "`" + e.ExportType + "`"; !e.Later && v3 != phrase {
		phrase += "; TSEM v3: " + v3
	}
	return phrase
}

// Section returns where the specification has the event.
func (e entry) Section() string {
	if e.Later {
		return "71-event-types-beyond-v3"
	}
	return fmt.Sprintf("5%d-%s", e.Ordinal, e.Name)
}

// Object returns the object of the event in the example of the specification.
func (e entry) Object() string {
	name := `"` + e.Name + `": `
	_, body, _ := strings.Cut(e.Example, `, `+name)
	return "{" + name + body
}

//go:embed events.md.tmpl
var text string

func (p *page) markdown() ([]byte, error) {
	t, err := template.New("events.md").Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, p)
	return b.Bytes(), err
}
