# SPDX-License-Identifier: Apache-2.0
#
# make demo, make test: all a fresh Debian 12 or 13 needs, as root. make help: the rest.

SHELL := /bin/bash
GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
KERNELS := $(shell awk '!/^\#/ { print $$1 }' vmtest/kernels.list)

# No libraries of C: they would be opened by the programs of the tests, which count all opens, and
# would have to be in the machine.
export CGO_ENABLED := 0

# clang-19 is in Debian 12 and 13; the committed object is what this one makes.
CLANG_PACKAGES := clang-19 llvm-19 libbpf-dev
RACE_PACKAGES := gcc libc6-dev
VM_PACKAGES := $(shell grep -v '^\#' vmtest/packages)
# What virtme-ng needs and its package does not ask for: udev for its init, busybox for its initramfs.
VNG_PACKAGES := virtme-ng udev busybox-static

# No time limit of go test's own for the VM tests: vmtest/run -t has one per kernel.
VM_SECONDS := 2400

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: vm-setup build ## See the events of a real workload on the newest kernel.
	@vmtest/run -r -k latest -t 280 -- vmtest/demo

# A machine of the VM tests has two CPUs. So half as many run beside each other as there are CPUs here (JOBS=1: one after the
# other), the longest first: with more than that each takes as much longer.
JOBS ?= $(shell echo $$((($(shell nproc) + 1) / 2)))
BESIDE := $(KERNELS:%=vm-test-%) runner-test cost-test-latest race-test preempt-test vng-events unit-test fuzz-test

.PHONY: test
test: setup vng-setup build build/prometheus generated vet lint format alert-test service-test ## Run everything that CI runs.
	@$(MAKE) --no-print-directory -j$(JOBS) $(BESIDE:%=beside-%)

# Each line says whose it is.
.PHONY: beside-%
beside-%:
	@set -o pipefail; $(MAKE) --no-print-directory $* 2>&1 | sed -u 's/^/$*: /'

# What is worth knowing after every change, in under three minutes: the VM tests that
# need no time, on the newest kernel. The object must be up to date already.
.PHONY: quick
quick: vm-setup build vet lint format unit-test ## Run the quickest tests, in under three minutes.
	$(call vm-test,latest,-run '^Test(Events|Capable|Paths|CommandLine|Run)$$')

.PHONY: build
build: ## Build build/tsem-bpf.
	$(GO) build -trimpath -o build/tsem-bpf ./cmd/tsem-bpf

.PHONY: unit-test
unit-test: ## Run the tests that need no kernel.
	$(GO) test -timeout 1h ./...

.PHONY: race-test
race-test: race-setup ## Run them with the race detector, which needs a C compiler.
	CGO_ENABLED=1 $(GO) test -race -timeout 1h ./...

# The test binary of each package runs as a whole inside the VM; it lies in the
# checkout, because that is what the VM sees at its own path. With this name what a test leaves
# that is killed is none of ./... either.
.PHONY: vm-test
vm-test: vm-setup build $(KERNELS:%=vm-test-%) ## Run the tests that need a kernel, on all of them.

# $(call vm-test,KERNEL,FLAGS OF GO TEST,FLAGS OF VMTEST/RUN,COMMAND THAT RUNS THE TEST)
define vm-test
	@mkdir -p build/_tmp
	@echo "== kernel $(1)"
	GOTMPDIR=$(CURDIR)/build/_tmp $(GO) test -v -count=1 -timeout 0 -tags vmtest $(2) \
		-exec "$(CURDIR)/vmtest/run $(3) -r -W -k $(1) -m 2G -t $(VM_SECONDS) -- $(4)" ./vmtest
endef

# What is about other programs, or files and flags, more than about the kernel is tested on the newest alone. So is most of
# what takes the kernel half away again and again: before 7.0 the kernel waits for a grace period for each program, one after
# the other, so that such a test takes a minute. make vm-test-6.12 ONCE=none LEFT_OUT= leaves out nothing.
ONCE := DaemonManyAtOnce|DaemonOperations|DaemonRootFullDisk|DaemonTakeover|EngineCommand|ExitSkipped|FullHook|Limits|NothingLeaks|Orchestrators|PinsLeft|Prometheus|ScrapeCost|Service|Stress|WrongAccount
# Each of the older kernels has a part of the rest of these.
LEFT_OUT = $(LEFT_OUT_$*)
LEFT_OUT_6.12 := |ExportTier|Pins
LEFT_OUT_6.1 := |KilledAnytime|ManyRuns

