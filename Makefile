# Everything from a fresh clone: needs Python 3.11 or later with venv, make, and a package registry.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# The first interpreter that really runs, is new enough and can make environments. Override: make demo PYTHON=/path/to/python
runs = $(shell for p in $(1); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PYTHON ?= $(call runs,python3.13 python3.12 python3.11 python3 python)
# Those of test-newest and test-oldest.
NEWEST ?= $(call runs,python3.13 $(HOME)/.pyenv/versions/3.13.*/bin/python)
OLDEST ?= $(call runs,python3.11 $(HOME)/.pyenv/versions/3.11.*/bin/python)
# Versions known to work together; make test CONSTRAINTS= takes the newest there are.
CONSTRAINTS ?= constraints.txt
# At most four test processes; make test WORKERS=0 stays in one.
WORKERS ?= auto
# Further arguments of pytest or of the demo: make test ARGS="-k fedavg -x"
ARGS ?=

BIN := .venv/bin
LIMIT := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=4

.PHONY: help demo test slow test-newest test-oldest lint format types notebooks check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.demo ## a comparison of methods on real data, with a table and a figure in runs/demo
	$(BIN)/python -m experiments.demo --out=runs/demo $(ARGS)

test: .venv/.test ## the tests and the examples in docstrings
	$(PYTEST) $(ARGS)

slow: .venv/.test ## the tests that take minutes
	$(PYTEST) -m slow $(ARGS)

test-newest: .venv-newest/.test ## the demo and the tests with Python 3.13 and the newest versions there are
test-oldest: .venv-oldest/.test ## the demo and the tests with Python 3.11 and the lower bounds of pyproject.toml
test-newest test-oldest: test-%:
	.venv-$*/bin/python -m experiments.demo --out=runs/demo-$*
	.venv-$*/bin/python -m pytest -n $(WORKERS) --maxprocesses=4 $(ARGS)

lint: .venv/.dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

notebooks: .venv/.test ## make the notebooks anew from their sources, with their outputs
	$(BIN)/jupytext --quiet --to ipynb notebooks/*.py
	$(BIN)/jupyter execute --inplace --timeout=600 notebooks/*.ipynb

check: lint types test ## what a change must pass

clean: ## remove the environment, caches and results
	rm -rf .venv .venv-newest .venv-oldest .jax_cache .pytest_cache .ruff_cache .hypothesis build dist runs

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later with venv was found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv-newest/.test: MADE_BY = $(NEWEST)
.venv-oldest/.test: MADE_BY = $(OLDEST)
# The oldest matplotlib calls what later versions of pyparsing deprecate.
.venv-oldest/.test: RESOLUTION = --resolution=lowest-direct 'pyparsing==3.2.0'
.venv-newest/.test .venv-oldest/.test: .venv-%/.test: pyproject.toml
	@test -n "$(MADE_BY)" || { echo "no Python for test-$* was found; name one: make test-$* NEWEST=... or OLDEST=..." >&2; exit 1; }
	$(MADE_BY) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-$*/bin/uv pip install --python .venv-$*/bin/python $(RESOLUTION) -e '.[test]'
	@touch $@

# uv when there is one, because it takes seconds where pip takes half a minute.
.venv/.%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/uv pip install --python $(BIN)/python $(LIMIT) -e '.[$*]' \
	  || $(BIN)/python -m pip install --disable-pip-version-check $(LIMIT) -e '.[$*]'
	@touch $@
