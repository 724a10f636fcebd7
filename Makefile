# `make test` installs what the tests need into .venv and runs every check; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help install test check unit fuzz bench vm clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

install: $(BIN)/python ## the package and the tools of the tests, in .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[test]'

test: ## install what the tests need, then run every check
	PYTHON=$(PYTHON) VENV=$(VENV) ./tests/run.sh

check: ## linters and types only
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: ## the benchmarks behind the promises; writes benchmarks/results/
	$(BIN)/python -m benchmarks

vm: ## boot a virtual machine with systemd and cgroup v2 and check there; needs root, see tests/vm/README.md
	$(PYTHON) tests/vm/run.py

clean: ## remove what was built
	rm -rf build dist guest/build src/*.egg-info $(VENV) .mypy_cache .ruff_cache .pytest_cache
