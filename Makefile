# `make check` is what the continuous integration runs first; `make slow` is its second step.
PYTHON ?= python
# One thread a process: the tests themselves run side by side.
export OMP_NUM_THREADS = 1

.PHONY: check format lint types tests slow fix

check: format lint types tests

format:
	$(PYTHON) -m ruff format --check src tests benchmarks

lint:
	$(PYTHON) -m ruff check src tests benchmarks

types:
	$(PYTHON) -m mypy

tests:
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow"

slow:
	$(PYTHON) -m pytest -n 2 --dist loadfile -m slow

fix:
	$(PYTHON) -m ruff format src tests benchmarks
	$(PYTHON) -m ruff check --fix src tests benchmarks
