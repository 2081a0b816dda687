# ecomflow: needs Python 3.11 or newer, make and a package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# How many examples property tests try in make test: half or all of them.
PROPERTY_EXAMPLES ?= half

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types test-fast test-ui interop faults soak bench pictures lock audit clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## The whole path on this machine, without an account: publish, decode, load, count, query
	$(BIN)/ecomflow demo

test: lint types ## Lint, types, import contracts and all tests
	PROPERTY_EXAMPLES=$(PROPERTY_EXAMPLES) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: lint types test-fast ## The same without tests that start services or take seconds (under a minute)

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not stack and not slow and not faults" -q

test-ui: $(INSTALLED) ## Test the web page in Debian's chromium, and install that if possible (some minutes)
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update \
		&& DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; } \
		|| { echo "chromium is not installed. Run: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser tests/browser

interop: $(INSTALLED) ## Google's clients for Node and Go, and other brokers, as far as this machine has them (under five minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m interop tests/interop

faults: $(INSTALLED) ## Tests that make test skips: kills, dead services, full disks, a slow BigQuery (under ten minutes)
	$(BIN)/python -m pytest -m faults tests/faults

soak: $(INSTALLED) ## Ten minutes of load with a kill every 30 s; an hour with SOAK_SECONDS=3600
	$(BIN)/python -m tests.faults.soak

lint: $(INSTALLED)
	$(BIN)/ruff check ecomflow tests benchmarks docs
	$(BIN)/ruff format --check ecomflow tests benchmarks docs
	$(BIN)/lint-imports --no-cache

types: $(INSTALLED)
	$(BIN)/mypy

install: $(INSTALLED) ## Make .venv and install ecomflow with its locked dependencies

# Nothing is resolved: the locks name every package, and pip installs exactly those, whatever newer versions the registry has.
# Source packages are built with the setuptools of requirements-build.lock.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation

$(INSTALLED): requirements.lock requirements-build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ecomflow needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) --require-hashes -r requirements-build.lock
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) -e .
	@$(BIN)/python -m pip check >/dev/null || { $(BIN)/python -m pip check; echo "The locked packages conflict. Run: make lock"; exit 1; }
	@touch $(INSTALLED)

bench: $(INSTALLED) ## Run the benchmarks for docs/performance.md (under half an hour); BENCH="latency stack" runs only those
	$(BIN)/python -m benchmarks $(BENCH)

pictures: $(INSTALLED) ## Take the pictures of the README and the docs from a real run (eight minutes; needs chromium)
	$(BIN)/python docs/make_pictures.py

UV_COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet

lock: $(INSTALLED) ## Resolve the dependencies into the two lock files (needs uv)
	$(UV_COMPILE) pyproject.toml --extra local --extra ui --extra dev -o requirements.lock
	echo setuptools | $(UV_COMPILE) - --constraints requirements.lock -o requirements-build.lock

audit: $(INSTALLED) ## Check the locked dependencies for known vulnerabilities; fails if there is one, or if the registry can't tell
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements.lock

clean: ## Remove .venv and the caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
