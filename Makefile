# `make demo` and `make test` are all a newcomer needs; both install first, once.
# `make test-all` adds the tests that are marked full: long simulations and trainings.
PYTHON ?= python3
BIN := .venv/bin
# One process more than there are cores: tests wait for servers a third of the time. Each takes whole
# files of tests, the longest first (tests/conftest.py).
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25
INSTALLED := .venv/.installed
define RIGHT_PYTHON
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit("Python 3.11 is needed, not %d.%d; name one, as in: make demo PYTHON=python3.11" % sys.version_info[:2])
endef
export RIGHT_PYTHON

.PHONY: demo demo-llm test test-all lint docs up down vllm clean

demo: $(INSTALLED)
	@$(BIN)/python -m adire_assets.cli demo

# The same for the language model of the house.
demo-llm: $(INSTALLED) .venv-vllm/.installed
	@$(BIN)/python -m adire_assets.cli demo adire_letters --label demo-llm

test: $(INSTALLED)
	$(PYTEST) -m 'not full'

test-all: test .venv-vllm/.installed
	$(PYTEST) -m full

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m mypy

# The site, in site/; a broken link is an error.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --group docs
	$(BIN)/python -m mkdocs build --strict

up: $(INSTALLED)
	@$(BIN)/python -m adire_assets.cli up

down: $(INSTALLED)
	@$(BIN)/python -m adire_assets.cli down

# An environment of another Python, half made, or made in another folder (its scripts name that) is
# no good, and is made anew.
FITS := $(shell $(BIN)/python -c 'import pip, sys; \
	made = [line for line in open(".venv/pyvenv.cfg") if line.startswith("command")]; \
	here = all(line.rstrip().endswith(" " + sys.prefix) for line in made); \
	print(here and sys.version_info[:2] == (3, 11))' 2>/dev/null)
ifneq ($(FITS),True)
.PHONY: $(INSTALLED)
endif

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c "$$RIGHT_PYTHON"
	@test "$(FITS)" = True || rm -rf .venv
	@rm -rf adire_assets.egg-info  # of setuptools; it would hide the entry points of what is installed
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable . --group dev
	@touch $(INSTALLED)

# What language models are served by, in an environment of its own (3.4 GB): it asks for other versions
# than this project. Where pip finds no torch for the CPU by itself, name the index that has it:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make vllm
vllm: .venv-vllm/.installed

.venv-vllm/.installed: requirements-vllm.lock
	@$(PYTHON) -c "$$RIGHT_PYTHON"
	rm -rf .venv-vllm
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-vllm/bin/python -m pip install --quiet --no-deps --requirement requirements-vllm.lock
	@touch .venv-vllm/.installed

clean:
	rm -rf .venv .venv-vllm .adire build dist site *.egg-info
