# make check: everything a change must pass. Uses the environment that is active (PYTHON=... for another one).
PYTHON ?= python

.PHONY: check format lint types layers test coverage soak readme fuzz tables
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

# the lines of xplain/ that no test runs; fails under 95 %
coverage:
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest
	$(PYTHON) -m coverage combine -q
	$(PYTHON) -m coverage report

# Long: memory over 200 images. Not part of check.
soak:
	$(PYTHON) -m pytest -m soak -n 0 -s tests/soak.py

readme:
	$(PYTHON) -m tests.readme

fuzz:
	XPLAIN_FUZZ_EXAMPLES=5000 $(PYTHON) -m pytest tests/test_fuzz.py

# the papers' tables with the embedded model at their full size, two of the sample photographs: long on a CPU.
# MODEL= and DATA= take others; exit code 5 says that a metric is undefined for some image
MODEL ?= efficientnet-lite0
DATA ?= samples
tables:
	for table in samples/tables/*.toml; do \
	  $(PYTHON) -m xplain evaluate $(DATA) --config $$table -m $(MODEL) --limit 2 || [ $$? = 5 ] || exit 1; \
	done
