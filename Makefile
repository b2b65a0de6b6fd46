# Two commands matter: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
STAMP := $(VENV)/installed

.PHONY: setup demo test test-full gpu lint format clean

setup: $(STAMP)

# torch goes first and pinned: any other package that asks for "torch" would fetch its largest build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[data,serve,dev]"
	$(BIN)/python -c "open('$(STAMP)', 'w').close()"

demo: setup
	$(BIN)/minimind demo
	@echo "So that the command is found without its folder:  source $(BIN)/activate"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-full: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Where a GPU is: first whether everything is right on it, then how fast it is; eight minutes, results in runs/gpu.
gpu: setup
	$(BIN)/python -m benchmarks.gpu --out runs/gpu

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs build dist *.egg-info
