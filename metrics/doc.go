// SPDX-License-Identifier: Apache-2.0

// Package metrics shows operators what the other packages count: as Prometheus series, as the
// problems that a host has at the moment, and as screens of a terminal.
//
// Nothing is counted here. A Reader reads the maps of the kernel half when somebody asks, and
// that is at each scrape; nothing of it is in the way of an event.
//
// # Who shows what
//
// The maps are those of the whole engine, and every keeper can read them. So what is in them is
// shown by each keeper, for all namespaces, with the same values: who scrapes several keepers of
// a host sees each number several times, with the same labels "engine" and "namespace". What a
// keeper alone knows, since it is the one who reads the magazine, begins with "tsem_keeper_";
// of each namespace one keeper shows that.
//
// # Labels
//
// The values of every label are known beforehand, but for the ids of engines and namespaces and
// the process ids of keepers. A series whose count is 0 is there. With a namespace its series
// end.
package metrics
