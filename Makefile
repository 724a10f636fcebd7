# `make test` installs what the tests need into .venv and runs every check; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help install test check unit fuzz bench campaign vm clean

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

campaign: ## 10,000 faults (FAULTS) of SEED, each followed by an oracle; broken off, it goes on where its log (LOG) ends
	$(PYTHON) guest/build.py --output build/campaign
	PYTHONPATH=$(CURDIR)/src:$(CURDIR)/tests AGENTKERNEL_GUEST=$(CURDIR)/build/campaign/agentkernel-guest \
	    $(BIN)/python -m reliability --faults $(or $(FAULTS),10000) --seed $(or $(SEED),1) --log $(or $(LOG),build/campaign/log)

vm: ## boot a virtual machine with systemd and cgroup v2 and check there; needs root, see tests/vm/README.md
	$(PYTHON) tests/vm/run.py

clean: ## remove what was built
	rm -rf build dist guest/build src/*.egg-info $(VENV) .mypy_cache .ruff_cache .pytest_cache
