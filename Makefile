# make demo: see it work.  make test: check it.  Both create .venv and install what they need; once that is done,
# they start at once. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
OUT ?= demo-out

VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt setup.py $(shell find core -name '*.c')
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-slow lint docs bench clean

help:
	@echo "make demo       few-shot learning with and without memory, on real images (results in $(OUT)/)"
	@echo "make test       the quick tests"
	@echo "make test-slow  all tests"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation, as a site in site/"
	@echo "make bench      speed beside other libraries, where they are installed (torchrl, faiss-cpu, avalanche-lib)"
	@echo "make clean      remove what these commands made"

demo: $(VENV)/demo.stamp
	$(BIN)/python -m memreplay demo --out $(OUT)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/docs.stamp
	$(BIN)/python -m mkdocs build --strict

bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks --out benchmarks/results

clean:
	find core -name '*.so' -delete
	rm -rf $(VENV) .editable build dist *.egg-info $(OUT) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than pyproject.toml and constraints.txt when the environment has what they name. detectron2 is on no
# package index: where pip knows a wheel of it, it is taken together with what it needs, and done without otherwise.
DETECTRON2 = $(shell $(INSTALL) --no-index --no-deps detectron2 >/dev/null 2>&1 && echo ,detectron2)

$(VENV)/demo.stamp: $(VENV)/python.stamp $(SOURCES)
	$(INSTALL) -e ".[demo$(DETECTRON2)]"
	@touch $@

$(VENV)/docs.stamp: $(VENV)/python.stamp $(SOURCES)
	$(INSTALL) -e ".[docs]"
	@touch $@

$(VENV)/test.stamp: $(VENV)/python.stamp $(SOURCES)
	$(INSTALL) -e ".[demo,test$(DETECTRON2)]"
	@touch $@

$(VENV)/python.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; memreplay needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memreplay needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@
