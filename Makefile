# Everything a developer or a curious person needs. `make` lists it.
# Each target does its own set-up in .venv, from the locked requirements, and does it again when the locks change.

# The first that runs and is new enough: a name alone may be a shim for something that is not there.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak lock clean

help: ## What there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/run.stamp ## Sell an API call on this machine (SMOKE=1: make the whole journey and end)
	@$(BIN)/farebox demo $(if $(SMOKE),--smoke)

test: $(VENV)/test.stamp ## All tests
	@FAREBOX_CHROMIUM="$$(sh tools/chromium.sh)" && FAREBOX_STRIPE_CLI="$$(sh tools/stripe_cli.sh)" && \
	FAREBOX_POSTGRES="$$(sh tools/postgres.sh)" && export FAREBOX_CHROMIUM FAREBOX_STRIPE_CLI FAREBOX_POSTGRES && \
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/test.stamp ## Style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/test.stamp ## What being paid costs (PART=hello, rivals, scaling, layers, ledger, reporter, sandbox: one part alone)
	@sh tools/wrk.sh; $(BIN)/python -m bench $(if $(PART),--part $(PART)) $(ARGS)

soak: $(VENV)/test.stamp ## Faults for as long as one likes (MINUTES=30): simulation, kill -9, loss of power
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30) $(ARGS)

lock: $(VENV)/venv.stamp ## Lock the requirements anew, with hashes
	@$(BIN)/python -m pip install --quiet uv
	@for part in run build judge postgres rivals test; do sh tools/lock.sh $(BIN)/uv $$part || exit 1; done

clean: ## Remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .farebox-demo .browser .tools .postgres .rivals

$(VENV)/venv.stamp:
	@test -n "$(PYTHON)" || { echo "Farebox needs Python 3.11 or newer, with its venv module, and found none. Install it (Debian: apt-get install python3 python3-venv), or set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "The venv module does not work here. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/run.stamp: $(VENV)/venv.stamp requirements/run.txt requirements/build.txt pyproject.toml
	@echo "Installing Farebox's locked requirements into $(VENV) …" >&2
	@$(PIP) -r requirements/run.txt -r requirements/build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements/test.txt requirements/judge.txt
	@echo "Installing the test tools into $(VENV) …" >&2
	@$(PIP) -r requirements/test.txt
	@$(PIP) --no-deps -r requirements/judge.txt
	@touch $@
