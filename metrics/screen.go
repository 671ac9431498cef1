// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

// Line is one line of a screen.
type Line struct {
	Text   string // ASCII: each byte takes one column
	Strong bool   // to be seen first: a problem, or the head of a table
}

// Screen returns what a terminal of so many columns and rows shows of a host, the most important
// first: what happened between two snapshots, and what is. What does not fit is left out as a whole,
// and of rows it says how many; with 0 there is no limit. before is nil, or of another kernel half,
// where nothing is known of the time before: then rates are shown as "-". What has never
// happened in the namespaces that there are is left out.
//
// Only what the kernel half counts can be shown. The types of events and how long decisions took are
// known to keepers alone (Own).
func Screen(before, now *Snapshot, columns, rows int) []Line {
	columns, rows = limit(columns), limit(rows)
	s := &screen{now: now, before: make(map[uint64]*bpf.Namespace), columns: columns, waiting: now.waiting()}
	if before != nil && before.Status.ID == now.Status.ID {
		s.seconds = (now.Mono - before.Mono).Seconds()
		for i := range before.States {
			s.before[before.States[i].Id] = &before.States[i]
		}
		s.runs = before.Runs
	}
	found := now.Problems()
	lines := s.summary(len(found))
	room := rows - len(lines)
	if room >= 2*leastTable {
		room /= 2
	}
	lines = append(lines, fit(s.problems(found), room)...)
	namespaces, programs := s.namespaces(), s.programs()
	room = rows - len(lines)
	if room >= 3*leastTable {
		room = max(room*2/3, room-len(programs))
	}
	for _, table := range [][]Line{fit(namespaces, room), programs} {
		if room = rows - len(lines); room >= leastTable {
			lines = append(lines, fit(table, room)...)
		}
	}
	lines = lines[:min(len(lines), rows)]
	for i, l := range lines {
		lines[i].Text = l.Text[:min(len(l.Text), columns)]
	}
	return lines
}

// leastTable is how many rows a table takes that says something: an empty one, the head and one more.
const leastTable = 3

func limit(n int) int {
	if n == 0 {
		return math.MaxInt32
	}
	return n
}

// fit returns as many lines as there is room for, and says at the end how many there are more.
func fit(lines []Line, room int) []Line {
	if len(lines) <= room {
		return lines
	}
	if room < 1 {
		return nil
	}
	return append(slices.Clip(lines[:room-1]), Line{Text: fmt.Sprintf("... %d more", len(lines)-room+1)})
}

// screen is one that is being made.
type screen struct {
	now     *Snapshot
	seconds float64                   // since the snapshot before; 0: there is none
	before  map[uint64]*bpf.Namespace // by id; ids are not given again
	runs    []loader.ProgramStatus    // then
	waiting map[uint64]waits
	columns int
}

// rate returns how often something happened in a second.
func (s *screen) rate(count uint64) string {
	if s.seconds == 0 {
		return "-"
	}
	return decimal(float64(count) / s.seconds)
}

// decimal writes a number with one decimal, and nothing as 0, so that what is not nothing is seen.
func decimal(n float64) string {
	if n == 0 {
		return "0"
	}
	return strconv.FormatFloat(n, 'f', 1, 64)
}

// since returns a counter of a namespace, and how much of it is from the time after the snapshot
// before. A namespace that was not in it is younger.
func (s *screen) since(ns *bpf.Namespace, counter func(*bpf.Namespace) uint64) (total, change uint64) {
	total = counter(ns)
	if old := s.before[ns.Id]; old != nil {
		// One that was just being made may have had the counters of its predecessor at the index.
		return total, total - min(total, counter(old))
	}
	return total, total
}

// sums returns the same of all namespaces.
func (s *screen) sums(counter func(*bpf.Namespace) uint64) (total, change uint64) {
	for i := range s.now.States {
		t, c := s.since(&s.now.States[i], counter)
		total, change = total+t, change+c
	}
	return total, change
}

func raised(ns *bpf.Namespace) uint64    { return ns.Raised }
func delivered(ns *bpf.Namespace) uint64 { return ns.Delivered }
func refused(ns *bpf.Namespace) uint64   { return loader.StatusOf(ns).Refused }

