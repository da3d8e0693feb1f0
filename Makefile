# make demo   set up, then judge, compile, train and decode a rule of one line
# make test   set up, then lint, types, tests
#
# Needs Python 3.11 or newer, gcc and make; everything else is installed into .venv, once. A PyTorch that
# the Python at hand already has (2.10 or newer) is used as it is; otherwise TORCH is installed with pip.

SHELL := /bin/bash
TORCH ?= torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/ready
WORKERS ?= 2

.PHONY: demo test lint types pytest gpu accept setup clean

demo: $(STAMP)
	$(RUN) -m ruledsl.lab.demo

test: lint types pytest

lint: $(STAMP)
	$(RUN) -m ruff check .

types: $(STAMP)
	$(RUN) -m mypy

pytest: $(STAMP)
	$(RUN) -m pytest -q -n $(WORKERS) -m "not gpu"

# the tests that need a CUDA device
gpu: $(STAMP)
	$(RUN) -m pytest -q -m gpu

# take the golden files and the outputs shown in the README as they are now; read the difference before committing it
accept: $(STAMP)
	$(RUN) -m pytest -q tests/test_golden.py tests/test_readme.py --accept

setup: $(STAMP)

# The stamp comes last: an interrupted set-up starts again.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "ruledsl needs Python 3.11 or newer: none found on PATH (set PYTHON=...)"; exit 1; }
	rm -rf $(VENV)
	@if $(PYTHON) -c 'import torch; v = torch.__version__.split("."); raise SystemExit((int(v[0]), int(v[1])) < (2, 10))' 2>/dev/null; \
	then echo "using the torch of $(PYTHON)"; $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV) && $(RUN) -m pip install --quiet "$(TORCH)"; fi
	$(RUN) -m pip install --quiet -e ".[dev,demo]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
