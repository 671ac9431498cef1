// SPDX-License-Identifier: Apache-2.0

package tsemfs

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tsem-bpf/tsem-bpf/control"
	"github.com/tsem-bpf/tsem-bpf/fuse"
)

// readme is what the file README contains.
const readme = `This is the control plane of TSEM (Trusted Security Event Modeling), served by tsem-bpf.

control         Each write is one command, such as "external nsref=current".
id              The number of your namespace, or of the one that you orchestrate.
aggregate       The measurement of the platform: the digest of PCR 0 to 7 of its TPM.
external_tma/N  The security events of namespace N: each read at offset 0 takes one record.
`

// controlSize is the size that control says to have: more than anybody ever writes to one
// descriptor, so that all writes end below it. Else the kernel would let one thread at a time write
// to a file, and a namespace that takes its time to make would hold up every verdict of threads that share one.
// (write(2) lets one thread at a time use a descriptor all the same, for the sake of its position; pwrite(2) does not.)
const controlSize = 1 << 50

// New returns the root of the file system, for fuse.NewServer.
func New(plane Plane) fuse.Dir {
	return &folder{
		// Another file each time: the kernel locks a file while somebody truncates it, and where IMA
		// has a policy while somebody opens it, and that would wait for every write under way.
		{"control", func() fuse.Node { return &commands{plane} }},
		{"id", always(&id{plane})},
		{"aggregate", always(&aggregate{plane})},
		{"external_tma", always(&agents{plane})},
		{"README", always(&about{})},
	}
}

// folder is a directory whose names never change.
type folder []named

type named struct {
	name string
	node func() fuse.Node // what has the name now
}

// always is the node of a name that stands for one file.
func always(node fuse.Node) func() fuse.Node { return func() fuse.Node { return node } }

func (*folder) Info() fuse.Info { return fuse.Info{Mode: 0o555} }

func (f *folder) Lookup(name string) fuse.Node {
	for _, n := range *f {
		if n.name == name {
			return n.node()
		}
	}
	return nil
}

func (f *folder) Names() (names []string) {
	for _, n := range *f {
		names = append(names, n.name)
	}
	return names
}

// commands is the file control, also when it is open.
type commands struct{ plane Plane }

func (*commands) Info() fuse.Info {
	return fuse.Info{Mode: 0o200, Size: controlSize, Passing: true}
}

func (c *commands) Open(tid, flags uint32) (fuse.Handle, error) {
	if flags&unix.O_ACCMODE != unix.O_WRONLY {
		return nil, unix.EACCES
	}
	return c, c.plane.Admit(tid)
}

func (c *commands) Write(tid uint32, data []byte) error {
	command, err := control.Parse(data)
	if err == nil {
		err = c.plane.Command(tid, command)
	}
	if err != nil {
		c.plane.Refused(tid, err)
	}
	return err
}

func (*commands) Close() {}

// id is the file of that name. What it contains is known when it is opened.
type id struct{ plane Plane }

func (*id) Info() fuse.Info { return fuse.Info{Mode: 0o400} }

func (i *id) Open(tid, _ uint32) (fuse.Handle, error) {
	namespace, err := i.plane.ID(tid)
	return fuse.Content(fmt.Appendln(nil, namespace)), err
}

// aggregate is the file of that name.
type aggregate struct{ plane Plane }

func (*aggregate) Info() fuse.Info { return fuse.Info{Mode: 0o400} }

func (a *aggregate) Open(tid, _ uint32) (fuse.Handle, error) {
	value, err := a.plane.Aggregate(tid)
	return fuse.Content(hex.EncodeToString(value) + "\n"), err
}

// about is the file README.
type about struct{}

func (*about) Info() fuse.Info { return fuse.Info{Mode: 0o444} }

func (*about) Open(uint32, uint32) (fuse.Handle, error) { return fuse.Content(readme), nil }

// agents is the directory external_tma, which has a file for each namespace.
type agents struct{ plane Plane }

func (*agents) Info() fuse.Info { return fuse.Info{Mode: 0o555} }

func (a *agents) Lookup(name string) fuse.Node {
	namespace, err := strconv.ParseUint(name, 10, 64)
	if err != nil || strconv.FormatUint(namespace, 10) != name || a.plane.Records(namespace) == nil {
		return nil
	}
	return records{a, namespace}
}

func (a *agents) Names() (names []string) {
	for _, namespace := range slices.Sorted(slices.Values(a.plane.Namespaces())) {
		names = append(names, strconv.FormatUint(namespace, 10))
	}
	return names
}

// records is the file of a namespace. It is gone when the namespace is; the ids of namespaces
// are not used again.
type records struct {
	agents    *agents
	namespace uint64
}

func (records) Info() fuse.Info { return fuse.Info{Mode: 0o400, Passing: true} }

func (r records) Open(tid, _ uint32) (fuse.Handle, error) {
	if err := r.agents.plane.Admit(tid); err != nil {
		return nil, err
	}
	queue := r.agents.plane.Records(r.namespace)
	if queue == nil {
		return nil, unix.ENOENT
	}
	return &reading{queue: queue}, nil
}
