# Two commands set everything up and do the work: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-pacs lint docs bench scans clean peers federation

$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Fabrica needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@[ -n "$$PIP_EXTRA_INDEX_URL" ] || command -v nvidia-smi >/dev/null || echo "No GPU and no PIP_EXTRA_INDEX_URL: pip may take PyTorch's large CUDA build. See README, Installation."
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(PIP) -e ".[test]"
	@touch $@

# Flower's pins exclude ours: it has an environment of its own, and talks with ours through files.
FLOWER := .venv-federation
federation: $(FLOWER)/.ready
$(FLOWER)/.ready: constraints-federation.txt
	@[ -x $(FLOWER)/bin/pip ] || $(PYTHON) -m venv $(FLOWER)
	$(FLOWER)/bin/pip install --quiet --disable-pip-version-check -c constraints-federation.txt flwr
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/fabrica run recipes/demo.yaml

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What tests of delivery talk to: installed where this is root on a Debian machine, said where it is not.
PEERS := orthanc orthanc-dicomweb dcmtk dicom3tools dcm2niix chromium postgresql iproute2
peers:
	@missing=; for one in Orthanc dciodvfy storescu dcm2niix chromium initdb ip; do PATH=$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin) command -v $$one >/dev/null || missing=1; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  for again in 1 2 3; do { apt-get -qq update && apt-get -qq install -y --no-install-recommends $(PEERS) >/dev/null; } && break; done \
	    || echo "PEERS COULD NOT BE INSTALLED: tests of archives and pages will be skipped. Try: apt-get install $(PEERS)"; \
	else echo "TESTS OF ARCHIVES AND PAGES WILL BE SKIPPED where these are not installed: $(PEERS). As root: make peers"; fi

test: lint peers federation
	$(BIN)/pytest -q --cov --cov-report=term:skip-covered -n 2 --dist loadfile
	$(BIN)/python -m tests.floor

# Tests of delivery, the page and the node against real archives alone.
test-pacs: $(VENV)/.test peers
	$(BIN)/pytest -q -n 2 --dist loadfile tests/deliver tests/serve

docs: $(VENV)/.test
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/methods.py

$(VENV)/.bench: $(VENV)/.test
	$(PIP) -e ".[bench]"
	@touch $@

# One finished is not run again: `rm -r runs/bench runs/families_* runs/downstream runs/unpaired` forgets what was finished.
BENCHES := speed evaluation_speed evaluation_folders statistics_simulated precision_exactness evaluation_real downstream_real \
	families_hippocampus families_speed families_mednist translation_ms families_ms volumes unpaired reconstruction reconstruction_speed
SCANS = $(or $(FABRICA_TEST_DATA),$(error Set FABRICA_TEST_DATA to the folder of real scans))
bench: scans $(BENCHES:%=runs/bench/%)

scans:
	@: $(SCANS)

TOLD_evaluation_folders = --curve
TOLD_statistics_simulated = --repetitions 2000
TOLD_precision_exactness = --data $(SCANS)
TOLD_evaluation_real = --data $(SCANS) --steps 200
TOLD_downstream_real = --data $(SCANS)
TOLD_families_hippocampus = --data $(SCANS)
TOLD_families_speed = --large
TOLD_families_mednist = --data $(SCANS)
TOLD_translation_ms = --data $(SCANS)/mri_multicontrast/ms_mni
TOLD_families_ms = --data $(SCANS)/mri_multicontrast/ms_mni
TOLD_reconstruction = --data $(SCANS)
TOLD_volumes = --data $(SCANS)/mri_multicontrast/ms_mni

runs/bench/%: $(VENV)/.bench
	@mkdir -p $(@D)
	$(BIN)/python benchmarks/$*.py $(TOLD_$*)
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage*
