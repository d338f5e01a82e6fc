# `make demo` and `make test` need nothing but Python 3.10 or later and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint check bench compat clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the example claims, each with its verdict
	$(BIN)/python -m pytest example_circuits -p no:randomly

test: lint check ## every check

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: $(STAMP)
	$(BIN)/python -m pytest tests example_circuits -n 2 --dist loadgroup

bench: $(STAMP) ## the figures of the README, on one thread
	$(BIN)/python -m benchmarks.brackets_table

clean:
	rm -rf $(VENV) .venv-compat .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
