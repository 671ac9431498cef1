// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"regexp"
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
