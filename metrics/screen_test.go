// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tsem-bpf/tsem-bpf/bpf"
	"github.com/tsem-bpf/tsem-bpf/event"
	"github.com/tsem-bpf/tsem-bpf/loader"
	"github.com/tsem-bpf/tsem-bpf/verdict"
)

func hook(t *testing.T, name string) uint16 {
	t.Helper()
	h, ok := event.Lookup(name)
	if !ok {
		t.Fatalf("there is no hook %s", name)
	}
	return uint16(h)
}

// busy returns two snapshots of a host, two seconds apart. Namespace 3 waits for verdicts, 4 does not, 5
// is an orphan, and 6 was made in between.
func busy(t *testing.T) (before, now *Snapshot) {
	t.Helper()
	before, now = snapshot(), snapshot()
	for _, s := range []*Snapshot{before, now} {
		s.Status.ID, s.Status.Memory = "0123456789abcdef", 13526630
		s.States = []bpf.Namespace{
			{Id: 3, Keeper: 412, Flags: bpf.NamespaceExternal | bpf.NamespaceEnforcing, Magazine: 4 << 20, Reserve: 1 << 20, Tasks: 12, Raised: 1000, Delivered: 1000},
			{Id: 4, Keeper: 498, Magazine: 4 << 20, Reserve: 1 << 20, Tasks: 1, Raised: 500, Delivered: 493},
			{Id: 5, Flags: bpf.NamespaceExternal | bpf.NamespaceEnforcing | bpf.NamespaceOrphaned, Magazine: 4 << 20, Reserve: 1 << 20, Tasks: 2, Raised: 70, Delivered: 70},
		}
		s.States[1].Refused[bpf.RefusedMagazineFull] = 7
		s.States[0].Verdicts[verdict.Trusted], s.States[0].Verdicts[verdict.Late] = 900, 1
	}
	now.Boot, now.Mono = now.Boot+2*time.Second, now.Mono+2*time.Second
	ns := &now.States[0]
	ns.Raised, ns.Delivered, ns.Denied, ns.Verdicts[verdict.Trusted] = 2625, 2624, 3, 2500
	ns.Shares[0].Claimed = 1 << 20
	now.States[1].Raised, now.States[1].Delivered = 505, 498
	now.States = append(now.States, bpf.Namespace{Id: 6, Keeper: 510, Tasks: 1, Raised: 40, Delivered: 40})
	now.Waits = []verdict.Wait{
		{Namespace: 3, Hook: hook(t, "file_open"), Since: uint64(99 * time.Second)},
		{Namespace: 3, Hook: hook(t, "task_kill"), Since: uint64(100 * time.Second)},
		{Namespace: 3, Hook: hook(t, "file_open"), Since: uint64(101 * time.Second)},
	}
	now.Runs = []loader.ProgramStatus{
		{Name: "capable", Runs: 1000, Time: 200 * time.Microsecond}, {Name: "file_open", Runs: 4005, Time: 1506 * time.Millisecond, Skipped: 4},
	}
	return before, now
}

