# `make demo` and `make test` are all a newcomer needs; both install first, once.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint up down clean

demo: $(INSTALLED)
	@$(BIN)/adire demo

test: $(INSTALLED)
	$(BIN)/pytest

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
