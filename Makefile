.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help demo test check quick lint fix torture bench

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(VENV)/installed ## Install batchchat and run jobs/triage.yaml: no key, no network
	@mkdir -p out
	$(BIN)/batchchat run jobs/triage.yaml

test: $(VENV)/installed-dev ## Install what the tests need and run them all
	$(BIN)/pytest --numprocesses 4 --dist worksteal

check: lint test ## Format, lint and types, then the tests

quick: lint ## Format, lint and types, then the tests that start no process and take less than half a second
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "not slow"

lint: $(VENV)/installed-dev ## Format, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

fix: $(VENV)/installed-dev ## Format, and mend what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

torture: $(VENV)/installed-dev ## Attack whole runs at full size, and print the figures as a table (10 to 15 minutes)
	$(BIN)/python -m tests.torture

bench: $(VENV)/installed-bench ## Measure batchchat beside what people use, into bench-results/ (20 minutes; needs nginx with Lua)
	$(BIN)/python -m tests.bench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@
