# make train: everything on a fresh machine, to synthetic radiographs. make test: everything, to a passing suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
AUDIT := .audit
MONAILABEL := .monailabel
EXTRAS := clip,dicom,docs,fast,generative,pacs,test,tracking
SHARED := $(CURDIR)/../shared

.PHONY: setup train test test-all monailabel monailabel-test lint docs zoo-check audit

setup: $(STAMP)

# Installed again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

train: $(STAMP)
	$(BIN)/python -m monai.bundle run training --config_file configs/train.json

# One process for each core, each of one thread: threads of several would wait for each other.
PYTEST := ANATODIFF_SHARED="$${ANATODIFF_SHARED:-$(SHARED)}" OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) --no-skips

# MONAI Label needs older pydicom and numpy than the rest, and torchvision: it gets an environment of its own.
$(MONAILABEL)/installed: pyproject.toml constraints-monailabel.txt scripts/importable_torchvision.py
	$(PYTHON) -m venv $(MONAILABEL)
	$(MONAILABEL)/bin/python -m pip install --quiet --upgrade pip
	$(MONAILABEL)/bin/python -m pip install --quiet --constraint constraints-monailabel.txt torch
	$(MONAILABEL)/bin/python -m pip install --quiet --constraint constraints-monailabel.txt \
		monailabel "dicomweb-client[gcp]" einops fire setuptools \
		safetensors gudhi numba python-gdcm pylibjpeg pylibjpeg-openjpeg
	$(MONAILABEL)/bin/python -m pip install --quiet --no-deps --editable .
	$(MONAILABEL)/bin/python scripts/importable_torchvision.py
	touch $@

monailabel: $(MONAILABEL)/installed

monailabel-test: $(STAMP) $(MONAILABEL)/installed
	ANATODIFF_MONAILABEL=$(MONAILABEL) $(PYTEST) tests/test_monai_label.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages as a site: open site/index.html.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

# What the MONAI model zoo asks, of the shipped base with a fresh adapter; ANATODIFF_ZOO may name a copy of the zoo.
zoo-check: $(STAMP)
	ANATODIFF_SHARED="$${ANATODIFF_SHARED:-$(SHARED)}" $(BIN)/python scripts/zoo_check.py

# In an environment of its own: what it needs is not what is audited. It asks a service on the network.
audit: $(STAMP)
	test -x $(AUDIT)/bin/pip-audit || ($(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet pip-audit)
	$(AUDIT)/bin/pip-audit --skip-editable --path $(VENV)/lib/python*/site-packages
