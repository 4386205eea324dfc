# SPDX-License-Identifier: Apache-2.0

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION ?= 0.1.0-dev
GOLANGCI_LINT_VERSION := v2.15.0
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/berth/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
HELLO := /var/lib/berth/archives/hello.tar

LDFLAGS := -s -w -X main.version=$(VERSION)
GO_BUILD_FLAGS := -ldflags "$(LDFLAGS)"
# berth begins at an entry point of its own (cmd/berth/seal.go); one that is built without it works as well, and starts later.
BUILD_BERTH := go build -ldflags "$(LDFLAGS) -E main.entry" -o bin/ ./cmd/berth

export CGO_ENABLED := 0
# The compiler's collector costs more time than its memory is worth; the tests themselves run as users run the programs.
export GOGC := 400
GO_TEST := go test -exec 'env -u GOGC'
# No test takes nearly as long where the machine has nothing else to do; what hangs is ended all the same.
export KUBEBUILDER_CONTROLPLANE_START_TIMEOUT := 5m
export KUBEBUILDER_CONTROLPLANE_STOP_TIMEOUT := 5m

##@ General

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*##"} /^[a-zA-Z_0-9-]+:.*?##/ {printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2} /^##@/ {printf "\n%s\n", substr($$0, 5)}' $(MAKEFILE_LIST)

##@ Run

.PHONY: run
run: deps-run $(HELLO) ## Run the sample Container with the agent alone on this machine, and show it (root).
	@mkdir -p bin
	go build $(GO_BUILD_FLAGS) -o bin/ ./cmd/berth-agent
	$(BUILD_BERTH)
	@hack/run.sh up

.PHONY: stop
stop: ## End what `make run` has started.
	@hack/run.sh down

.PHONY: cluster-up
cluster-up: deps-run build $(HELLO) ## Start a Kubernetes API server, the controller and an agent on this machine (root).
	@hack/cluster/up.sh

.PHONY: cluster-down
cluster-down: ## End what `make cluster-up` has started, and nothing else.
	@hack/cluster/down.sh

##@ Build

.PHONY: build
build: ## Build bin/berth, bin/berth-agent and bin/berth-controller.
	@mkdir -p bin
	go build $(GO_BUILD_FLAGS) -o bin/ ./cmd/berth-agent ./cmd/berth-controller
	$(BUILD_BERTH)

$(HELLO): bin/berth-image
	@mkdir -p $(@D)
	bin/berth-image --busybox -o $@

