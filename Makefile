# Two commands matter: `make demo` and `make test`. Both install what they need first.
VENV := .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif

.PHONY: setup setup-demo demo test test-full test-fake-cuda gpu lint format clean

setup: $(VENV)/installed
setup-demo: $(VENV)/installed-demo

$(VENV)/installed: install.py pyproject.toml constraints.txt
	$(PYTHON) install.py

$(VENV)/installed-demo: install.py pyproject.toml constraints.txt
	$(PYTHON) install.py demo

demo: setup-demo
	$(BIN)/minimind demo
	@echo "So that the command is found without its folder:  source $(BIN)/activate"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 25 -m "not slow"

test-full: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Where a GPU is: first whether everything is right on it, then how fast it is; eight minutes, results in runs/gpu.
gpu: setup
	$(BIN)/python -m benchmarks.gpu --out runs/gpu

# What a GPU would be asked, without one: needs a CUDA build of torch (3 GB), which must not come into $(VENV).
FAKE_TORCH ?= 2.11.0
FAKE_VENV := .venv-cuda/$(FAKE_TORCH)

test-fake-cuda:
	test -d $(FAKE_VENV) || $(PYTHON) -m venv $(FAKE_VENV)
	$(FAKE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "torch==$(FAKE_TORCH)" pytest -e .
	$(FAKE_VENV)/bin/python -m pytest tests/gpu/fake

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-cuda build dist *.egg-info
