# The targets that people use: run, build, test, lint, generate. Everything that
# they need is installed here.

GO      ?= go
BIN     := $(CURDIR)/.bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

.DEFAULT_GOAL := build
.PHONY: build run test test-race lint generate check-generate fuzz bench tools-test clean

build: ## the binary, bin/sluice, which needs no library of the system
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

run: build ## the demo: gateway, three services, curl lines to paste
	./bin/sluice demo

# Without the profile: with it everything is compiled once more for the command. make lint vets; nobody debugs these binaries.
test: export GOFLAGS += -pgo=off -vet=off -ldflags=-w
test: tools-test ## all tests, against both engines; with the race detector those of packages that have goroutines, and of the whole gateway RACED
	$(GO) test ./...
	$(GO) test -tags loop -skip '$(ANYWAY)' ./gateway ./gateway/listener ./config/examples
	$(GO) test -race $$($(GO) list ./... | grep -vE '/($(ALONE))$$')
	$(GO) test -race -run '$(RACED)' ./gateway
	$(GO) test -race -tags loop -run '$(RACED)' ./gateway
	cd loadtest && $(GO) test -race ./...

# Packages whose code runs on one goroutine, the command, whose tests start processes, the gateway as a whole, and what a browser looks at; and its tests where goroutines meet.
ALONE := sluice|gateway|dashboard|waf|router|config|kong|schema|examples|document|convert|transform|coding|compare|corpus|instructions|bench/(cachesuite|graphql|path|peers|program|scan|tree)|action|redirect|respond|apidocs|grpcwire|wswire|accesslog|apikey|authorize|botfilter|cors|ipfilter|requestsize|requesttransform|responsetransform
# What the engine loop has no part in: it speaks HTTP/1.1 without TLS.
ANYWAY := HTTP2|HTTP3|Obtain|Renew|Authority|SharedStorage|Challenge
RACED ?= Stream|Upgrade|Abort|Drain|Pipeline|Reload|Stale|Coalesc|Mirror|Idempotency

test-race: tools-test ## every test with the race detector
	$(GO) test -race ./...
	$(GO) test -race -tags loop ./gateway ./gateway/listener

# The race detector needs a C compiler; the test of the demo pastes its curl lines; discovery and configurations in etcd are tested with it, usage with PostgreSQL, and shared state with Redis: the tests run servers of their own; ip parts an instance from the others; promtool judges rules and metrics.
tools-test: tools-browser $(BIN)/promtool
	@command -v gcc >/dev/null && command -v curl >/dev/null && command -v etcd >/dev/null || (apt-get update -q && apt-get install -y -q gcc libc6-dev curl etcd-server)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || (apt-get update -q && apt-get install -y -q --no-install-recommends postgresql)
	@command -v redis-server >/dev/null || (apt-get update -q && apt-get install -y -q redis-server)
	@command -v ip >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends iproute2)

# The dashboard's tests look at it with Chromium, which npm must not bring along: the browser is the system's.
BROWSER := gateway/admin/dashboard/browser
.PHONY: tools-browser screenshots
tools-browser: $(BROWSER)/node_modules/.package-lock.json
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; }

$(BROWSER)/node_modules/.package-lock.json: $(BROWSER)/package-lock.json
	@command -v npm >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends nodejs npm; }
	cd $(BROWSER) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

screenshots: tools-browser ## the dashboard's pictures in README
	$(GO) test -count=1 ./gateway/admin/dashboard -run '^TestScreenshots$$' -screenshots $(CURDIR)/gateway/admin/dashboard/screenshots

.PHONY: test-usage
REQUESTS ?= 10000000
test-usage: tools-test ## totals of usage against the generator's own, with REQUESTS of 1,000 consumers, over a SIGKILL and with PostgreSQL stopped meanwhile
	SLUICE_TEST_CONSUMERS=1000 SLUICE_TEST_REQUESTS=$(REQUESTS) $(GO) test -count=1 -timeout 4h -v -run '^TestUsage' ./cmd/sluice

