# make check: everything a change must pass. Uses the environment that is active (PYTHON=... for another one).
PYTHON ?= python

.PHONY: check format lint types layers test readme fuzz
check: lint types layers test

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

layers:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest

readme:
	$(PYTHON) -m tests.readme

fuzz:
	XPLAIN_FUZZ_EXAMPLES=5000 $(PYTHON) -m pytest tests/test_fuzz.py
