// SPDX-License-Identifier: Apache-2.0

//go:build vmtest

package vmtest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// flooded lets the openers open a file so often each in a namespace of tsem-bpf, all of whose events have
// to be read. It returns how long that took, and how many scrapes there were: one at once, and then one
// each second, if that is wanted. The magazine has room for all the events: who waits for room takes the CPU from
// those who read, so that the flood would take longer by a multiple of whatever disturbs them.
func flooded(t *testing.T, opens int, scraped, unread bool) (took time.Duration, scrapes int) {
	t.Helper()
	f := startOrdered(t, fmt.Sprintf("TSEM_ACTOR=opens TSEM_OPENS=%d %s/actor >/dev/null || exit; echo done; read end <&3", opens, work), os.DevNull, "--cache", "512")
	if unread { // far more than fits between the two
		client, err := net.Dial("tcp", f.address)
		check(t, err)
		defer client.Close()
		_, err = io.WriteString(client, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 100))
		check(t, err)
	}
	ended := make(chan string, 1)
	start := time.Now()
	f.order(t)
	go func() {
		line, _ := f.says.ReadString('\n')
		ended <- line
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if scraped {
			if status, text := f.ask(t, "/metrics"); status != http.StatusOK {
				t.Errorf("scrape %d: status %d: %s", scrapes+1, status, text)
			}
			scrapes++
		}
		select {
		case <-ticker.C:
			continue
		case line := <-ended:
			if line != "done\n" {
				t.Fatalf("the flood said %q", line)
			}
		}
		break
	}
	f.order(t)
	err := f.Wait()
	took = time.Since(start)
	if account := accounted(t, f.stderr.String(), 1)[0]; err != nil || account.refused != 0 || account.raised < uint64(openers*opens) {
		t.Errorf("%d opens: %v: %s", openers*opens, err, f.stderr.String())
	}
	return took, scrapes
}

// TestScrapeCost: during a flood of events every scrape is answered, and no event is missed, not even when
// a client never reads what it asked for. It says how much longer the flood takes: by instructions in
// make scrape-cost, else by a clock that says more of the host of the machine. make soak has 500,000
// events in each flood.
func TestScrapeCost(t *testing.T) {
	folder(t, "opens")
	opens := opensOfEach()
	if os.Getenv("TSEM_ROUNDS") != "" {
		opens = 62_500
	}
	few := 1
	if os.Getenv("TSEM_EXACT") != "" {
		few = 2
	}
	flooded(t, opens, true, false) // what is dearer at first is over
	var without, with, beside time.Duration
	var scrapes int
	for range rounds(t, few) {
		took, _ := flooded(t, opens, false, false)
		without += took
		took, answered := flooded(t, opens, true, false)
		with, scrapes = with+took, scrapes+answered
		took, _ = flooded(t, opens, false, true)
		beside += took
	}
	fmt.Printf("floods of %d opens: %v without scrapes; with %d, one each second, %v, %.3f times as long, %v for each; beside a client that does not read %v, %.3f times\n",
		openers*opens, without, scrapes, with, with.Seconds()/without.Seconds(), (with-without)/time.Duration(scrapes), beside, beside.Seconds()/without.Seconds())

	const atRest = 20
	resting := startOrdered(t, "exit", os.DevNull)
	start := time.Now()
	for range atRest {
		resting.ask(t, "/metrics")
	}
	fmt.Printf("a scrape of a tsem-bpf at rest: %v\n", time.Since(start)/atRest)
}