func text(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// TestScreenReloaded: a program that was loaded anew since the snapshot before has counted from nothing.
func TestScreenReloaded(t *testing.T) {
	before, now := busy(t)
	before.Runs, now.Runs = now.Runs, []loader.ProgramStatus{{Name: "file_open", Runs: 3, Time: 6 * time.Microsecond}}
	if got, want := text(Screen(before, now, 0, 0)), "\nfile_open    1.5    2.0         0\n"; !strings.HasSuffix(got, want) {
		t.Errorf("%s; want at the end %s", got, want)
	}
}

// TestScreen: what is shown, on terminals of several sizes.
func TestScreen(t *testing.T) {
	before, now := busy(t)
	other := *before
	other.Status = &loader.Status{ID: "another"}
	later := snapshot()
	later.Mono += time.Second
	for _, test := range []struct {
		name          string
		before, now   *Snapshot
		columns, rows int
		want          string
	}{
		{"80x24", before, now, 80, 24, `
tsem-bpf    not healthy  kernel half 0123456789abcdef  tier sleep  kernel 6.12.1
host        4 namespaces  16 tasks  2 keepers  12.9 MiB of maps
waiting     3 tasks  the first for 3.0 s  2 file_open  1 task_kill
events/s    835.0 raised  834.5 delivered  0 refused  1.5 denied
refused     7 magazine_full
verdicts/s  800.0 trusted  0 late
! namespace 5 has no keeper and holds 2 tasks back: tsem-bpf run --takeover 5,
  or tsem-bpf ns end 5

NAMESPACE KIND               TASKS RAISED/S DELIVERED/S WAITING FIRST KEEPER
        3 external              12    812.5       812.0       3 3.0 s    412
        6 export                 1     20.0        20.0       0     -    510
        4 export                 1      2.5         2.5       0     -    498
        5 external, orphaned     2        0           0       0     -      -

PROGRAM   RUNS/S US/RUN SKIPPED/S
file_open 2000.0    1.5       1.0
capable    500.0    0.2         0
`},
		{"narrow", before, now, 40, 10, `
tsem-bpf    not healthy
host        4 namespaces  16 tasks
waiting     3 tasks  the first for 3.0 s
events/s    835.0 raised
refused     7 magazine_full
verdicts/s  800.0 trusted  0 late
! namespace 5 has no keeper and holds 2
  tasks back: tsem-bpf run --takeover 5,
  or tsem-bpf ns end 5
`},
		{"no limit", before, now, 0, 0, `
tsem-bpf    not healthy  kernel half 0123456789abcdef  tier sleep  kernel 6.12.1
host        4 namespaces  16 tasks  2 keepers  12.9 MiB of maps
waiting     3 tasks  the first for 3.0 s  2 file_open  1 task_kill
events/s    835.0 raised  834.5 delivered  0 refused  1.5 denied
refused     7 magazine_full
verdicts/s  800.0 trusted  0 late
! namespace 5 has no keeper and holds 2 tasks back: tsem-bpf run --takeover 5, or tsem-bpf ns end 5

NAMESPACE KIND               TASKS RAISED/S DELIVERED/S WAITING FIRST KEEPER REFUSED MAGAZINE
        3 external              12    812.5       812.0       3 3.0 s    412       0     33 %
        6 export                 1     20.0        20.0       0     -    510       0        -
        4 export                 1      2.5         2.5       0     -    498       7      0 %
        5 external, orphaned     2        0           0       0     -      -       0      0 %

PROGRAM   RUNS/S US/RUN SKIPPED/S
file_open 2000.0    1.5       1.0
capable    500.0    0.2         0
`},
		{"the first", nil, now, 80, 24, `
tsem-bpf    not healthy  kernel half 0123456789abcdef  tier sleep  kernel 6.12.1
host        4 namespaces  16 tasks  2 keepers  12.9 MiB of maps
waiting     3 tasks  the first for 3.0 s  2 file_open  1 task_kill
events/s    - raised  - delivered  - refused  - denied
refused     7 magazine_full
verdicts/s  - trusted  - late
! namespace 5 has no keeper and holds 2 tasks back: tsem-bpf run --takeover 5,
  or tsem-bpf ns end 5

NAMESPACE KIND               TASKS RAISED/S DELIVERED/S WAITING FIRST KEEPER
        3 external              12        -           -       3 3.0 s    412
        4 export                 1        -           -       0     -    498
        5 external, orphaned     2        -           -       0     -      -
        6 export                 1        -           -       0     -    510
`},
		{"of another kernel half", &other, now, 80, 4, `
tsem-bpf    not healthy  kernel half 0123456789abcdef  tier sleep  kernel 6.12.1
host        4 namespaces  16 tasks  2 keepers  12.9 MiB of maps
waiting     3 tasks  the first for 3.0 s  2 file_open  1 task_kill
events/s    - raised  - delivered  - refused  - denied
`},
		{"nothing happens", snapshot(), later, 80, 24, `
tsem-bpf    healthy  kernel half e  tier sleep  kernel 6.12.1
host        1 namespaces  2 tasks  2 keepers  0.0 MiB of maps
waiting     nobody
events/s    0 raised
refused     none
verdicts/s  none

NAMESPACE KIND   TASKS RAISED/S DELIVERED/S WAITING FIRST KEEPER REFUSED
        3 export     2        0           0       0     -     10       0

programs    no run was counted  (sysctl kernel.bpf_stats_enabled)
`},
		{"narrow, nothing happens", snapshot(), later, 40, 10, `
tsem-bpf    healthy  kernel half e
host        1 namespaces  2 tasks
waiting     nobody
events/s    0 raised
refused     none
verdicts/s  none

NAMESPACE KIND   TASKS RAISED/S
        3 export     2        0
`},
	} {
		if diff := cmp.Diff(test.want, "\n"+text(Screen(test.before, test.now, test.columns, test.rows))); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// TestScreenFits: no line and no screen is larger than the terminal, whatever its size.
func TestScreenFits(t *testing.T) {
	before, now := busy(t)
	for i := range uint64(50) {
		now.States = append(now.States, bpf.Namespace{Id: 100 + i, Flags: bpf.NamespaceOrphaned, Tasks: 1})
		now.Runs = append(now.Runs, loader.ProgramStatus{Name: fmt.Sprint("program", i), Runs: 1})
	}
	for columns := 1; columns < 130; columns += 8 {
		for rows := 1; rows < 150; rows += 3 {
			lines := Screen(before, now, columns, rows)
			if len(lines) > rows {
				t.Fatalf("%d lines in %d rows", len(lines), rows)
			}
			for _, l := range lines {
				if len(l.Text) > columns {
					t.Fatalf("%d columns in %d: %s", len(l.Text), columns, l.Text)
				}
			}
		}
	}
}
