# make demo | test | check | machine | bench. Each sets up .venv first when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test check machine bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lightrail needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	# --use-pep517: an older pip, as Debian's, builds seqeval with whatever setuptools the virtual environment has, and fails.
	$(BIN)/python -m pip install --quiet --use-pep517 --constraint constraints.txt --editable '.[chinese,lora,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/lightrail demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry project datamodules lightning_modules sweeps

machine: $(STAMP)
	$(BIN)/python -m benchmarks.machine

bench: $(STAMP)
	$(BIN)/python -m benchmarks.training_speed

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
