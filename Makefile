TOOL    := go tool -modfile=internal/tools/go.mod
FUZZTIME ?= 1m
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run a batch against a demo API, all in one process
	go run ./cmd/batchd demo

.PHONY: build
build: ## Build a static bin/batchd
	CGO_ENABLED=0 go build -trimpath -tags nomsgpack -ldflags "-s -w -X main.version=$(VERSION)" -o bin/batchd ./cmd/batchd

.PHONY: test
test: ## Lint, then run all tests with the race detector; needs redis-server
	./.ci/test

.PHONY: test-faults
test-faults: ## Kill, stop and cut off real processes, in full: about 40 minutes
	go test -tags faults -count=1 -timeout 90m -v ./internal/faults/
	go test -tags faults -count=1 -run TestOwnersAreServedAlikeAtTheTarget ./worker

.PHONY: bench
bench: ## Measure batchd beside its peers: about a quarter of an hour; needs redis-server
	go run ./bench

.PHONY: verify-release
verify-release: test test-faults bench ## All of the tests, faults in full, and measurements: over an hour

.PHONY: lint
lint: ## Run the linters
	$(TOOL) golangci-lint run

.PHONY: fmt
fmt: ## Format the code and sort its imports
	$(TOOL) golangci-lint fmt

.PHONY: fuzz
fuzz: ## Run every fuzzer for FUZZTIME (1m) in turn; nightly: make fuzz FUZZTIME=10m
	./.ci/fuzz $(FUZZTIME)

.PHONY: vuln
vuln: ## Look for known vulnerabilities; needs the network
	$(TOOL) govulncheck ./...

.PHONY: sbom
sbom: build ## Write the modules in the binary to bin/batchd.cdx.json (CycloneDX)
	$(TOOL) cyclonedx-gomod bin -json -output bin/batchd.cdx.json bin/batchd

.PHONY: notices
notices: ## Collect the licences of the modules in the binary in bin/licenses
	rm -rf bin/licenses
	CGO_ENABLED=0 GOFLAGS=-tags=nomsgpack $(TOOL) go-licenses save ./cmd/batchd --ignore github.com/batchd/batchd --save_path bin/licenses
