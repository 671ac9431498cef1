// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestAlerts: what deploy/prometheus asks for is there.
func TestAlerts(t *testing.T) {
	there := make(map[string]bool)
	for _, f := range families {
		there[f.name] = true
	}
	for _, file := range []string{"tsem.rules.yml", "tsem.rules.test.yml"} {
		text, err := os.ReadFile("../deploy/prometheus/" + file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\btsem_\w+`).FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s names no series", file)
		}
		for _, name := range names {
			if !there[name] {
				t.Errorf("%s names %s, which is not there", file, name)
			}
		}
	}
}

// TestAlertsTested: make alert-test sees each alert fire, also those that no VM test brings about.
func TestAlertsTested(t *testing.T) {
	found := func(file, pattern string) (names []string) {
		text, err := os.ReadFile("../deploy/prometheus/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			names = append(names, match[1])
		}
		slices.Sort(names)
		return names
	}
	alerts, tested := found("tsem.rules.yml", `- alert: (\w+)`), found("tsem.rules.test.yml", `alertname: (\w+)\n +exp_alerts:\n +- exp_labels:`)
	if len(alerts) == 0 || !slices.Equal(alerts, tested) {
		t.Errorf("there are the alerts %v, and tests of %v", alerts, tested)
	}
}
