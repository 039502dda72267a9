# `make demo` and `make test` do all their own set-up. Python 3.11 is all they need (3.12 may do, but is not tested).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := 0.13.9
KRONFLUENCE := 1.0.1

export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1

.PHONY: demo test check format clean

demo: $(VENV)/.installed
	$(BIN)/finf demo

test: $(VENV)/.installed chromium check
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# torch first and on its own, with pip: what stands in pip's own configuration (a CPU build, say) is then used.
# kronfluence without its dependencies: the torchvision it asks for has no CPU build and brings a second torch.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "finf wants Python 3.11 or 3.12: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv==$(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[test]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps kronfluence==$(KRONFLUENCE)
	touch $@

# The report is tested in a real browser.
.PHONY: chromium
chromium:
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; } \
	  || { echo "make test wants a browser: apt-get install chromium"; exit 1; }

clean:
	rm -rf $(VENV) demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
