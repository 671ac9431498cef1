// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	grafana "github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

const dashboardFile = "../deploy/grafana/tsem-bpf.json"

// A dashboard is what is checked of one: the classic JSON model of Grafana.
type dashboard struct {
	UID        string
	Title      string
	Templating struct{ List []variable }
	Panels     []panel
}

type variable struct {
	Name       string
	Type       string
	Query      any
	Definition string
	Datasource datasource
}

type datasource struct{ Type, UID string }

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Datasource  datasource
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []target
}

type target struct {
	RefID        string
	Datasource   datasource
	Expr         string
	LegendFormat string
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// chosen is the datasource that the user chooses.
var chosen = datasource{"prometheus", "${datasource}"}

// TestDashboard: Grafana can show it: panels have names and places of their own, and say what they
// show; docs/monitoring.md says it of each row.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	docs, err := os.ReadFile("../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || len(d.Panels) == 0 {
		t.Errorf("uid %q, title %q, %d panels", d.UID, d.Title, len(d.Panels))
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "query" && v.Datasource != chosen {
			t.Errorf("variable %s asks %v", v.Name, v.Datasource)
		}
	}
	if !slices.Equal(variables, []string{"datasource", "instance"}) {
		t.Errorf("the variables are %v", variables)
	}
	const width = 24 // of Grafana's grid
	names := make(map[string]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		for _, name := range []string{fmt.Sprint("id ", p.ID), "title " + p.Title} {
			if names[name] {
				t.Errorf("there are two panels with %s", name)
			}
			names[name] = true
		}
		g := p.GridPos
		if g.H <= 0 || g.W <= 0 || g.X < 0 || g.Y < 0 || g.X+g.W > width {
			t.Errorf("%s: %+v is no place", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Title == "" {
			t.Errorf("panel %d has no title", p.ID)
		}
		if p.Type == "row" {
			if !strings.Contains(string(docs), "\n| "+p.Title+" | ") {
				t.Errorf("docs/monitoring.md does not say what is in the row %s", p.Title)
			}
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource != chosen || len(p.Targets) == 0 {
			t.Errorf("%s: description %q, unit %q, datasource %v, %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, p.Datasource, len(p.Targets))
		}
		for _, q := range p.Targets {
			if name := fmt.Sprint(p.ID, " ", q.RefID); q.RefID == "" || names[name] || q.Datasource != chosen {
				t.Errorf("%s: query %q asks %v", p.Title, q.RefID, q.Datasource)
			} else {
				names[name] = true
			}
		}
	}
}

// TestDashboardSchema: the dashboard, the options of its panels and its queries are what Grafana's schema says, with
// nothing left out and nothing beside.
func TestDashboardSchema(t *testing.T) {
	plugins.RegisterDefaultPlugins() // whose schemas are those of options and queries
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSchema(text); err != nil {
		t.Error(err)
	}
	for _, test := range []struct{ right, wrong, want string }{
		{`"graphTooltip"`, `"graphTooltips"`, "unexpected field 'graphTooltips'"},
		{`"showHeader": true`, `"showHeader": "yes"`, "options.showHeader: json: cannot unmarshal string"},
		{`"expr"`, `"expression"`, "targets[0]"},
		{`"type": "stat"`, `"type": "statistics"`, "no schema of panels of type statistics"},
	} {
		changed := bytes.Replace(text, []byte(test.right), []byte(test.wrong), 1)
		if err := checkSchema(changed); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.wrong, err, test.want)
		}
	}
}

// checkSchema says what is wrong with a dashboard.
func checkSchema(text []byte) error {
	var parts dashboard
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	for _, p := range parts.Panels {
		if _, known := cog.ConfigForPanelcfgVariant(p.Type); !known && p.Type != "row" {
			return fmt.Errorf("no schema of panels of type %s", p.Type)
		}
	}
	err := new(grafana.Dashboard).UnmarshalJSONStrict(text)
	if wrong := cog.BuildErrors(nil); errors.As(err, &wrong) && len(wrong) == 0 {
		return nil // an empty list
	}
	return err
}

// TestDashboardQueries: what the dashboard asks for is there, with these labels and values.
func TestDashboardQueries(t *testing.T) {
	d := readDashboard(t)
	for _, v := range d.Templating.List {
		if v.Type == "query" && v.Definition != "label_values("+engineInfo.name+", instance)" {
			t.Errorf("variable %s is %s", v.Name, v.Definition)
		}
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			if err := checkQuery(q); err != nil {
				t.Errorf("%s: %s: %v", p.Title, q.Expr, err)
			}
		}
	}
}

// TestDashboardCheck: what is wrong with a query is found.
func TestDashboardCheck(t *testing.T) {
	for _, test := range []struct{ expr, legend, want string }{
		{`max by (engine, namespace) (tsem_tasks{instance=~"$instance"})`, "{{namespace}}", ""},
		{`max by (engine, namespace) (tsem_tasks{instance=~"$instance"}`, "", "unclosed left parenthesis"},
		{`max by (engine, namespace) (tsem_task{instance=~"$instance"})`, "", "there is no tsem_task"},
		{`max by (engine, namespace) (tsem_tasks)`, "", "not of the instances that are chosen"},
		{`max by (engine, namespace) (tsem_tasks{instance=~"$instance",verdict="late"})`, "", "no label verdict"},
		{`max by (engine, namespace, verdict) (rate(tsem_verdicts_total{instance=~"$instance",verdict=~"late|never"}[$__rate_interval]))`, "", "never is no verdict"},
		{`max by (engine, namespace, hook) (tsem_tasks{instance=~"$instance"})`, "", "no label hook"},
		{`max by (engine, namespace) (tsem_tasks{instance=~"$instance"})`, "{{hook}}", "no label hook"},
		{`sum by (engine) (tsem_tasks{instance=~"$instance"})`, "", "counted twice"},
		{`max by (engine) (tsem_tasks{instance=~"$instance"})`, "", "counted twice"},
		{`sum(tsem_keeper_agent_failed{instance=~"$instance"})`, "", ""},
		{`tsem_keeper_events_written_total{instance=~"$instance"}`, "", "a counter without rate"},
		{`rate(tsem_keeper_events_written_total{instance=~"$instance"}[5m])`, "", "not over $__rate_interval"},
		{`rate(tsem_keeper_agent_failed{instance=~"$instance"}[$__rate_interval])`, "", "no counter"},
		{`rate(tsem_keeper_decision_seconds{instance=~"$instance"}[$__rate_interval])`, "", "there is no tsem_keeper_decision_seconds"},
		{`sum by (le) (rate(tsem_keeper_decision_seconds_bucket{instance=~"$instance"}[$__rate_interval]))`, "", ""},
	} {
		err := checkQuery(target{Expr: test.expr, LegendFormat: test.legend})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.expr, err, test.want)
		}
	}
}

