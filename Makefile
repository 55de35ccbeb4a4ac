# `make demo` and `make test` are all a newcomer needs; both install first, once.
# `make test-all` adds the tests that are marked full: long simulations and trainings.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Each process takes whole groups of tests, the longest first (tests/conftest.py).
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations 25
INSTALLED := .venv/.installed

.PHONY: demo test test-all lint up down clean

demo: $(INSTALLED)
	@$(BIN)/adire demo

test: $(INSTALLED)
	$(PYTEST) -m 'not full'

test-all: test
	$(PYTEST) -m full

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

up: $(INSTALLED)
	@$(BIN)/adire up

down: $(INSTALLED)
	@$(BIN)/adire down

$(INSTALLED): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable . --group dev
	@touch $(INSTALLED)

clean:
	rm -rf .venv .adire build *.egg-info
