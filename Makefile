# The contract with users and CI. Every target does its own prerequisites and says what it is doing.

# PG=15 (Debian's), 16, 17 or 18 (fetched below target/), or PG_CONFIG=… of any of them.
ifdef PG_CONFIG
PG := $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
endif
PG ?= 15
MAJORS = 15 16 17 18
# For another major than this one.
OWN = env -u PG_CONFIG -u SYNCLINE_LIBRARY $(MAKE) --no-print-directory
FETCHED = $(CURDIR)/target/postgres/$(PG)/pg_config
PG_CONFIG ?= $(if $(filter 15,$(PG)),pg_config,$(FETCHED))
SECONDS ?= 60
SEED ?= 1
MUTANT_SEEDS ?= 2
# One for each major: what cargo leaves below target/release is that of the last build.
export SYNCLINE_LIBRARY ?= $(CURDIR)/target/libsyncline-$(PG).so
KILLS ?= 200
export PG_CONFIG
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)
PACKAGES = postgresql-15 postgresql-server-dev-15 libclang-14-dev build-essential pkg-config python3-psycopg2 python3-websockets $(NODE) $(PIP)
# Debian's Node 18 will do; whoever has another one keeps it.
NODE = $(if $(and $(shell command -v node),$(shell command -v npm)),,nodejs npm)
PIP = $(if $(or $(filter 15 17,$(PG)),$(shell command -v pip)),,python3-pip)
# Peers of the output plugin. A server that was fetched has none of them, and is measured without.
BENCH_PACKAGES = $(if $(filter 15,$(PG)),postgresql-15-wal2json postgresql-15-decoderbufs)
DJANGO_PACKAGES = python3-django python3-psycopg2 pgbouncer
ACTIVERECORD_PACKAGES = ruby-activerecord ruby-pg pgbouncer
MUTANTS = $(CURDIR)/target/libsyncline-$(PG)-mutants.so
# pgrx reads the headers of the server whose pg_config this is.
CARGO_PG = PGRX_PG_CONFIG_PATH="$$(command -v $(PG_CONFIG))" cargo
FEATURES = --no-default-features --features pg$(PG)
CASSERT = $(CURDIR)/target/cassert
ON_CASSERT = PG_CONFIG=$(CASSERT)/pg/bin/pg_config SYNCLINE_LIBRARY=$(CASSERT)/build/release/libsyncline.so
CASSERT_PACKAGES = dpkg-dev libicu-dev libxml2-dev zlib1g-dev
# Programs that only some targets need; a new version goes to a new folder.
PGRX_VERSION = $(shell sed -n 's/^pgrx = .*"=\([0-9.]*\)".*/\1/p' Cargo.toml)
FUZZ_VERSION = 0.13.1
TOOLS = $(CURDIR)/target/tools
PGRX = $(TOOLS)/cargo-pgrx-$(PGRX_VERSION)/bin/cargo-pgrx
FUZZ = $(TOOLS)/cargo-fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
FUZZ_TARGETS = $(sort $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs))))
MINUTES ?= 3

