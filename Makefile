# Needs python3 (3.11 or newer), make and git; everything else is set up in .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# uv's resolver brings a torch and a torchvision that fit each other; plain pip may not.
$(READY): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	# Compiled at once: where Python may not write its caches, every start would compile torch anew.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

setup: $(READY)  ## make .venv with everything that is needed

demo: $(READY)  ## the whole job on simulated valleys, to a map and a report
	$(BIN)/raremap demo

test: $(READY)  ## lint the imports, then the tests, fast ones first
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff, pyright, import contracts
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(READY)  ## ruff format and its fixes
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

bench: $(READY)  ## every benchmark, quick
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group bench
	@for f in $$(grep -l '"--quick"' benchmarks/*.py); do echo "== $$f"; $(BIN)/python $$f --quick || exit 1; done

docs: $(READY)  ## the documentation as a site/
	$(BIN)/mkdocs build --strict

clean:  ## remove .venv and what the tools left
	rm -rf .venv site .pytest_cache .ruff_cache .hypothesis