// summary returns the lines about the whole host.
func (s *screen) summary(problems int) []Line {
	status := s.now.Status
	health := "healthy"
	if problems > 0 {
		health = "not healthy"
	}
	var tasks uint64
	for i := range s.now.States {
		tasks += s.now.States[i].Tasks
	}
	return []Line{
		{Text: s.fields("tsem-bpf", health, "kernel half "+status.ID, "tier "+string(status.Tier), "kernel "+s.now.Support.Kernel)},
		{Text: s.fields("host", fmt.Sprint(len(s.now.States), " namespaces"), fmt.Sprint(tasks, " tasks"), fmt.Sprint(len(status.Keepers), " keepers"),
			fmt.Sprintf("%.1f MiB of maps", float64(status.Memory)/(1<<20)))},
		{Text: s.fields("waiting", s.waits()...)},
		{Text: s.fields("events/s", s.events()...)},
		{Text: s.fields("refused", s.refusals()...)},
		{Text: s.fields("verdicts/s", s.verdicts()...)},
	}
}

// fields returns a line of as many fields as fit.
func (s *screen) fields(name string, fields ...string) string {
	line := fmt.Sprintf("%-10s", name)
	for _, field := range fields {
		if len(line)+2+len(field) > s.columns {
			break
		}
		line += "  " + field
	}
	return line
}

// waits says who waits for a verdict, and with which events.
func (s *screen) waits() []string {
	tasks, longest := s.now.Waiting()
	if tasks == 0 {
		return []string{"nobody"}
	}
	hooks := make(map[string]int)
	for _, w := range s.now.Waits {
		hooks[event.Hook(w.Hook).String()]++
	}
	fields := []string{fmt.Sprintf("%d tasks", tasks), fmt.Sprintf("the first for %.1f s", longest.Seconds())}
	for _, hook := range slices.SortedFunc(maps.Keys(hooks), func(a, b string) int {
		return cmp.Or(hooks[b]-hooks[a], strings.Compare(a, b))
	}) {
		fields = append(fields, fmt.Sprint(hooks[hook], " ", hook))
	}
	return fields
}

// events says what became of events.
func (s *screen) events() (fields []string) {
	for _, c := range []struct {
		name    string
		counter func(*bpf.Namespace) uint64
	}{
		{"raised", raised}, {"delivered", delivered}, {"refused", refused},
		{"delayed", func(ns *bpf.Namespace) uint64 { return ns.Waited }},
		{"untrusted", func(ns *bpf.Namespace) uint64 { return ns.Logged }},
		{"denied", func(ns *bpf.Namespace) uint64 { return ns.Denied }},
		{"cut", func(ns *bpf.Namespace) uint64 { return ns.Cut }},
	} {
		if total, change := s.sums(c.counter); total > 0 || len(fields) == 0 {
			fields = append(fields, s.rate(change)+" "+c.name)
		}
	}
	return fields
}

// refusals says how many events were refused for which reason, from the beginning: a single one
// matters.
func (s *screen) refusals() (fields []string) {
	for reason, name := range bpf.Refusals {
		if total, _ := s.sums(func(ns *bpf.Namespace) uint64 { return ns.Refused[reason] }); total > 0 {
			fields = append(fields, fmt.Sprint(total, " ", name))
		}
	}
	if fields == nil {
		return []string{"none"}
	}
	return fields
}

// verdicts says what the tasks that waited have found.
func (s *screen) verdicts() (fields []string) {
	for i, name := range verdictLabel.values {
		v := int(verdict.Trusted) + i
		if total, change := s.sums(func(ns *bpf.Namespace) uint64 { return ns.Verdicts[v] }); total > 0 {
			fields = append(fields, s.rate(change)+" "+name)
		}
	}
	if fields == nil {
		return []string{"none"}
	}
	return fields
}

// problems returns what is wrong, in words.
func (s *screen) problems(found []Problem) (lines []Line) {
	for _, p := range found {
		line := "!"
		for word := range strings.FieldsSeq(p.Text) {
			if len(line)+1+len(word) > s.columns {
				lines = append(lines, Line{line, true})
				line = " "
			}
			line += " " + word
		}
		lines = append(lines, Line{line, true})
	}
	return lines
}

