// SPDX-License-Identifier: Apache-2.0

// Command mkdoc writes the table of all series to the file that it is given: docs/metrics.md.
package main

import (
	"fmt"
	"os"

	"github.com/tsem-bpf/tsem-bpf/metrics"
)

func main() {
	if err := os.WriteFile(os.Args[1], []byte(metrics.Markdown()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "mkdoc:", err)
		os.Exit(1)
	}
}
