# Two commands need nothing but Python 3.11, pip and make: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?= tests
WORKERS ?= 2
# One thread a test process: two on two cores get in each other's way.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test lint bench pocket docs clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The pins bring the CPU build of torch where one is offered, and keep every other package from
# pulling a newer one in. Of resemblyzer only the weights are read: what it depends on may not build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps resemblyzer
	@touch $@

demo: $(STAMP) ## adapt the embedded base to a style it never heard; opens with demo/report.html
	$(BIN)/tunesmith demo --out demo

test: $(STAMP) ## run every test
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(STAMP) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP) ## measure every claim anew and rewrite bench/RESULTS.md
	$(BIN)/python -m bench.all

DEVICE ?= cpu
WORK ?= build/pocket
pocket: $(STAMP) ## make the embedded base from nothing (hours; needs fluidsynth and a GM sound font)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[pretrain]'
	$(BIN)/python -m pretrain.run --work $(WORK) --device $(DEVICE)

docs: $(STAMP) ## rewrite the generated parts of docs/
	$(BIN)/python -m tunesmith.cli._reference > docs/cli.md

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) build dist demo out