# A throw-away server for a command.
SERVE = cargo run --profile tests -q -p syncline-tests --bin serve --
# From the quick and telling to the long: what is not named here runs in between.
FIRST = cluster regress isolation
LAST = oracle mutants pgrx
# Between two majors: make test-upgrade; on a server with assertions: make test-cassert.
OTHER = $(filter-out $(FIRST) $(LAST) upgrade caches,$(sort $(notdir $(basename $(wildcard pgrx-tests/tests/*.rs)))))

SHORT = $(FIRST) ddl majors relational rights row_security stream stream_handover stream_standby types

# Runs these test files. Each test has servers of its own and mostly waits for them.
TESTS_AT_ONCE ?= 2
tests = set -e; for name in $(1); do \
	  echo "== $$name, PostgreSQL $(PG)"; \
	  cargo test --profile tests -p syncline-tests --test $$name -- --test-threads=$(TESTS_AT_ONCE); \
	done

# Installs Debian packages that are not there.
packages = if dpkg -s $(1) >/dev/null 2>&1; then \
	  echo "== all packages are there"; \
	elif [ -z "$(SUDO)" ] || command -v sudo >/dev/null; then \
	  echo "== installing $(1)"; \
	  $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(1); \
	else \
	  echo "as root: apt-get install $(1)"; exit 1; \
	fi

help: ## shows this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 20

setup: ## installs what a bare Debian 12 with Rust lacks
	@$(call packages,$(PACKAGES))
	@$(if $(filter $(FETCHED),$(PG_CONFIG)),[ -x $(FETCHED) ] || { echo "== fetching PostgreSQL $(PG)"; scripts/fetch-postgres $(PG) $(dir $(FETCHED)); })
	@command -v $(PG_CONFIG) >/dev/null || { echo "$(PG_CONFIG) is not to be found: pass PG_CONFIG=…"; exit 1; }
	@$(PG_CONFIG) --version | grep -q "^PostgreSQL $(PG)" || { echo "$(PG_CONFIG) is not that of PostgreSQL $(PG): pass PG=… or PG_CONFIG=…"; exit 1; }

build: setup ## builds the extension in release mode
	@echo "== building for $$($(PG_CONFIG) --version)"
	CARGO_TARGET_DIR=target $(CARGO_PG) build --release -p syncline $(FEATURES)
	@cp target/release/libsyncline.so target/libsyncline-$(PG).so

# A new file under the name, never another content in the file: a live server has the old one mapped.
install: build ## installs it into the server of PG_CONFIG=…
	@set -e; lib=$$($(PG_CONFIG) --pkglibdir); ext=$$($(PG_CONFIG) --sharedir)/extension; \
	echo "== installing into $$lib and $$ext"; \
	cp target/libsyncline-$(PG).so "$$lib/syncline.so.new"; mv "$$lib/syncline.so.new" "$$lib/syncline.so"; \
	cp syncline.control "$$ext/"; cp sql/syncline.sql "$$ext/syncline--0.1.0.sql"

test: build ## runs all tests, SECONDS=… of oracle among them
	@echo "== pure domain"
	cargo test -p syncline-delta
	@echo "== on a real cluster"
	@$(call tests,$(FIRST) $(OTHER))
	@$(MAKE) --no-print-directory test-upgrade test-js oracle oracle-mutants

test-short: build ## runs the telling tests, 20 s of oracle among them: for the majors that CI does not run in full
	@$(call tests,$(SHORT))
	@$(MAKE) --no-print-directory test-upgrade oracle SECONDS=20

test-all: ## runs all tests on 15, 16, 17 and 18
	@set -e; for major in $(MAJORS); do $(OWN) test PG=$$major; done

test-upgrade: build ## upgrades a cluster of 15 to PG=17 with pg_upgrade
ifneq ($(PG),17)
	@echo "== upgrade: does not run with PG=$(PG): pg_upgrade of 16.14 and 18.4 cannot read what Debian's 15 writes; make test PG=17"
else
	@echo "== upgrade: from 15 to $(PG)"
	@$(OWN) build PG=15 PG_CONFIG=pg_config
	OLD_PG_CONFIG=pg_config OLD_LIBRARY=target/libsyncline-15.so \
	  cargo test --profile tests -p syncline-tests --test upgrade -- --ignored --test-threads=1
endif

test-cassert: setup ## builds a server that checks its assertions, and runs the tests on it
	@$(call packages,$(CASSERT_PACKAGES))
	@echo "== PostgreSQL with assertions, into $(CASSERT)"
	@sh pgrx-tests/cassert.sh $(CASSERT)
	@echo "== building for it"
	PGRX_PG_CONFIG_PATH=$(CASSERT)/pg/bin/pg_config CARGO_TARGET_DIR=$(CASSERT)/build cargo build --release -p syncline
	@set -e; for name in $(FIRST) $(OTHER) oracle; do \
	  echo "== $$name"; $(ON_CASSERT) cargo test --profile tests -p syncline-tests --test $$name -- --test-threads=$(TESTS_AT_ONCE); \
	done
	$(ON_CASSERT) cargo test --profile tests -p syncline-tests --test caches -- --ignored
	cd clients/js && npm ci --no-audit --no-fund
	$(ON_CASSERT) $(SERVE) npm test --prefix clients/js

test-js: build ## tests the JavaScript client against a real server
	@echo "== JavaScript client, Node $$(node --version)"
	@node -e 'process.exit(Number.parseInt(process.versions.node) >= 18 ? 0 : 1)' || { echo "Node 18 or later is needed"; exit 1; }
	cd clients/js && npm ci --no-audit --no-fund && npm run check
	$(SERVE) npm test --prefix clients/js

$(PGRX):
	@echo "== installing cargo-pgrx $(PGRX_VERSION) into $(TOOLS)"
	cargo install --locked --root $(TOOLS)/cargo-pgrx-$(PGRX_VERSION) cargo-pgrx@$(PGRX_VERSION)

$(FUZZ):
	@echo "== installing cargo-fuzz $(FUZZ_VERSION) into $(TOOLS)"
	cargo install --locked --root $(TOOLS)/cargo-fuzz-$(FUZZ_VERSION) cargo-fuzz@$(FUZZ_VERSION)

test-pgrx: build $(PGRX) ## runs pgrx's own test, package, install and run: minutes, as they build it all again
	@[ $(PG) = 15 ] || { echo "pgrx's own ways are tested with PG=15 only"; exit 1; }
	@echo "== pgrx's own ways, with cargo-pgrx $(PGRX_VERSION)"
	CARGO_PGRX=$(PGRX) cargo test --profile tests -p syncline-tests --test pgrx -- --ignored --test-threads=1

# The last share of the time is for a server.
fuzz: build $(FUZZ) ## feeds each parser with random text, and a server through SQL, for MINUTES=… in all, with SEED=…
	@set -e; seconds=$$(($(MINUTES) * 60 / $(words $(FUZZ_TARGETS) sql))); for name in $(FUZZ_TARGETS); do \
	  echo "== fuzzing $$name for $$seconds s"; mkdir -p fuzz/corpus/$$name; \
	  $(FUZZ) fuzz run --sanitizer none --target-dir target/fuzz $$name fuzz/corpus/$$name fuzz/seeds/$$name -- \
	    -max_total_time=$$seconds -dict=fuzz/words.dict -max_len=2000 -verbosity=0 -print_funcs=0 -print_final_stats=1; \
	done; \
	echo "== fuzzing through SQL for $$seconds s, seed $(SEED)"; \
	FUZZ_SECONDS=$$seconds FUZZ_SEED=$(SEED) cargo test --profile tests -p syncline-tests --test fuzz -- --nocapture

test-postgis: build ## runs the test of types with PostGIS, which takes 170 MB
	@$(call packages,postgresql-15-postgis-3)
	@echo "== types of PostGIS"
	cargo test --profile tests -p syncline-tests --test types -- --ignored

test-todo: build ## runs those of examples/todo in Chromium
	@$(call packages,chromium)
	@echo "== todo"
	cd examples/todo && npm ci --no-audit --no-fund
	$(SERVE) npm test --prefix examples/todo

bench-todo: build ## measures there how long a commit takes to another user's page, by each source of news
	@$(call packages,chromium)
	@echo "== bench-todo"
	cd examples/todo && npm ci --no-audit --no-fund
	$(SERVE) npm run --silent latency --prefix examples/todo

# Ctrl-C is for the Node server: the program that holds the database then removes it.
demo-app: build ## serves shared todo lists on localhost, until Ctrl-C; PORT=…
	@echo "== demo-app"
	@cargo build --profile tests -q -p syncline-tests --bin serve
	@cd examples/todo && npm ci --no-audit --no-fund --omit=dev
	@trap '' INT; cd examples/todo && ../../target/tests/serve npm run --silent demo

test-examples: test-todo test-django test-activerecord ## runs the tests of the examples

# Debian's own interpreters: others may come first in PATH, without the packages.
test-django: build ## runs those of examples/django
	@$(call packages,$(DJANGO_PACKAGES))
	@echo "== django"
	@$(SERVE) examples/with-pgbouncer /usr/bin/python3 -B examples/django/manage.py test --keepdb tracker

test-activerecord: build ## runs those of examples/activerecord
	@$(call packages,$(ACTIVERECORD_PACKAGES))
	@echo "== activerecord"
	@$(SERVE) examples/with-pgbouncer /usr/bin/ruby examples/activerecord/test/all.rb

demo: build ## follows this machine's package index while it changes and the server is killed
	@echo "== demo"
	@cargo run --profile tests -q -p syncline-tests --bin demo

bench: build ## measures against peers into bench/results; QUICK=1 with fewer rows, ONLY=write,live some parts
	@$(if $(BENCH_PACKAGES),$(call packages,$(BENCH_PACKAGES)))
	@echo "== bench"
	@cargo run --release -q -p syncline-tests --bin bench

oracle: build ## runs the oracle for SECONDS=… with SEED=…
	@echo "== oracle: $(SECONDS) s, seed $(SEED)"
	ORACLE_SECONDS=$(SECONDS) ORACLE_SEED=$(SEED) cargo test --profile tests -p syncline-tests --test oracle -- --nocapture

load: build ## lets 64 clients pull and 16 writers write for MINUTES=…, with SEED=…
	@echo "== load: $(MINUTES) min, seed $(SEED)"
	LOAD_SECONDS=$$(($(MINUTES) * 60)) LOAD_SEED=$(SEED) cargo test --profile tests -p syncline-tests --test load -- --nocapture --test-threads=1

faults: build ## kills servers and their processes KILLS=… times, with SEED=…
	@echo "== faults: $(KILLS) kills with each kind of commit, seed $(SEED)"
	FAULTS_KILLS=$(KILLS) FAULTS_SEED=$(SEED) cargo test --profile tests -p syncline-tests --test faults -- --nocapture --test-threads=1

stream-size: build ## measures positions of the stream under 12 writers for MINUTES=…
	@echo "== stream-size: $(MINUTES) min"
	STREAM_SIZE_SECONDS=$$(($(MINUTES) * 60)) cargo test --profile tests -p syncline-tests --test stream_size -- --nocapture

stream-faults: build ## kills servers KILLS=… times with heartbeats and without, under followers of the stream, with SEED=…
	@echo "== stream-faults: $(KILLS) kills each, seed $(SEED)"
	STREAM_KILLS=$(KILLS) STREAM_SEED=$(SEED) \
	  cargo test --profile tests -p syncline-tests --test stream_faults -- --nocapture --test-threads=1

oracle-mutants: setup ## shows that the oracle finds each deliberate fault, over MUTANT_SEEDS=…
	@echo "== the oracle's teeth: $(MUTANT_SEEDS) seeds for each fault"
	CARGO_TARGET_DIR=target $(CARGO_PG) build --release -p syncline $(FEATURES),mutants
	@cp target/release/libsyncline.so $(MUTANTS)
	SYNCLINE_LIBRARY=$(MUTANTS) MUTANT_SEEDS=$(MUTANT_SEEDS) \
	  cargo test --profile tests -p syncline-tests --test mutants -- --ignored --nocapture --test-threads=1

fmt: ## formats the code
	cargo fmt --all

lint: setup ## checks format and lints
	cargo fmt --all --check
	$(CARGO_PG) clippy --release --workspace --all-targets $(FEATURES) -- -D warnings

clean: ## removes what was built
	cargo clean

.PHONY: help setup build install demo test test-all test-short test-upgrade test-pgrx fuzz bench oracle oracle-mutants stream-size stream-faults load faults fmt lint clean test-js demo-app bench-todo test-examples test-todo test-cassert test-postgis