.PHONY: vm-test-%
vm-test-%: vm-setup build build/prometheus
	$(call vm-test,$*,$(if $(filter-out latest,$*),-skip '^Test($(ONCE)$(LEFT_OUT))$$'))

# The same under virtme-ng. One kernel is enough: what differs is not the kernel.
.PHONY: vm-test-vng
vm-test-vng: vm-setup vng-setup build build/prometheus ## Run the tests that need a kernel under virtme-ng, on the newest.
	$(call vm-test,latest,,--vng)

# On a kernel that somebody built: make vm-test-mine KERNEL=PATH. Tests that it lacks
# something for are skipped, and say what.
.PHONY: vm-test-mine vm-test-mine-vng
vm-test-mine: vm-packages build ## Run them on the kernel at KERNEL=PATH (docs/vm.md).
	$(call vm-test,$(abspath $(KERNEL)),$(if $(KERNEL),,$(error which kernel? KERNEL=PATH)))
vm-test-mine-vng: vng-setup build ## The same under virtme-ng.
	$(call vm-test,$(abspath $(KERNEL)),$(if $(KERNEL),,$(error which kernel? KERNEL=PATH)),--vng)

.PHONY: vng-events
vng-events: vm-setup vng-setup build ## Run TestEvents under virtme-ng, on the newest kernel.
	$(call vm-test,latest,-run '^TestEvents$$',--vng)

# By number and not by time, for the machine is to have no part in it: records are decoded and encoded for about a minute each on
# two cores, everything else for some seconds. What is found lies below testdata/fuzz of its package then.
FUZZ_ROUNDS := 1
.PHONY: fuzz-test
fuzz-test: ## Fuzz all that reads what others write, FUZZ_ROUNDS times as long as CI does.
	@set -o pipefail; $(GO) test -list '^Fuzz' ./... | awk '/^Fuzz/ { of[n++] = $$1 } /^ok/ { while (n) print $$2, of[--n] }' | while read -r package name; do \
		case "$$package $$name" in */event\ FuzzParse | */event\ FuzzText) count=600000 ;; *\ FuzzConfig | *\ FuzzPlane) count=1000 ;; *) count=20000 ;; esac; \
		echo "== $$name of $$package"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $$((count * $(FUZZ_ROUNDS)))x -fuzzminimizetime 10x "$$package" || exit; \
	done

# Where tasks are preempted also inside the kernel and inside programs.
.PHONY: preempt-test
preempt-test: vm-setup build ## Run the tests under load with preempt=full, on the oldest kernel.
	$(call vm-test,6.1,-run '^Test(Completeness|Forks)$$',-a preempt=full)

# What others wrote for TSEM; docs/orchestrators.md tells how it is built.
.PHONY: quixote-test
quixote-test: $(KERNELS:%=quixote-test-%) ## Run orchestrators of Quixote, built in QUIXOTE=FOLDER, on all kernels.

.PHONY: quixote-test-%
quixote-test-%: vm-setup build
	$(call vm-test,$*,-run '^TestQuixote$$',,env TSEM_QUIXOTE=$(if $(QUIXOTE),$(abspath $(QUIXOTE)),$(error which build of Quixote? QUIXOTE=FOLDER)))

# Who waits and who answers take turns there: nothing may wait for what only runs beside it.
WAITS := ^Test(Accidents|Disturbed|External.*|InTime|Idle|KilledWhileWaiting|LockedDirectory|LookInVain|ManyWait|Orphan|Pending.*|SignalsWhileWaiting|Takeover|Trust.*|Verdict.*)$$

.PHONY: one-cpu-test
one-cpu-test: $(KERNELS:%=one-cpu-test-%) ## Run the tests of waits with one CPU, then with GOMAXPROCS=1, on all kernels.

