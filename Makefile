# One command each, the same ones CI runs. `make help` lists them.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEFAULT_TESTS := not slow and not gpu and not released and not browser
# Small models on few cores: threads inside torch only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

RESULTS := $(BIN)/openmplug results page docs/results --output docs/results.md --index src/openmplug/recipes/results.json

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-gpu test-browser pictures check results docs docs-serve format bench clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP)  ## make .venv and install everything (quick when already done); PYTHON=python3.12 chooses the interpreter

$(STAMP): pyproject.toml constraints.txt scripts/make_env.sh
	@VENV=$(VENV) PYTHON="$(PYTHON)" scripts/make_env.sh
	@touch $@

quickstart: setup  ## see what the small model that comes with the package says about drawings it never saw (a minute, no training)
	$(BIN)/openmplug quickstart --output runs/quickstart

test: setup  ## the tests: no network, no GPU; PYTEST_ARGS="-k vqa" narrows them
	$(PYTEST) -n 2 -m "$(DEFAULT_TESTS)" $(PYTEST_ARGS)

test-slow: setup  ## the tests that take longer
	$(PYTEST) -m "slow and not gpu and not released" $(PYTEST_ARGS)

test-gpu: setup  ## the tests that need an NVIDIA GPU
	$(PYTEST) -m "gpu" $(PYTEST_ARGS)

test-browser: setup  ## the page in a headless Chromium (installs Gradio, Playwright and, as root on Debian, Chromium)
	@VENV=$(VENV) scripts/make_browser.sh
	$(PYTEST) tests/browser -m browser $(PYTEST_ARGS)

# What a model of MODELS cannot do keeps its old picture. `openmplug quickstart --train` and grounding/shapes_mplug_tiny make models that can.
MODELS ?= $(wildcard src/openmplug/weights/small)

pictures: setup  ## the pictures of docs/demo.md, made by the browser tests; MODELS=DIR:DIR says of which models (default the small one)
	@[ -n "$(MODELS)" ] || { echo "pictures: no small model ships here; name trained ones: make pictures MODELS=DIR:DIR" >&2; exit 2; }
	@VENV=$(VENV) scripts/make_browser.sh
	OPENMPLUG_PAGE_MODELS="$(MODELS)" OPENMPLUG_PICTURES=docs/pictures $(PYTEST) tests/browser -m browser $(PYTEST_ARGS)

check: setup  ## format, lint, types, direction of imports, the results page
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RESULTS) --check

results: setup  ## make docs/results.md, and the numbers of `recipes list`, from docs/results/
	$(RESULTS)

docs: $(VENV)/.docs  ## build the documentation site into site/, strictly: a broken link stops it; opens from the disk, loads nothing
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.docs  ## show the site at http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

format: setup  ## format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## time cached generation against the plain path on this machine
	$(BIN)/python benchmarks/generation.py $(BENCH_ARGS)

clean:  ## remove caches and build output; keeps .venv and runs/
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
