# Everything runs in .venv, made from uv.lock. On a machine without uv, one is installed in .uv from the package index.
.DEFAULT_GOAL := help
.PHONY: help install demo test lint format ui serve doctor lineage dictionary clean

PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && { command -v $$p; break; }; done)
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
FRAUD := .venv/bin/fraud
# A network hiccup is not a reason to fail; a Python is never downloaded, the one found is used.
export UV_PYTHON_DOWNLOADS := never
export UV_HTTP_TIMEOUT := 180
export UV_PROJECT_ENVIRONMENT := .venv
# Containers often forbid it, and then every process spends seconds on compiling dbt, Dagster and MLflow anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## Say what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found on PATH."; exit 1; }
	@echo "Installing uv in .uv from the package index"
	@$(PYTHON) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

.venv/.installed: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found on PATH."; exit 1; }
	$(UV) sync --frozen --quiet --python "$(PYTHON)"
	@touch $@

install: .venv/.installed ## Create .venv from the lock file

demo: install ## Simulate 90 days, run the whole lineage, score over HTTP, print a summary
	@$(FRAUD) demo

test: install ## Run every test
	@.venv/bin/pytest --numprocesses auto --dist loadfile

lint: install ## Style, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: install ## Rewrite the code in the house format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

ui: install ## Open the Dagster UI on http://localhost:3001 (webserver and daemon)
	@$(FRAUD) ui

serve: install ## Serve the champion on http://localhost:3000
	@$(FRAUD) serve

doctor: install ## Check settings, stores and tools
	@$(FRAUD) doctor

lineage: install ## Rewrite the lineage snapshot after a change of the graph
	@$(FRAUD) lineage > tests/definitions/lineage.txt

dictionary: install ## Rewrite the data dictionary after a change of the feature spec
	@$(FRAUD) dictionary > docs/data-dictionary.md

clean: ## Remove everything the embedded form wrote (var/), not the environment
	rm -rf var
