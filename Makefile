# Every target works on a bare clone: `make demo` and `make test` set up what they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.surco-setup
OUT ?= runs/demo
JOBS ?= 2
SUITE ?= benchmarks/suites/smoke.toml

# One thread each: the matrices are small, and idle BLAS threads only cost CPU time.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint format bench lock wheel clean

help: ## Show the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## Make .venv with everything in it, tested versions.

$(STAMP): pyproject.toml constraints.txt .ci/venv.sh .ci/torchrec.txt
	bash .ci/venv.sh $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	$(BIN)/python -m pip install --quiet --no-deps -r .ci/torchrec.txt
	@touch $@

demo: setup ## Shard the MLPerf tables and route a real network; table and HTML report under runs/demo/.
	$(BIN)/surco demo --out $(OUT)

test: setup ## Run all tests.
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

lint: setup ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## Rewrite the code in the project's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Run a benchmark suite (SUITE=..., default smoke) and write its report.
	$(BIN)/python -m benchmarks run $(SUITE) --out runs/$(basename $(notdir $(SUITE))) --resume
	$(BIN)/python -m benchmarks report runs/$(basename $(notdir $(SUITE)))

lock: setup ## Write the installed versions to constraints.txt (after the tests have passed).
	$(BIN)/python .ci/lock.py

wheel: setup ## Build the wheel into dist/.
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean: ## Remove what the targets made, except .venv and runs/.
	rm -rf dist build .pytest_cache .ruff_cache .hypothesis
