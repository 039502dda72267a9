# `make demo` and `make test` do all their own set-up. Python 3.11 is all they need (3.12 may do, but is not tested).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEBIAN := chromium fonts-dejavu-core dataset-fashion-mnist bible-kjv postgresql
# Every package but torch comes from locks/*.txt, as the wheel whose hash stands there, or not at all (docs/DEPENDENCIES.md).
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
LOCKED := $(INSTALL) --require-hashes --no-build
LOCK := $(BIN)/uv pip compile --quiet --no-header --no-annotate --generate-hashes \
  --python-version 3.11 --python-platform x86_64-unknown-linux-gnu

export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1

.PHONY: demo test fuzz faults check check-deploy docs wheel format lock audit results peers clean

demo: $(VENV)/.installed
	$(BIN)/finf demo

# Two at a time, a file each: servers, Ray and Prefect leave a core idle for much of a test. In the order of their names:
# by their number of tests, the files with the few long ones would come last, one after the other.
test: $(VENV)/.installed debian-packages check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

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

# The files of deploy/, without a container engine; `make test` does it too.
check-deploy: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_deploy_files.py tests/test_deploy_kubernetes.py tests/test_deploy_metrics.py tests/test_deploy_node.py

# The documentation site, from README.md, docs/, deploy/ and the code: build/site/index.html. Offline; warnings end it.
docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -W --keep-going --quiet -c docs/site -d build/doctrees . build/site

# dist/: the source archive, and the wheel that is made of it. Offline.
wheel: $(VENV)/.installed
	$(BIN)/uv build --quiet --offline --no-build-isolation --python $(BIN)/python --clear --out-dir dist

format: $(VENV)/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# torch by pip: what stands in pip's own configuration (a CPU build, say) is then used. Its other needs are there already.
$(VENV)/.installed: pyproject.toml $(wildcard locks/*.txt) | $(BIN)/uv
	$(LOCKED) -r locks/all.txt
	$(BIN)/python -m pip install --quiet $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
	$(INSTALL) --no-build-isolation --editable .
	$(BIN)/uv pip check --quiet --python $(BIN)/python
	$(LOCKED) -r locks/no-deps.txt
	touch $@

$(BIN)/uv: locks/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "finf wants Python 3.11 or 3.12: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r locks/uv.txt
	touch $@

# Versions and hashes anew, after a change of pyproject.toml or of locks/*.in; what need not change stays. Any newer
# versions: make lock UPGRADE=--upgrade
lock: $(BIN)/uv
	$(LOCK) $(UPGRADE) --override locks/without-torch.txt --extra test pyproject.toml locks/all.in -o locks/all.txt
	$(LOCK) --override locks/without-torch.txt --constraint locks/all.txt --extra vision --extra deploy pyproject.toml locks/all.in -o locks/run.txt
	for name in no-deps peers uv; do $(LOCK) --no-deps locks/$$name.in -o locks/$$name.txt || exit 1; done

# Known vulnerabilities of what the lock names. It asks a public service and fails where that cannot be reached.
audit: $(BIN)/uv
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --require-hashes --disable-pip -r locks/all.txt

# The report is tested in a real browser, the stack of deploy/compose.yaml on a real PostgreSQL; Fashion-MNIST and the
# King James Bible are what `finf verify` and the tiny language model of `finf evaluate` are made of.
.PHONY: debian-packages
debian-packages:
	@{ command -v chromium && command -v bible && test -d /usr/share/datasets/fashion-mnist && ls -d /usr/lib/postgresql/*/bin; } > /dev/null 2>&1 \
	  || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN) > /dev/null; } \
	  || { echo "wanted: apt-get install $(DEBIAN)"; exit 1; }

# Every figure of docs/RESULTS.md, made anew: about an hour on two cores. What is in the store is not made again.
results: $(VENV)/.installed debian-packages
	$(BIN)/python -m benchmarks.results

# finf beside bergson, kronfluence and dattri, on the same rows and queries: about half an hour on two cores.
peers: $(VENV)/.installed
	$(LOCKED) -r locks/peers.txt
	$(BIN)/python -m benchmarks.peers --json

clean:
	rm -rf $(VENV) demo-run build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
