# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
# Further arguments of pip install, say a constraints file
PIP_ARGS ?=
BIN    := $(VENV)/bin
# Small models on small machines: more OpenMP threads than cores makes the suite several times slower.
export TOKENIZERS_PARALLELISM = false
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help env demo test test-min test-slow test-gpu docs bench lint clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# The stamp is rewritten only when pyproject.toml changes, so nothing that is installed is installed again.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[dev]'
	touch $@

env: $(VENV)/.installed  ## create the environment

demo: $(VENV)/.installed  ## train baseline and diversity twins on embedded FashionMNIST images (about 3 minutes)
	$(BIN)/python recipes/demo.py --output_dir outputs/demo

test: $(VENV)/.installed  ## run the tests (offline, CPU), on two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: $(VENV)/.installed  ## run the tests that take long
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed  ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu

test-min:  ## run the tests on the oldest versions that pyproject.toml allows
	$(MAKE) test VENV=.venv-min PIP_ARGS='--constraint tests/constraints-min.txt'

docs: $(VENV)/.installed  ## build the documentation into outputs/site, to be opened as files
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed  ## measure every bar of the performance table
	$(BIN)/python benchmarks/run.py

lint: $(VENV)/.installed  ## style and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean:  ## remove environments and outputs
	rm -rf $(VENV) .venv-min outputs build dist *.egg-info
