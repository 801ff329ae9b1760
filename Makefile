# The contract with users and CI. Every target does its own prerequisites and says what it is doing.

PG_CONFIG ?= pg_config
SECONDS ?= 60
SEED ?= 1
export PG_CONFIG
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)
PACKAGES = postgresql-15 postgresql-server-dev-15 libclang-14-dev build-essential pkg-config
LIBRARY = target/release/libsyncline.so
MUTANTS = target/libsyncline-mutants.so

help: ## shows this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## installs what a bare Debian 12 with Rust lacks
	@if ! dpkg -s $(PACKAGES) >/dev/null 2>&1; then \
	  echo "== installing $(PACKAGES)"; \
	  $(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q $(PACKAGES); \
	fi
	@command -v $(PG_CONFIG) >/dev/null || { echo "$(PG_CONFIG) is not to be found: pass PG_CONFIG=…"; exit 1; }

build: setup ## builds the extension in release mode
	@echo "== building for $$($(PG_CONFIG) --version)"
	PGRX_PG_CONFIG_PATH=$$(command -v $(PG_CONFIG)) cargo build --release -p syncline

install: build ## installs it into the server of PG_CONFIG=…
	@lib=$$($(PG_CONFIG) --pkglibdir); ext=$$($(PG_CONFIG) --sharedir)/extension; \
	echo "== installing into $$lib and $$ext"; \
	cp $(LIBRARY) $$lib/syncline.so.new && mv $$lib/syncline.so.new $$lib/syncline.so && \
	cp syncline.control $$ext/ && cp sql/syncline.sql $$ext/syncline--0.1.0.sql

test: build ## runs all tests, one minute of oracle among them
	@echo "== pure domain"
	cargo test -p syncline-delta
	@echo "== on a real cluster"
	ORACLE_SECONDS=$(SECONDS) ORACLE_SEED=$(SEED) cargo test --release -p syncline-tests -- --nocapture --test-threads=1
	@echo "== the oracle's teeth"
	PGRX_PG_CONFIG_PATH=$$(command -v $(PG_CONFIG)) cargo build --release -p syncline --features mutants
	cp $(LIBRARY) $(MUTANTS).new && mv $(MUTANTS).new $(MUTANTS)
	@$(MAKE) build
	SYNCLINE_LIBRARY=$(MUTANTS) cargo test --release -p syncline-tests --test mutants -- --ignored --nocapture

oracle: build ## runs the oracle for SECONDS=… with SEED=…
	ORACLE_SECONDS=$(SECONDS) ORACLE_SEED=$(SEED) cargo test --release -p syncline-tests --test oracle -- --nocapture

fmt: ## formats the code
	cargo fmt --all

lint: setup ## checks format and lints
	cargo fmt --all --check
	PGRX_PG_CONFIG_PATH=$$(command -v $(PG_CONFIG)) cargo clippy --release --workspace --all-targets -- -D warnings

clean: ## removes what was built
	cargo clean

.PHONY: help setup build install test oracle fmt lint clean
