# Everything here needs go and gcc, and nothing else: make preflight says what is missing.

GO       ?= go
SCENARIO ?= room-10k
FUZZTIME ?= 20s

VERSION  := $(shell git describe --tags --always 2>/dev/null || echo dev)
COMMIT   := $(shell git rev-parse --short=12 HEAD 2>/dev/null)$(shell git diff --quiet HEAD 2>/dev/null || echo -dirty)
LDFLAGS  := -X main.version=$(VERSION) -X main.commit=$(COMMIT)

.DEFAULT_GOAL := build
.PHONY: help build test bench selftest compare profile-diff up docs pictures lint proto fuzz clean preflight preflight-bench

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

build: preflight ## bin/barrage
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/barrage .

# What holds the harness against known truth measures times, so it goes first, with nothing beside
# it and without the race detector, as do tests that the detector makes impossible. With
# BARRAGE_SELFTEST=required what the machine leaves unclear there is a failure.
test: preflight ## all tests, with the race detector
	$(GO) test -count=1 -timeout 20m ./harness/selftest
	$(GO) test -count=1 -run '^TestMemoryOfAClient$$' ./harness/swarm
	BARRAGE_SELFTEST= $(GO) test -race -timeout 20m ./...

bench: preflight-bench build ## run scenarios/$(SCENARIO).yaml and print its result
	bin/barrage bench $(SCENARIO)

selftest: build ## is the harness to be trusted on this machine? 40 s
	bin/barrage bench -selftest

compare: build ## what changed between the runs A= and B=, folders of results/
	bin/barrage compare $(A) $(B)

profile-diff: build ## where the cost of a delivery changed between the runs A= and B=, taken with bench -profile
	bin/barrage profile diff $(A) $(B)

up: build ## everything in one process, for a first look
	bin/barrage up

docs: ## regenerate docs/configuration.md and docs/scenarios.md from the code
	$(GO) test . -run Reference -update

pictures: ## draw the pictures of harness/README.md anew, from runs in results/ and profiles/ (needs Chromium)
	$(GO) test . -run Pictures -pictures

lint: ## gofmt, go vet and staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
	  echo "not formatted (gofmt -w mends it):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fuzz: preflight ## every fuzz target for $(FUZZTIME)
	@grep -rHoE --include='*_test.go' '^func Fuzz\w+' . | sed -E 's|/[^/]+:func | |' | while read -r package target; do \
	  echo "$$package $$target"; \
	  $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; done

proto: ## regenerate server/api and harness/api with the generators pinned in go.mod
	@command -v protoc >/dev/null || { echo "protoc is missing: sudo apt-get install -y protobuf-compiler"; exit 1; }
	@for dir in server/api harness/api; do \
	  protoc -I $$dir --plugin=protoc-gen-go=$$($(GO) tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$$($(GO) tool -n protoc-gen-go-grpc) \
	    --go_out=. --go_opt=module=barrage --go-grpc_out=. --go-grpc_opt=module=barrage \
	    $$(cd $$dir && ls */*.proto) || exit 1; done

clean: ## what the other targets made, but for results/
	rm -rf bin

preflight:
	@GO='$(GO)' .ci/preflight 2048

preflight-bench:
	@GO='$(GO)' .ci/preflight 12000
