# Each target does its own set-up: a virtual environment in .venv, and what the target needs in it.
#   make demo     the main job on handwritten digits
#   make test     all tests
#   make lint     style and types
#   make gpu      parity, sanitizers and measurements on a GPU, with the Python that is there (no network)

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint gpu clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.with-demo
	$(BIN)/ckn demo

test: $(VENV)/.with-test
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(PYTEST_ARGS)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

gpu: # from the checkout: nothing is installed
	$(PYTHON) bench/gpu/gpu_suite.py $(GPU_ARGS)

clean:
	rm -rf $(VENV) ckn-demo build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ckncuda needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.with-%: pyproject.toml | $(BIN)/python
	@echo "Installing ckncuda with what \`make $*\` needs"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@
