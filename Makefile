# make check: everything a change must pass. Uses the environment that is active (PYTHON=... for another one).
PYTHON ?= python

.PHONY: check format lint types layers test coverage dist oldest newest soak readme guides gallery notebooks fuzz stress tables cuda
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

# dist/xplain_vision-VERSION.tar.gz, and the wheel built from it
dist:
	$(PYTHON) -m build

# The oldest and the newest versions that pyproject.toml admits, each in an environment of its own (gigabytes of torch), with what the
# rest stands on: every method and metric on small networks, the oracle, models, and a first explanation. PYTHON= chooses the interpreter.
CORE = tests/contracts tests/oracle tests/models tests/integration/test_real_weights.py tests/cli/test_explain*.py tests/cli/test_list.py
oldest: RESOLUTION = lowest-direct
newest: RESOLUTION = highest
oldest newest:
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install -q uv
	build/$@/bin/python -m uv pip install -q --python build/$@/bin/python --upgrade --resolution $(RESOLUTION) -e '.[dev]'
	build/$@/bin/python -c "import sys, torch, torchvision; print(sys.version, torch.__version__, torchvision.__version__)"
	build/$@/bin/python -m pytest $(CORE)
	build/$@/bin/xplain explain samples/cat.jpg --overwrite -o build/$@/out

# Long: memory over 200 images. Not part of check.
soak:
	$(PYTHON) -m pytest --timeout 0 -m soak -n 0 -s tests/integration/test_soak.py

# the pictures of the README and of the guide of methods: many minutes; then make guides
readme:
	$(PYTHON) -m tests.tools.readme_pictures

# samples/guides/methods.md and metrics.md, from the registry
guides:
	$(PYTHON) -m tests.tools.pages

# the maps of every method on a vision transformer and a ConvNeXt that are trained on scikit-learn's digits: two minutes on one core
gallery:
	$(PYTHON) -m tests.tools.gallery

# runs the notebooks of samples/ and stores their outputs
notebooks:
	$(PYTHON) -m tests.tools.notebooks

fuzz:
	XPLAIN_FUZZ_EXAMPLES=5000 $(PYTHON) -m pytest --timeout 0 tests/integration/test_fuzz.py

# Long: 10,000 random small networks, each explained and evaluated once, against row-by-row evaluation (20 minutes or more)
stress:
	$(PYTHON) -m tests.tools.stress --count 10000

# Every method and metric on a GPU against the CPU, memory that runs out, and benchmarks: at most ten minutes on one H100.
# Results are in build/cuda/cuda.md. Exit code 4 without a GPU
cuda:
	$(PYTHON) -m tests.tools.cuda_check

# the papers' tables with the embedded model at their full size, two of the sample photographs: long on a CPU.
# MODEL= and DATA= take others; exit code 5 says that a metric is undefined for some image. The figure of ROAR trains networks: it is left out
MODEL ?= efficientnet-lite0
DATA ?= samples
tables:
	for table in $$(grep -l '^\[evaluate\]' samples/tables/*.toml | grep -v dga-figure-5); do \
	  $(PYTHON) -m xplain evaluate $(DATA) --config $$table -m $(MODEL) --target auto --limit 2 || [ $$? = 5 ] || exit 1; \
	done
	for table in $$(grep -l '^\[bench\]' samples/tables/*.toml); do \
	  $(PYTHON) -m xplain bench $(DATA) --config $$table -m $(MODEL) --images 2 --repeats 1 || exit 1; \
	done
