# Two commands matter: `make demo` and `make test`. Both set up what they need; `make help` lists all.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
PYTHON_NAMES := python3.11 python3 python3.12 python3.13 python3.14
BROKER_PATH := $(PATH):/usr/local/sbin:/usr/sbin
BUNDLE ?= demo/line.dfb
PYTEST_ARGS ?=

.PHONY: help setup demo demo-imagenet test test-gpu bench audit coverage prove lint format types imports broker parts unit clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

setup: $(STAMP) ## make .venv with the exact versions of constraints.txt

# PYTHON=/path/to/python chooses the interpreter; otherwise the first one that runs and is new enough.
$(STAMP): constraints.txt pyproject.toml edge_agent/pyproject.toml hatch_build.py
	@python="$(PYTHON)"; \
	for name in $(PYTHON_NAMES); do \
	  [ -n "$$python" ] && break; \
	  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python="$$name"; \
	done; \
	[ -n "$$python" ] || { echo "setup: no Python >= 3.11 found; install one, or name it: make setup PYTHON=..." >&2; exit 1; }; \
	[ -x $(BIN)/python ] || { echo "setup: .venv with $$python"; "$$python" -m venv .venv; } || \
	{ echo "setup: $$python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "setup: installing (some minutes, once)"
	@$(PIP) pip
	@$(PIP) torch
	@$(PIP) -e '.[zoo,camera,demo,dev,baselines,ray,prove]'
# Their own requirements would bring a second torch (timm, torchvision) or packages nobody uses (foolbox).
	@$(PIP) --no-deps timm torchvision foolbox
	@touch $@

demo: $(STAMP) ## the whole journey on rendered inspection images: report in demo/
	@$(BIN)/python -m benchmarks demo --out demo

demo-imagenet: $(STAMP) ## the journey on twenty photographs: report in demo-imagenet/
	@$(BIN)/python -m benchmarks demo-imagenet --out demo-imagenet

bench: $(STAMP) ## latency ratios of the bundle that `make demo` made
	@[ -f $(BUNDLE) ] || { echo "bench: $(BUNDLE) is not there; run: make demo" >&2; exit 1; }
	@mkdir -p bench
	@$(BIN)/python -m benchmarks latency --bundle $(BUNDLE) --json bench/latency.json

# In a folder of its own: what it needs is no pin of ours.
audit: $(STAMP) ## known vulnerabilities of the pinned versions; needs the network
	@[ -x .audit/bin/pip-audit ] || { $(BIN)/python -m venv .audit && .audit/bin/python -m pip --disable-pip-version-check install -q pip-audit; }
	@PATH="$(CURDIR)/.audit/bin:$(PATH)" $(BIN)/python -m benchmarks.prove.supply.audit

coverage: $(STAMP) ## docs/coverage.md: which architectures can be eroded, exported and run
	@mkdir -p bench
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks coverage --json bench/coverage.json --markdown docs/coverage.md

prove: $(STAMP) ## hostile input, fuzzing, faults, a year in an hour: prove/prove.html, an hour and more
	@mkdir -p prove
	@PATH="$(BROKER_PATH)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --long -m long && long=0 || long=1; \
	PATH="$(BROKER_PATH)" OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks prove --json prove/prove.json && exit $$long

# -k: every part runs whatever the others say, and the exit code is not 0 if one of them failed.
test: $(STAMP) ## every check and every test
	@$(MAKE) -k --no-print-directory broker parts lint types imports unit

# What needs a GPU is left out of make test; here it fails where there is none.
test-gpu: $(STAMP) ## the tests that need a GPU, TensorRT and PyCUDA
	@$(BIN)/python -c 'import tensorrt, pycuda.driver' 2>/dev/null || \
	{ echo "test-gpu: run '$(BIN)/pip install tensorrt pycuda' on a machine with CUDA, then make test-gpu again" >&2; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --gpu -m gpu $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: rules and formatting
	@$(BIN)/ruff check . && rules=0 || rules=1; $(BIN)/ruff format --check . && exit $$rules

format: $(STAMP) ## ruff: apply formatting and safe fixes
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

types: $(STAMP) ## mypy strict: everything for 3.11, the agent for 3.10 too
	@$(BIN)/mypy && all=0 || all=1; $(BIN)/mypy -p deepfusion_edge --python-version 3.10 && exit $$all

imports: $(STAMP) ## import-linter: who may import whom
	@$(BIN)/lint-imports --no-logo

# A file's tests stay in one process: what they share is made once. One thread each: OpenMP spins.
unit: $(STAMP) ## pytest alone; choose with PYTEST_ARGS="-m 'not slow' tests/edge"
	@PATH="$(BROKER_PATH)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	  -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

broker: ## the mosquitto that the MQTT tests speak to
	@PATH="$(BROKER_PATH)"; \
	command -v mosquitto >/dev/null && exit 0; \
	as=; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
	if command -v apt-get >/dev/null && $$as true 2>/dev/null; then \
	  echo "broker: installing mosquitto with apt-get"; \
	  $$as apt-get install -qq -y --no-install-recommends mosquitto >/dev/null 2>&1 || \
	  { $$as apt-get update -qq && $$as apt-get install -qq -y --no-install-recommends mosquitto; }; \
	fi; \
	command -v mosquitto >/dev/null || \
	{ echo "broker: the MQTT tests need mosquitto; install it (Debian: sudo apt-get install mosquitto; macOS: brew install mosquitto) and run make test again" >&2; exit 1; }

# A browser is not installed on anybody's own machine without being asked; tests say what they miss.
parts: ## Chromium and Prometheus, for tests that are left out without them (CI=true installs them)
	@missing=; \
	for name in chromium prometheus; do command -v $$name >/dev/null || missing="$$missing $$name"; done; \
	[ -n "$$missing" ] || exit 0; \
	as=; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
	if [ "$$CI" = true ] && command -v apt-get >/dev/null && $$as true 2>/dev/null; then \
	  echo "parts: installing$$missing with apt-get"; \
	  $$as apt-get update -qq >/dev/null 2>&1; \
	  $$as apt-get install -qq -y --no-install-recommends $$missing >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "parts: not here:$$missing; their tests are left out (Debian: apt-get install$$missing)"

clean: ## remove .venv, caches and everything the demo made
	@rm -rf .venv .audit demo demo-imagenet bench prove build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .npm_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
