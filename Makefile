# Two commands set everything up and do the work: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs bench clean

$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Fabrica needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@[ -n "$$PIP_EXTRA_INDEX_URL" ] || command -v nvidia-smi >/dev/null || echo "No GPU and no PIP_EXTRA_INDEX_URL: pip may take PyTorch's large CUDA build. See README, Installation."
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(PIP) -e ".[test]"
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/fabrica run recipes/demo.yaml

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -q --cov --cov-report=term:skip-covered -n 2 --dist loadfile
	$(BIN)/python -m tests.floor

docs: $(VENV)/.test
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/coverage.py

bench: SCANS = $(or $(FABRICA_TEST_DATA),$(error Set FABRICA_TEST_DATA to the folder of real scans))
bench: $(VENV)/.test
	$(PIP) -e ".[bench]"
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/evaluation_speed.py
	$(BIN)/python benchmarks/evaluation_folders.py --curve
	$(BIN)/python benchmarks/statistics_simulated.py --repetitions 2000
	$(BIN)/python benchmarks/precision_exactness.py --data $(SCANS)
	$(BIN)/python benchmarks/evaluation_real.py --data $(SCANS) --steps 200
	$(BIN)/python benchmarks/downstream_real.py --data $(SCANS)
	$(BIN)/python benchmarks/families_hippocampus.py --data $(SCANS)
	$(BIN)/python benchmarks/families_speed.py --large
	$(BIN)/python benchmarks/families_mednist.py --data $(SCANS)
	$(BIN)/python benchmarks/translation_ms.py --data $(SCANS)/mri_multicontrast/ms_mni
	$(BIN)/python benchmarks/families_ms.py --data $(SCANS)/mri_multicontrast/ms_mni

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