// ofTarget are the labels that Prometheus adds to each series.
var ofTarget = []string{"instance", "job"}

// interval stands for Grafana's variable, and for nothing else.
const interval = 1234567 * time.Second

// checkQuery says what is wrong with a query.
func checkQuery(q target) error {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(q.Expr, "$__rate_interval", fmt.Sprintf("%.0fs", interval.Seconds())))
	if err != nil {
		return err
	}
	shown := labelsOf(expr)
	for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(q.LegendFormat, -1) {
		if !slices.Contains(shown, label[1]) {
			return fmt.Errorf("the legend: no label %s", label[1])
		}
	}
	var wrong, grouped error
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			wrong = cmp.Or(wrong, checkSelector(node, path))
		case *parser.AggregateExpr:
			for _, label := range node.Grouping {
				if !slices.Contains(labelsOf(node.Expr), label) {
					grouped = fmt.Errorf("no label %s", label)
				}
			}
		}
		return nil
	})
	return cmp.Or(wrong, grouped)
}

// familyOf returns the family of a series by its name, and whether it is a counter, as the buckets of
// a histogram are.
func familyOf(name string) (f *family, counts bool) {
	for _, f := range families {
		if f.kind != histogram && name == f.name {
			return f, f.kind == counter
		}
		if base, ok := strings.CutSuffix(name, "_bucket"); ok && f.kind == histogram && base == f.name {
			return f, true
		}
	}
	return nil, false
}

// labelsOf returns the labels that the series of an expression have.
func labelsOf(node parser.Node) (all []string) {
	switch node := node.(type) {
	case *parser.AggregateExpr:
		return node.Grouping
	case *parser.VectorSelector:
		all = append(all, ofTarget...)
		f, _ := familyOf(node.Name)
		if f == nil {
			return all
		}
		if f.kind == histogram {
			all = append(all, labels.BucketLabel)
		}
		for _, l := range f.labels {
			all = append(all, l.name)
		}
		return all
	}
	for child := range parser.ChildrenIter(node) {
		all = append(all, labelsOf(child)...)
	}
	return all
}

// checkSelector says what is wrong with the choice of series below some nodes of a query.
func checkSelector(s *parser.VectorSelector, path []parser.Node) error {
	if !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool {
		return m.Name == "instance" && m.Type == labels.MatchRegexp && m.Value == "$instance"
	}) {
		return fmt.Errorf("%s: not of the instances that are chosen", s.Name)
	}
	if s.Name == "up" { // whether Prometheus could scrape
		return nil
	}
	f, counts := familyOf(s.Name)
	if f == nil {
		return fmt.Errorf("there is no %s", s.Name)
	}
	for _, m := range s.LabelMatchers {
		if m.Name != labels.MetricName && !slices.Contains(labelsOf(s), m.Name) {
			return fmt.Errorf("%s: no label %s", s.Name, m.Name)
		}
		for _, l := range f.labels {
			for value := range strings.SplitSeq(m.Value, "|") {
				if l.name == m.Name && l.values != nil && !slices.Contains(l.values, value) {
					return fmt.Errorf("%s is no %s", value, l.name)
				}
			}
		}
	}
	if err := checkRate(f, counts, path); err != nil {
		return err
	}
	if strings.HasPrefix(s.Name, "tsem_keeper_") {
		return nil
	}
	for _, node := range slices.Backward(path) {
		if aggregate, ok := node.(*parser.AggregateExpr); ok {
			for _, l := range f.labels {
				if !slices.Contains(aggregate.Grouping, l.name) || aggregate.Op != parser.MAX && aggregate.Op != parser.MIN {
					return fmt.Errorf("%s is counted twice where two keepers show it: first one of each by all its labels", s.Name)
				}
			}
			return nil
		}
	}
	return fmt.Errorf("%s is counted twice where two keepers show it", s.Name)
}

// checkRate: of counters the rate is shown, and of nothing else.
func checkRate(f *family, counts bool, path []parser.Node) error {
	var matrix *parser.MatrixSelector
	var call *parser.Call
	if len(path) >= 2 {
		matrix, _ = path[len(path)-1].(*parser.MatrixSelector)
		call, _ = path[len(path)-2].(*parser.Call)
	}
	switch {
	case !counts && matrix != nil:
		return fmt.Errorf("%s is no counter", f.name)
	case !counts:
		return nil
	case matrix == nil || call == nil || call.Func.Name != "rate" && call.Func.Name != "increase":
		return fmt.Errorf("%s is a counter without rate", f.name)
	case matrix.Range != interval:
		return fmt.Errorf("%s: not over $__rate_interval", f.name)
	}
	return nil
}