# The program alone, out of Debian's package: the package itself would bring and start a server.
$(BIN)/promtool:
	@mkdir -p $(BIN)/deb && rm -f $(BIN)/deb/*
	@command -v promtool >/dev/null && ln -sf "$$(command -v promtool)" $@ || { apt-get update -q && cd $(BIN)/deb && apt-get download -q prometheus && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool > $@ && chmod +x $@; }
	@rm -rf $(BIN)/deb && $@ --version >/dev/null

lint: check-generate $(BIN)/golangci-lint $(BIN)/govulncheck ## golangci-lint, generated files, known vulnerabilities
	$(GO) vet ./...
	$(BIN)/golangci-lint run ./...
	cd loadtest && $(GO) vet ./... && $(BIN)/golangci-lint run ./...
	@$(BIN)/govulncheck ./... > $(BIN)/govulncheck.txt 2>&1; code=$$?; \
	if [ $$code -eq 3 ]; then cat $(BIN)/govulncheck.txt; exit 1; \
	elif [ $$code -ne 0 ]; then echo "govulncheck: its database can not be reached; known vulnerabilities were NOT checked"; \
	else echo "govulncheck: no known vulnerability"; fi

$(BIN)/golangci-lint: bench/tools/go.mod
	cd bench/tools && $(GO) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BIN)/govulncheck: bench/tools/go.mod
	cd bench/tools && $(GO) build -o $@ golang.org/x/vuln/cmd/govulncheck

generate: $(BIN)/esbuild ## registry, JSON Schema, configuration reference, the matrix of Kong's fields, the manual page, the dashboard's one script and style
	@mkdir -p $(BIN)
	$(GO) run ./cmd/generate registry
	$(GO) run ./cmd/generate reference
	$(GO) run ./cmd/generate kong
	$(GO) run ./cmd/sluice man > $(BIN)/sluice.1 && mv $(BIN)/sluice.1 config/deploy/sluice.1
	@# Names are kept and lines are short: errors that browsers report can be read, and changes compared.
	cd $(DASHBOARD)/web && $(ESBUILD) main.js --bundle --outfile=../generated/operators.js
	@# The consumer's page has the same parts, but a session of its own.
	@rm -rf $(BIN)/developer && mkdir -p $(BIN)/developer && cp -r $(DASHBOARD)/web/lib $(DASHBOARD)/web/developer/. $(BIN)/developer
	cd $(BIN)/developer && $(ESBUILD) main.js --bundle --outfile=$(CURDIR)/$(DASHBOARD)/generated/developer.js
	cd $(DASHBOARD)/web/style && cat base.css layout.css parts.css | $(ESBUILD) --loader=css > ../../generated/style.css

DASHBOARD := gateway/admin/dashboard
ESBUILD   := $(BIN)/esbuild --log-level=warning --format=esm --minify-whitespace --line-limit=200

$(BIN)/esbuild: bench/tools/go.mod
	cd bench/tools && $(GO) build -o $@ github.com/evanw/esbuild/cmd/esbuild

# The generated files are those that the sources give. Compared as copies, so
# that it works on a tree with other changes too.
check-generate:
	@rm -rf $(BIN)/generated && mkdir -p $(BIN)/generated
	@cp gateway/registry/generated.go config/sluice.schema.json config/README.md config/deploy/sluice.1 $(DASHBOARD)/generated/* $(BIN)/generated/
	@cp config/kong/README.md $(BIN)/generated/kong.md
	@$(MAKE) -s generate
	@cmp -s config/kong/README.md $(BIN)/generated/kong.md || { echo "config/kong/README.md was not up to date; commit what make generate wrote"; exit 1; }
	@for f in gateway/registry/generated.go config/sluice.schema.json config/README.md config/deploy/sluice.1 $(DASHBOARD)/generated/*; do \
		cmp -s $$f $(BIN)/generated/$$(basename $$f) || { echo "$$f was not up to date; commit what make generate wrote"; exit 1; }; \
	done

FUZZTIME ?= 20s
fuzz: ## every fuzz target for FUZZTIME
	@set -e; for f in $$(grep -rln '^func Fuzz' --include=*_test.go .); do \
		for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$f); do \
			echo "$$t in $$(dirname $$f)"; \
			$(GO) test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f); \
		done; \
	done

# One processor and two show what parallel work gains. -short leaves out what is
# filled with a million keys first; BENCHFLAGS= takes it in.
BENCHFLAGS ?= -short
bench: tools-browser ## every benchmark once through, on one processor and on two
	$(GO) test -run '^$$' -bench . -benchmem -cpu 1,2 -timeout 60m $(BENCHFLAGS) ./...

BASE ?=
COMPAREFLAGS ?=
.PHONY: bench-compare bench-smoke tools-count
bench-compare: $(BIN)/benchstat ## BASE=COMMIT: benchmarks of that commit and of this tree in turns, compared by benchstat
	$(GO) run ./bench/compare $(if $(BASE),-base $(BASE)) -benchstat $(BIN)/benchstat $(COMPAREFLAGS)

bench-smoke: tools-count ## fails where a request allocates, or needs 5% more instructions than at BASE (the parent commit)
	$(GO) test -count=1 -run 'Allocate$$' ./gateway
	$(GO) run ./bench/instructions $(if $(BASE),-base $(BASE))

# Counts instructions where the processor's counters can not be read. Where it
# can not be installed, bench-smoke says that nothing was counted.
tools-count:
	@command -v valgrind >/dev/null || { apt-get update -q && apt-get install -y -q valgrind; } || true

$(BIN)/benchstat: bench/tools/go.mod
	cd bench/tools && $(GO) build -o $@ golang.org/x/perf/cmd/benchstat

clean:
	rm -rf bin $(BIN)

.PHONY: bench-peers profile pgo
PEERSFLAGS ?=
bench-peers: ## sluice beside nginx, HAProxy, Caddy and Traefik on the same work, into bench/results; PEERSFLAGS="-only proxy -rounds 1" for less
	$(GO) run ./bench/peers $(PEERSFLAGS)

.PHONY: bench-corpus bench-slowloris scan-tls
bench-corpus: ## the corpus of hostile messages through sluice, nginx and haproxy, into bench/results
	$(GO) run ./bench/corpus

SLOWLORISFLAGS ?=
bench-slowloris: ## what ordinary clients notice of a thousand slow ones, into bench/results
	$(GO) run ./bench/slowloris $(SLOWLORISFLAGS)

.PHONY: cache-suite
CACHESUITEFLAGS ?=
cache-suite: ## the public HTTP cache test suite through a running sluice, into bench/results; fails where it was better before
	$(GO) run ./bench/cachesuite $(CACHESUITEFLAGS)

scan-tls: ## testssl.sh at a TLS listener; fails above LOW; into bench/results
	$(GO) run ./bench/scan

.PHONY: graphql-audit tools-node
graphql-audit: tools-node ## the audit of npm's graphql-http at a GraphQL facade; fails on any MUST or SHOULD
	cd bench/tools/graphql && npm ci
	$(GO) run ./bench/graphql

tools-node:
	@command -v node >/dev/null && command -v npm >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends nodejs npm)

.PHONY: loadtest loadtest-smoke loadtest-prove tools-ha
SCENARIO ?= smoke
DURATION ?= 2m
LOADTESTFLAGS ?=
comma := ,
loadtest: $(if $(filter ha all,$(subst $(comma), ,$(SCENARIO))),tools-ha) $(BIN)/loadtest ## load with thresholds, into loadtest/results; SCENARIO=all for every scenario, DURATION=30m for a longer soak
	$(BIN)/loadtest -sluice bin/sluice -out loadtest/results -scenario $(SCENARIO) -duration $(DURATION) $(LOADTESTFLAGS)

# The parts of the scenario ha. Their own services are not needed.
tools-ha:
	@command -v redis-server >/dev/null && command -v etcd >/dev/null && command -v haproxy >/dev/null || \
		{ apt-get update -q && apt-get install -y -q --no-install-recommends redis-server etcd-server haproxy; }

loadtest-smoke: ## the scenario for every change
	$(MAKE) loadtest SCENARIO=smoke

loadtest-prove: ## break what each scenario proves; its thresholds must notice
	$(MAKE) loadtest LOADTESTFLAGS=-prove

$(BIN)/loadtest: build FORCE
	cd loadtest && $(GO) build -o $@ .
FORCE:

PROFILES := bench/results/raw/profiles
profile: ## CPU and allocation profiles of sluice under the peers' load, into bench/results/raw/profiles
	$(GO) run ./bench/peers -profile $(PROFILES) $(PEERSFLAGS)

# go build takes default.pgo by itself. The gain is what the rounds say of
# "sluice ÷ it" against the same source built without.
PGOWORKS ?= proxy-300,proxy-10k,post-1k,jwt-limit,cached-300,tls-300,h2c-300
pgo: ## a new cmd/sluice/default.pgo from profiles under mixed load, and what it gains
	$(GO) run ./bench/peers -profile $(PROFILES)/pgo -seconds 10 -only $(PGOWORKS)
	GOFLAGS=-tags=loop $(GO) run ./bench/peers -profile $(PROFILES)/pgo-loop -seconds 10 -only $(PGOWORKS)
	$(GO) tool pprof -proto -output cmd/sluice/default.pgo $(PROFILES)/pgo/mixed.cpu.pprof $(PROFILES)/pgo-loop/mixed.cpu.pprof
	CGO_ENABLED=0 $(GO) build -trimpath -pgo=off -ldflags '$(LDFLAGS)' -o $(PROFILES)/pgo/sluice-without ./cmd/sluice
	$(GO) run ./bench/peers -gateways sluice -also without-pgo=$(PROFILES)/pgo/sluice-without -only $(PGOWORKS) -out $(PROFILES)/pgo $(PEERSFLAGS)
