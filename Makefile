.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help demo test check fix torture bench

PYTHON ?= python3
BIN := .venv/bin

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: .venv/installed ## Install batchchat and run jobs/triage.yaml: no key, no network
	@mkdir -p out
	$(BIN)/batchchat run jobs/triage.yaml

test: .venv/installed-dev ## Install what the tests need and run them all
	$(BIN)/pytest --numprocesses auto

check: .venv/installed-dev ## Format, lint and types, then the tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(MAKE) test

fix: .venv/installed-dev ## Format, and mend what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

torture: .venv/installed-dev ## Attack whole runs at full size, and print the figures as a table (10 to 15 minutes)
	$(BIN)/python -m tests.torture

bench: .venv/installed-bench ## Measure batchchat beside what people use, into bench-results/ (20 minutes; needs nginx with Lua)
	$(BIN)/python -m tests.bench

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@