.PHONY: one-cpu-test-%
one-cpu-test-%: vm-setup build
	$(call vm-test,$*,-run '$(WAITS)',-c 1)
	$(call vm-test,$*,-run '$(WAITS)',,env GOMAXPROCS=1)

.PHONY: cost-test
cost-test: $(KERNELS:%=cost-test-%) ## Compare durations on all kernels, by instructions executed.

# $(call cost-test,KERNEL,TESTS,ENVIRONMENT)
define cost-test
	@mkdir -p build/_tmp
	GOTMPDIR=$(CURDIR)/build/_tmp TSEM_EXACT=1 $(3) $(GO) test -v -count=1 -timeout 0 -tags vmtest -run '^Test($(2))Cost$$' \
		-exec "$(CURDIR)/vmtest/run -i -c 1 -W -k $(1) -m 2G -t 900 --" ./vmtest
endef

.PHONY: cost-test-%
cost-test-%: vm-setup build
	$(call cost-test,$*,Call|Gate|Start$(if $(filter latest,$*),|FUSE|Plane))

.PHONY: scrape-cost
scrape-cost: vm-setup build ## Compare floods of events with and without scrapes, by instructions executed.
	$(call cost-test,6.12,Scrape)

.PHONY: fuse-cost
fuse-cost: vm-setup build ## Compare FUSE requests by read and write with those over io_uring (ROUNDS=5 OPENS=2000).
	$(call cost-test,latest,FUSE,TSEM_ROUNDS=$(or $(ROUNDS),5) TSEM_OPENS=$(OPENS))

.PHONY: plane-cost
plane-cost: vm-setup build ## Compare orchestrators with the agent trust, by instructions executed.
	$(call cost-test,6.12,Plane)

# By instructions, then by time with two CPUs; in one machine each.
OPENS := 2000

.PHONY: gate-cost
gate-cost: gate-cost-6.12 ## Compare a wait for a verdict with fanotify and seccomp (ROUNDS=5 OPENS=2000).

.PHONY: gate-cost-%
gate-cost-%: vm-setup build
	@mkdir -p build/_tmp
	$(call gate-cost,$*,TSEM_EXACT=1,-i -c 1)
	$(call gate-cost,$*,,-r -c 2)

# $(call gate-cost,KERNEL,ENVIRONMENT,FLAGS OF VMTEST/RUN)
define gate-cost
	GOTMPDIR=$(CURDIR)/build/_tmp $(2) TSEM_ROUNDS=$(or $(ROUNDS),5) TSEM_OPENS=$(OPENS) $(GO) test -v -count=1 -timeout 0 -tags vmtest \
		-run '^Test(Gate|Look)Cost$$' -exec "$(CURDIR)/vmtest/run $(3) -W -k $(1) -m 2G -t $(VM_SECONDS) --" ./vmtest
endef

# What can be done over and over, ROUNDS times. Each test has a machine of its own, so that
# one that is lost to the emulator (docs/vm.md) costs no other test its rounds.
SOAK_ROUNDS = $(or $(ROUNDS),200)
SOAK := Accidents Disturbed KilledWhileWaiting ManyWait SignalsWhileWaiting LockedDirectory KilledAnytime Takeover DaemonManyEvents DaemonOperations ManyRuns ScrapeCost Stress

.PHONY: soak
soak: $(KERNELS:%=soak-%) ## Run the tests of waits, accidents and many at once ROUNDS times (200: hours) on all kernels, and fuzz.
	@$(MAKE) --no-print-directory fuzz-test FUZZ_ROUNDS=$(SOAK_ROUNDS)

.PHONY: soak-%
soak-%: vm-setup build
	@mkdir -p build/_tmp
	@for test in $(SOAK); do \
		echo "== kernel $*, $$test: $(SOAK_ROUNDS) rounds"; \
		GOTMPDIR=$(CURDIR)/build/_tmp TSEM_ROUNDS=$(SOAK_ROUNDS) $(GO) test -v -count=1 -timeout 0 -tags vmtest -run "^Test$$test\$$" \
			-exec "$(CURDIR)/vmtest/run -r -W -k $* -m 2G -t $$((600 + 400 * $(SOAK_ROUNDS))) --" ./vmtest || exit; \
	done

