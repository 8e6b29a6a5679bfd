# make train: everything on a fresh machine, to synthetic radiographs. make test: everything, to a passing suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
AUDIT := .audit
SHARED := $(CURDIR)/../shared

.PHONY: setup train test test-all lint audit

setup: $(STAMP)

# Installed again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dicom,fast,generative,test]"
	touch $@

train: $(STAMP)
	$(BIN)/python -m monai.bundle run training --config_file configs/train.json

# One process for each core, each of one thread: threads of several would wait for each other.
PYTEST := ANATODIFF_SHARED="$${ANATODIFF_SHARED:-$(SHARED)}" OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) --no-skips

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In an environment of its own: what it needs is not what is audited. It asks a service on the network.
audit: $(STAMP)
	test -x $(AUDIT)/bin/pip-audit || ($(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet pip-audit)
	$(AUDIT)/bin/pip-audit --skip-editable --path $(VENV)/lib/python*/site-packages