// A column of a table.
type column struct {
	head  string
	words bool // aligned at the left; numbers are at the right
}

// table returns an empty line, the head and the rows, with as many columns as fit.
func (s *screen) table(columns []column, rows [][]string) []Line {
	lines := make([]Line, 2+len(rows))
	lines[1].Strong = true
	used, gap := 0, 0
	for i, c := range columns {
		width := len(c.head)
		for _, row := range rows {
			width = max(width, len(row[i]))
		}
		if used += gap + width; used > s.columns {
			break
		}
		if c.words {
			width = -width // as the flag "-" of Printf
		}
		lines[1].Text += fmt.Sprintf("%*s%*s", gap, "", width, c.head)
		for k, row := range rows {
			lines[2+k].Text += fmt.Sprintf("%*s%*s", gap, "", width, row[i])
		}
		gap = 1
	}
	return lines
}

// namespaces returns the table of them, the busiest first.
func (s *screen) namespaces() []Line {
	states := slices.Clone(s.now.States)
	slices.SortFunc(states, func(a, b bpf.Namespace) int {
		_, ofA := s.since(&a, raised)
		_, ofB := s.since(&b, raised)
		return cmp.Or(cmp.Compare(ofB, ofA), cmp.Compare(a.Id, b.Id))
	})
	var rows [][]string
	for i := range states {
		ns := &states[i]
		status := loader.StatusOf(ns)
		_, in := s.since(ns, raised)
		_, out := s.since(ns, delivered)
		w := s.waiting[ns.Id]
		longest, keeper, magazine := "-", "-", "-"
		if w.tasks > 0 {
			longest = fmt.Sprintf("%.1f s", w.longest.Seconds())
		}
		if status.Keeper != 0 {
			keeper = id(uint64(status.Keeper))
		}
		if all, _ := unread(ns); ns.Magazine > 0 {
			magazine = fmt.Sprintf("%.0f %%", 100*float64(all)/float64(ns.Magazine-ns.Reserve))
		}
		rows = append(rows, []string{
			id(ns.Id), status.Kind(), id(ns.Tasks), s.rate(in), s.rate(out), id(w.tasks), longest, keeper, id(status.Refused), magazine,
		})
	}
	return s.table([]column{
		{head: "NAMESPACE"}, {"KIND", true}, {head: "TASKS"}, {head: "RAISED/S"}, {head: "DELIVERED/S"}, {head: "WAITING"}, {head: "FIRST"},
		{head: "KEEPER"}, {head: "REFUSED"}, {head: "MAGAZINE"},
	}, rows)
}

// programs returns the table of those that ran since the snapshot before, the busiest first; without
// one there is none.
func (s *screen) programs() []Line {
	if s.seconds == 0 {
		return nil
	}
	old := make(map[string]loader.ProgramStatus)
	for _, p := range s.runs {
		old[p.Name] = p
	}
	var ran []loader.ProgramStatus
	for _, p := range s.now.Runs {
		before := old[p.Name]
		if p.Runs < before.Runs || p.Skipped < before.Skipped {
			before = loader.ProgramStatus{} // it was loaded anew, and counts from nothing
		}
		p.Runs, p.Time, p.Skipped = p.Runs-before.Runs, p.Time-before.Time, p.Skipped-before.Skipped
		if p.Runs+p.Skipped > 0 {
			ran = append(ran, p)
		}
	}
	if ran == nil {
		return []Line{{}, {Text: s.fields("programs", "no run was counted", "(sysctl kernel.bpf_stats_enabled)")}}
	}
	slices.SortFunc(ran, func(a, b loader.ProgramStatus) int {
		return cmp.Or(cmp.Compare(b.Runs, a.Runs), strings.Compare(a.Name, b.Name))
	})
	var rows [][]string
	for _, p := range ran {
		average := "-"
		if p.Runs > 0 {
			average = decimal(p.Time.Seconds() * 1e6 / float64(p.Runs))
		}
		rows = append(rows, []string{p.Name, s.rate(p.Runs), average, s.rate(p.Skipped)})
	}
	return s.table([]column{{"PROGRAM", true}, {head: "RUNS/S"}, {head: "US/RUN"}, {head: "SKIPPED/S"}}, rows)
}