.PHONY: verifier-stats
verifier-stats: vm-setup ## Measure what the programs cost the verifier: docs/verifier.md and vmtest/verifier.budget.
	@vmtest/verifier-stats

.PHONY: wait-table
wait-table: vm-setup build ## Ask each kernel which events can wait there: docs/waits.md.
	$(GO) run ./vmtest/waittable

.PHONY: runner-test
runner-test: vm-setup vng-setup build ## Run the tests of the VM runner, which boot machines.
	$(GO) test -count=1 -timeout 1h -p 1 -tags vmtest_runner ./vmtest/vm ./vmtest

GENERATED := bpf/tsem_bpfel.* verdict/gateproc/*.elf docs/events.md docs/metrics.md

.PHONY: generate
generate: clang-setup ## Compile the kernel half and the gate program, and generate what follows from them and from code.
	$(GO) generate ./...

# The comparison is with the files as they are, committed or not.
.PHONY: generated
generated: clang-setup ## Check that what is generated is up to date.
	@before=$$(cat $(GENERATED) | sha256sum); $(GO) generate ./... && \
	after=$$(cat $(GENERATED) | sha256sum); \
	[ "$$before" = "$$after" ] || { echo "$(GENERATED) were not up to date and are now: commit them" >&2; exit 1; }

.PHONY: vet
vet: ## Run go vet, with every build tag.
	$(GO) vet -tags vmtest,vmtest_runner ./...

.PHONY: lint
lint: ## Check module files, SPDX lines, shell syntax, links in the documentation.
	$(GO) mod tidy -diff
	@vmtest/lint

.PHONY: format
format: ## Check the format of Go files.
	@wrong=$$($$($(GO) env GOROOT)/bin/gofmt -l $$(git ls-files '*.go')) || exit; [ -z "$$wrong" ] || { echo "gofmt these: $$wrong" >&2; exit 1; }

.PHONY: alert-test
alert-test: build/prometheus ## Test the alerts for Prometheus in deploy/.
	cd deploy/prometheus && $(CURDIR)/$</usr/bin/promtool check config --lint-fatal scrape.yml && $(CURDIR)/$</usr/bin/promtool test rules tsem.rules.test.yml

# As it is installed, but for where the program lies, which systemd wants to see. The threshold is on its scale from 0,
# a service that can do next to nothing, to 100.
.PHONY: service-test
service-test: build ## Check the unit of systemd in deploy/, where systemd is installed.
	@mkdir -p build/systemd
	@sed 's|/usr/local/bin/|$(CURDIR)/build/|' deploy/systemd/tsem-bpf.service >build/systemd/tsem-bpf.service
	@command -v systemd-analyze >/dev/null || { echo "systemd-analyze is missing: deploy/systemd is not checked"; exit 0; }; \
	systemd-analyze verify --recursive-errors=no build/systemd/tsem-bpf.service && \
	{ systemd-analyze security --no-pager --offline=true --threshold=50 build/systemd/tsem-bpf.service >build/systemd/security || \
	  { cat build/systemd/security; exit 1; }; }

# What its package has, and not installed: that would start a server.
build/prometheus:
	@rm -rf $@.new && mkdir -p $@.new
	cd $@.new && { apt-get download prometheus || { apt-get update && apt-get download prometheus; }; }
	dpkg-deb -x $@.new/prometheus_*.deb $@.new && rm $@.new/prometheus_*.deb && mv $@.new $@

.PHONY: setup
setup: clang-setup race-setup vm-setup ## Install what the other targets need (Debian packages), fetch kernels.

.PHONY: clang-setup
clang-setup:
	@vmtest/install $(CLANG_PACKAGES)

.PHONY: race-setup
race-setup:
	@vmtest/install $(RACE_PACKAGES)

.PHONY: vm-setup
vm-setup: vm-packages
	@vmtest/kernels

.PHONY: vm-packages
vm-packages:
	@vmtest/install $(VM_PACKAGES)

.PHONY: vng-setup
vng-setup: vm-packages ## Install virtme-ng, for the targets that use it.
	@vmtest/install $(VNG_PACKAGES)

.PHONY: clean
clean: ## Remove build/; the kernels stay in their cache.
	rm -rf build
