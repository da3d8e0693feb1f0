# make demo   set up, then judge, compile, train and decode a rule of one line
# make test   set up, then lint, types, tests
# make prove  5,000 random rules: the checker's verdict against numbers from running them
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

.PHONY: demo test lint types pytest prove fuzz gpu accept grammar setup clean

demo: $(STAMP)
	$(RUN) -m ruledsl.lab.demo

test: lint types pytest

lint: $(STAMP)
	$(RUN) -m ruff check .

types: $(STAMP)
	$(RUN) -m mypy

pytest: $(STAMP)
	$(RUN) -m pytest -q -n $(WORKERS) --dist worksteal -m "not gpu"

# about 15 minutes on one core; exit status 1 if any verdict is contradicted
prove: $(STAMP)
	$(RUN) -m ruledsl.lab.prove --count 5000

# mutated rules, guided by the branches they reach, for SECONDS; findings are kept in build/fuzz (tests/fuzz/README.md)
fuzz: SECONDS := 60
fuzz: $(STAMP)
	$(RUN) -c "import atheris" 2>/dev/null || $(RUN) -m pip install --quiet "atheris>=3,<4"
	OMP_NUM_THREADS=1 PYTHONPATH=tests:. $(RUN) -m fuzz --seconds $(SECONDS)

# the tests that need a CUDA device
gpu: $(STAMP)
	$(RUN) -m pytest -q -m gpu

# take the golden files and the outputs shown in the README as they are now; read the difference before committing it
accept: $(STAMP)
	$(RUN) -m pytest -q tests/test_golden.py tests/test_readme.py --accept

# the grammar for editors, from the language's list of words
grammar: $(STAMP)
	$(RUN) -m ruledsl.cli.textmate grammars/ruledsl.tmLanguage.json

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
