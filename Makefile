# make demo   sets up and runs a real sweep on this machine: local Ray, SQLite MLflow, data it makes
# make test   sets up and passes the checks and tests
# make fuzz   reads damaged data of every format, ten CPU minutes a reader (MINUTES=1: less)
# make sizes  prints how long files and functions are
# make clean  removes the virtual environment; runs/ (your results) stays

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test lint fuzz sizes clean

setup: $(READY)
	@echo "compiling the kernel, unless that is done"
	@$(BIN)/python -m piip.ops.build

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "piip needs Python >= 3.11, this is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@echo "1/3 a virtual environment in $(VENV) (about 6.5 GB in the end; once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/3 PyTorch: the largest download"
	@$(PIP) torch torchvision
	@echo "3/3 Ray, DeepSpeed, MLflow and the rest: another minute or two"
	@$(PIP) -e '.[dev]'
	@touch $(READY)

demo: setup
	@$(BIN)/python experiments/sweep_resolutions.py --scale pico

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

test: lint
	@$(BIN)/python -m pytest -m "not long and not gpu and not weights" --durations=15

MINUTES ?= 10
fuzz: setup
	@$(BIN)/python tests/fuzz.py --minutes $(MINUTES)

sizes:
	@$(PYTHON) tests/sizes.py

clean:
	rm -rf $(VENV)