bin/berth-image: $(wildcard hack/image/*.go) go.mod
	@mkdir -p bin
	go build -o $@ ./hack/image

.PHONY: generate
generate: ## Generate deep copies from the types in api/.
	go tool controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/v1alpha1/

.PHONY: manifests
manifests: ## Generate CRDs and the controller's role from markers.
	go tool controller-gen crd paths=./api/v1alpha1/ output:crd:dir=config/crd/bases
	go tool controller-gen rbac:roleName=berth-controller paths=./controllers/... output:rbac:dir=config/rbac

##@ Check

.PHONY: test
test: deps-test verify-generate test-unit test-race conformance test-vm test-power test-e2e test-clients ## Run all tests (root): unit, controllers, runtime and conformance on this host and under cgroup v2, end to end, under other engines.

# These take longest, and begin first: the others run beside them.
LONG_PACKAGES := ./cmd/berth-agent ./controllers ./node-agent/source/kubernetes

# Tests that take minutes of a processor. What they hold rarely breaks without another test that fails.
SLOW_TESTS := ^Test(Every(Sync|Supervisor)StepKilled|Chaos|Flushes)$$

.PHONY: test-fast
test-fast: deps-test $(HELLO) build ## Run what shows most mistakes, in under five minutes: unit tests, a real kube-apiserver, the runtime on this host (root).
	KUBEBUILDER_ASSETS=$$(hack/controlplane/build.sh) && export KUBEBUILDER_ASSETS && \
	$(GO_TEST) -short -p 4 -timeout 20m -skip '$(SLOW_TESTS)' $(LONG_PACKAGES) $$(go list ./... | grep -v /test/)

.PHONY: test-unit
test-unit: deps-test $(HELLO) build ## Run the tests of all packages, with a real kube-apiserver and real containers.
	KUBEBUILDER_ASSETS=$$(hack/controlplane/build.sh) && export KUBEBUILDER_ASSETS && \
	$(GO_TEST) -p 3 -timeout 60m $(LONG_PACKAGES) $$(go list ./... | grep -v -e /test/e2e -e /test/power)

# The longest first: the others run beside them. Three at once on two processors, since many tests mostly wait.
RACE_PACKAGES := ./controllers ./cmd/berth-agent ./node-agent/supervisor ./node-agent/ociruntime ./node-agent/source/folder \
  ./node-agent/source/kubernetes ./cmd/berth-controller ./cmd/berth ./node-agent/image ./node-agent/reconcile \
  ./node-agent/ociruntime/launch ./node-agent/ociruntime/plan ./node-agent/ociruntime/cgroup ./node-agent/ociruntime/resctrl \
  ./node-agent/ociruntime/seccomp ./node-agent/lifecycle ./node-agent/bundle ./node-agent/handler ./node-agent/registration \
  ./node-agent/agent ./node-agent/claim ./node-agent/crilog ./node-agent/nameserver ./node-agent/network ./node-agent/standalone ./node-agent/supervision ./node-agent/supervisor/... ./node-agent/userns ./controllers/... ./internal/...

# The detector wants cgo. hack/race-exec.sh has the tests of each package.
.PHONY: test-race
test-race: deps-test ## Run the tests of the runtime, the supervisor, the agent, the controllers and the programs with the race detector (root).
	KUBEBUILDER_ASSETS=$$(hack/controlplane/build.sh) && export KUBEBUILDER_ASSETS && \
	CGO_ENABLED=1 go test -race -exec "$$PWD/hack/race-exec.sh" -p 3 -timeout 60m $(RACE_PACKAGES)

CHAOS_KILLS ?= 300
CHAOS_SEED ?= 0

.PHONY: chaos
chaos: deps-test build $(HELLO) ## Kill agent and supervisor CHAOS_KILLS times below 200 containers, restart the API server of a cluster 10 times, and count what is lost; make test has a short form (root).
	$(GO_TEST) -count=1 -v -timeout 2h -run '^TestChaos$$' ./cmd/berth-agent \
	  -chaos.containers 200 -chaos.kills $(CHAOS_KILLS) -chaos.upgrades 20 -chaos.seed $(CHAOS_SEED)
	KUBEBUILDER_ASSETS=$$(hack/controlplane/build.sh) && export KUBEBUILDER_ASSETS && \
	$(GO_TEST) -count=1 -v -timeout 2h -run '^TestChaos$$' ./test/e2e \
	  -chaos.containers 40 -chaos.kills 30 -chaos.restarts 10 -chaos.seed $(CHAOS_SEED)

VM_PACKAGES := ./node-agent/ociruntime ./node-agent/ociruntime/cgroup ./node-agent/ociruntime/launch ./node-agent/ociruntime/plan ./node-agent/handler ./cmd/berth

.PHONY: test-vm
test-vm: deps-test deps-conformance deps-clients build bin/berth-image ## Run tests in virtual machines: under cgroup v2 with AppArmor (the OCI validation programs too), with systemd (the clients too, and again under v1), with SELinux.
	validate=$$(hack/conformance/run.sh --guest-command) && \
	hack/vm/test.sh -p 2 -timeout 7200 -must '^TestAppArmor' $(VM_PACKAGES) + -command conformance "$$validate"
	hack/vm/test.sh -systemd -timeout 7200 \
	  -run '^TestSystemd' -must '^TestSystemd' ./node-agent/ociruntime ./cmd/berth ./cmd/berth-agent + $(CLIENTS_GROUP)
	hack/vm/test.sh -run '^(TestSystemd|TestCheckpointCgroupMount)' -must '^(TestSystemd|TestCheckpointCgroupMount)' -timeout 3600 -systemd -hybrid ./node-agent/ociruntime
	hack/vm/test.sh -run '^TestSELinux' -must '^TestSELinux' -timeout 3600 -append "selinux=1 security=selinux enforcing=0" ./node-agent/ociruntime ./node-agent/bundle ./cmd/berth-agent

.PHONY: test-power
test-power: deps-test ## Cut the power of a virtual machine twice while its agent works, and see that nothing is lost.
	$(GO_TEST) -count=1 -timeout 60m -v -run TestPowerLoss ./test/power

CUTS ?= 50

.PHONY: power-loss
power-loss: deps-test ## The same CUTS times (50).
	BERTH_POWER_CUTS=$(CUTS) $(GO_TEST) -count=1 -timeout 12h -v -run TestPowerLoss ./test/power

.PHONY: test-e2e
test-e2e: deps-test build $(HELLO) ## Apply, see and delete samples with kubectl on a cluster of this machine.
	KUBEBUILDER_ASSETS=$$(hack/controlplane/build.sh) && export KUBEBUILDER_ASSETS && \
	$(GO_TEST) -count=1 -timeout 60m -v ./test/e2e/...

.PHONY: conformance
conformance: deps-conformance build ## Run the OCI validation programs with bin/berth; hack/conformance/run.sh --help says more (root).
	hack/conformance/run.sh

.PHONY: conformance-vm
conformance-vm: deps-conformance build ## Run them under cgroup v2, in a virtual machine, as test-vm does.
	hack/conformance/run.sh --vm

.PHONY: bats
bats: deps-bats build ## Run runc's own integration suite with bin/berth and with runc; hack/bats/run.sh --help says more (root).
	hack/bats/run.sh

.PHONY: crun-tests
crun-tests: deps-crun-tests build ## Run crun's own tests with bin/berth and with crun; hack/crun-tests/run.sh --help says more (root).
	hack/crun-tests/run.sh

.PHONY: test-clients
test-clients: deps-clients build bin/berth-image ## Use podman, buildah, containerd and docker with berth in place of runc (root).
	cd test/clients && $(GO_TEST) -count=1 -timeout 60m -v ./...

# The tests of clients that are run in the virtual machine; CLIENTS_VM=. is all of them, which takes nine minutes.
CLIENTS_VM ?= ^(TestCheckpoint.*|TestContainerd|TestCRI|TestPodman)$$/^(run|exec|pause|metrics|lifecycle|resources|security_context)$$
CLIENTS_GROUP = -C test/clients -run '$(CLIENTS_VM)' -must '^Test(Checkpoint(Podman|Containerd)|Containerd|CRI|Podman)$$' .

.PHONY: test-clients-vm
test-clients-vm: deps-clients build bin/berth-image ## Use podman and containerd with berth under cgroup v2 and systemd, checkpoints included, in a virtual machine, as test-vm does.
	hack/vm/test.sh -systemd -timeout 5400 $(CLIENTS_GROUP)

.PHONY: lint
lint: $(GOLANGCI_LINT) verify-generate ## Run the linters.
	$(GOLANGCI_LINT) run ./...
	cd test/clients && $(GOLANGCI_LINT) run ./...
	@hack/deps.sh lint
	go run ./hack/words $$(git ls-files '*.go' '*.md' ':!CONTRIBUTING.md' ':!hack/words')
	shellcheck --severity=warning .ci/run $$(git ls-files 'hack/*.sh')
	shellcheck --severity=warning --shell=dash --exclude=SC1007,SC2034 $(GUEST_SCRIPTS)

# busybox's sh runs these in the virtual machine.
GUEST_SCRIPTS := $(addprefix hack/vm/guest/,command go-test init start start-systemd)

$(GOLANGCI_LINT):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

.PHONY: verify-generate
verify-generate: ## Fail where generated files differ from what the sources say.
	@before=$$(sha256sum api/v1alpha1/zz_generated* config/crd/bases/* config/rbac/role.yaml) && \
	$(MAKE) --no-print-directory generate manifests && \
	after=$$(sha256sum api/v1alpha1/zz_generated* config/crd/bases/* config/rbac/role.yaml) && \
	if [ "$$before" != "$$after" ]; then echo 'generated files were stale: commit what `make generate manifests` has changed' >&2; exit 1; fi

FUZZTIME ?= 10m

.PHONY: fuzz
fuzz: ## Run every fuzz target of the packages that read what others write, FUZZTIME each.
	@for p in $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... | cut -d' ' -f1); do \
	  for t in $$($(GO_TEST) -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$t" && $(GO_TEST) -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) $$p | tail -3 || exit 1; \
	  done; \
	done

.PHONY: bench-runtime
bench-runtime: deps-bench build ## Compare berth with runc, crun and the same system calls in C: run, create+start+delete, exec, 100 at once, memory.
	@hack/bench/runtime.sh

.PHONY: bench-node
bench-node: deps-bench-node build bin/berth-image ## Compare the agent with ctr and podman: containers started a second, and its memory at 200 and 1,000 (root).
	@hack/bench/node.sh

.PHONY: bench-burst
bench-burst: deps-run build $(HELLO) ## Apply 1,000 Containers at once to a cluster of this machine, and compare their status with their processes; count the API server's writes, and memory (root).
	@hack/bench/cluster.sh burst

.PHONY: bench-nodes
bench-nodes: deps-run build $(HELLO) ## Measure API server and controller with up to 5,000 nodes that fake agents play (root).
	@hack/bench/cluster.sh nodes

.PHONY: deps-run deps-test deps-bench deps-bench-node deps-conformance deps-clients deps-bats deps-crun-tests
deps-run deps-test deps-bench deps-bench-node deps-conformance deps-clients deps-bats deps-crun-tests: deps-%:
	@hack/deps.sh $*
