// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/bpf"
)

// TestListAndPrograms: every hook of bpf/hooks.h has its program, which is sleepable
// if and only if the list says so; and every other program is one we know.
func TestListAndPrograms(t *testing.T) {
	spec, err := bpf.Load()
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := eventKinds(spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(kinds) == 0 {
		t.Fatal("the list is empty")
	}
	for name, maySleep := range kinds {
		program := spec.Programs[name]
		if program == nil {
			t.Errorf("hook %s is in the list and has no program", name)
			continue
		}
		if sleeps(program) != maySleep || program.AttachTo != name {
			t.Errorf("hook %s: program for %s, sleepable %v; the list says %v", name, program.AttachTo, sleeps(program), maySleep)
		}
	}
	bookkeeping := []string{
		"bprm_committed_creds", "inode_free_security", "inode_init_security", "shm_alloc_security",
		"shm_free_security", "socket_post_create", "task_alloc", "task_free",
	}
	for _, name := range hookNames(spec) {
		if _, raises := kinds[name]; raises == slices.Contains(bookkeeping, name) {
			t.Errorf("hook %s has a program and is in no list, or in both", name)
		}
	}
	for _, name := range indispensable {
		if spec.Programs[name] == nil {
			t.Errorf("no program for %s", name)
		}
	}
}

// TestErrorsSayWhatToDo: an errno of the kernel becomes a sentence.
func TestErrorsSayWhatToDo(t *testing.T) {
	err := explain("load the kernel half", unix.EPERM)
	var support *SupportError
	if !errors.As(err, &support) || !errors.Is(err, ErrPrivilege) || !strings.Contains(err.Error(), "run as root") {
		t.Error(err)
	}
	if err := explain("load", unix.ENOMEM); !errors.Is(err, unix.ENOMEM) || errors.As(err, &support) {
		t.Error(err)
	}
}
