# Every command a contributor needs; HACKING.md tells more.
GO      ?= go
VERSION ?= v1.37.2+knarr.1
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
BIN     := $(CURDIR)/bin
TAGS    := grpcnotrace
LDFLAGS := -s -w -X knarr.dev/knarr/internal/version.GitVersion=$(VERSION) -X knarr.dev/knarr/internal/version.GitCommit=$(COMMIT)
KUBECTL_LDFLAGS := -s -w -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2 -X k8s.io/client-go/pkg/version.gitCommit=$(COMMIT) -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37
# In internal/runtime/seccomp, a module of its own by the name of what it replaces.
SECCOMP := github.com/seccomp/libseccomp-golang/...
export CGO_ENABLED = 0

.PHONY: run build supervisor images deps testdeps check test scenario conformance ecosystem cri vm bench upstream sim fuzz generate clean

## run: install what is missing, build, start a one-node cluster with the demo
run: deps build
	$(BIN)/knarr up --detach --demo --images $(BIN)/images

## build: bin/knarr, which holds the supervisor too, bin/kubectl and the images
build: supervisor
	$(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/knarr ./cmd/knarr
	objcopy --remove-section knarr-supervisor --add-section knarr-supervisor=$(BIN)/knarr-supervisor --set-section-flags knarr-supervisor=noload,readonly $(BIN)/knarr
	$(GO) build -trimpath -tags $(TAGS) -ldflags '$(KUBECTL_LDFLAGS)' -o $(BIN)/kubectl ./cmd/kubectl
	$(GO) run -tags $(TAGS) ./images/build -out $(BIN)/images

## supervisor: the parent of containers; a static executable with C in it, but no libseccomp;
## where there is musl-gcc with musl, as each container's first process starts faster with it
MUSL = $(if $(shell command -v musl-gcc),CC=musl-gcc CGO_CFLAGS='-O2 -idirafter /usr/include -idirafter /usr/include/$(shell gcc -dumpmachine)')
supervisor:
	CGO_ENABLED=1 PKG_CONFIG=$(CURDIR)/hack/pkg-config $(MUSL) $(GO) build -trimpath -tags 'netgo osusergo seccomp' -ldflags '-s -w -linkmode external -extldflags -static' -o $(BIN)/knarr-supervisor ./cmd/knarr-supervisor

## deps: what the build needs from the distribution (Debian and Ubuntu)
deps:
	@./hack/deps.sh

## testdeps: and what the tests do
testdeps:
	@./hack/deps.sh test

## check: format, vet, arch tests and unit tests; under a minute once built
check:
	@test -z "$$(gofmt -l cmd internal sim images test bench)" || (gofmt -l cmd internal sim images test bench; exit 1)
	$(GO) vet -tags $(TAGS) ./... $(SECCOMP)
	$(GO) test -tags $(TAGS) -short ./... $(SECCOMP)

## test: everything, as root, with real containers
test: testdeps build
	$(GO) vet -tags $(TAGS) ./... $(SECCOMP)
	$(GO) test -tags $(TAGS) -timeout 40m ./... $(SECCOMP)

## conformance: upstream's tests: make conformance FOCUS='sig-auth' SKIP='Webhook'
FOCUS ?=
SKIP  ?=
conformance: testdeps build
	cd test/conformance && $(GO) run . -focus '$(FOCUS)' -skip '$(SKIP)' $(ARGS)

## ecosystem: Helm 4 and a manager of controller-runtime against a cluster, as root
ecosystem: testdeps build
	cd test/ecosystem && $(GO) build -o $(BIN)/ecosystem/helm helm.sh/helm/v4/cmd/helm && $(GO) test -c -o $(BIN)/ecosystem/ecosystem.test .
	ECOSYSTEM=$(BIN)/ecosystem $(GO) test -tags $(TAGS) -count=1 -run TestEcosystem -v ./test/scenario

## cri: our suite for CRI runtimes against two containerds, the field's against ours, and
## our seccomp beside libseccomp, as root
ORACLE = $(BIN)/oracle
cri:
	@./hack/deps.sh cri
	cd test/seccomp && CGO_ENABLED=1 $(GO) test -count=1 .
	cd test/cri/oracle && $(GO) build -trimpath -o $(ORACLE)/ github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	cd test/cri/oracle && CGO_ENABLED=1 $(GO) build -trimpath -tags seccomp -o $(ORACLE)/ github.com/opencontainers/runc
	$(GO) test -tags $(TAGS) -count=1 ./test/cri
	$(GO) test -tags $(TAGS) -count=1 -run TestField ./test/cri -field

## vm: the same for the built-in runtime on Debian's kernel, with cgroup v2 and AppArmor;
## critest calls sudo to load a profile
vm: build
	$(GO) test -tags $(TAGS) -c -o $(BIN)/vm/cri.test ./test/cri
	GOFLAGS=-tags=$(TAGS) ./hack/vm.sh $(BIN)/vm sh -ec 'cd test/cri; \
		$(BIN)/vm/cri.test -test.run "TestCRI/builtin|TestBuiltinKilled" -test.timeout 50m; \
		printf "#!/bin/sh\nexec \"\$$@\"\n" >/usr/local/bin/sudo; chmod +x /usr/local/bin/sudo; \
		$(BIN)/vm/cri.test -test.run TestField -test.timeout 50m -field'

## bench: the figures of docs/performance.md on this machine: make bench UPSTREAM=bin/upstream
UPSTREAM ?=
bench: testdeps build
	$(GO) run -tags $(TAGS) ./bench -knarr $(BIN)/knarr -images $(BIN)/images -upstream '$(UPSTREAM)'

## upstream: its API server, etcd, scheduler and controllers, to compare with; built for long
upstream:
	cd test/conformance && $(GO) build -o $(BIN)/upstream/etcd go.etcd.io/etcd/server/v3 && $(GO) build -o $(BIN)/upstream/ k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kube-controller-manager

## sim: the control plane under a seed: make sim SEED=42 STEPS=10000
SEED  ?= 1
STEPS ?= 10000
sim:
	$(GO) run -tags $(TAGS) ./sim -seed $(SEED) -steps $(STEPS)

## fuzz: every fuzz target for a while, one after the other: make fuzz FUZZTIME=10m FUZZ=Patch
FUZZTIME ?= 60s
FUZZ     ?= .
fuzz:
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' cmd internal sim | sort | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file | grep -E '$(FUZZ)'); do \
			echo "$$target in $$(dirname $$file)"; \
			$(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -parallel 2 ./$$(dirname $$file) </dev/null; \
		done; \
	done

## generate: the OpenAPI documents, after a change of the table of kinds; the
## numbers of system calls, after one of golang.org/x/sys
generate:
	$(GO) generate ./internal/apiserver/openapi
	cd internal/runtime/seccomp && $(GO) run gen/main.go "$$(cd ../../.. && $(GO) list -m -f '{{.Dir}}' golang.org/x/sys)" >calls.go.new && mv calls.go.new calls.go

clean:
	rm -rf $(BIN)
