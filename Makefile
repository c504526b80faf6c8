# Everything that a developer runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROTO := build/proto
PROTO_READY := $(PROTO)/venv/.ready
# The other files of bench/ are what these share, and the experiments of docs/results.md.
BENCHES := $(filter-out $(addprefix bench/,record.py closed_loop.py processes.py loopback.py peaks.py exchange_worker.py light_workers.py simulating.py turns.py counting_relay.py cpu_quota.py camera_server.py quick_detector.py) $(wildcard bench/experiment*.py),$(wildcard bench/*.py))
PROTOS := $(wildcard proto/fedfleet/v1/*.proto)
PROTOC = PATH="$(PROTO)/venv/bin:$$PATH" python -m grpc_tools.protoc -I proto \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Create .venv and install FedFleet with the versions that were tested.

# Runs again when a dependency changed; PYTHON=python3.12 chooses another interpreter.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make setup: no $(PYTHON) here; install Python 3.10 or newer, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("make setup: $(PYTHON) is Python %d.%d; FedFleet needs 3.10 or newer: make setup PYTHON=python3.11" % sys.version_info[:2])'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

.PHONY: demo
demo: setup ## Train on four worker processes, serve the model, ask it, stop.
	@$(BIN)/fedfleet up --once

# The suite runs in two processes, side by side: most of these tests wait more than they work.
BESIDE := tests/links tests/attacks tests/durability tests/contract tests/e2e \
	tests/integration/cameras $(addprefix tests/integration/test_,\
	guest.py vanishing.py semi_synchronous.py resting_fleet.py standby.py enrolment.py drain.py \
	redis_away.py)

.PHONY: test
test: setup ## Run the whole test suite (ARGS="-k name" narrows it).
ifdef ARGS
	@$(BIN)/python -m pytest -q --durations=15 $(ARGS)
else
	@mkdir -p build; status=0; \
	$(BIN)/python -m pytest -q --durations=8 -p no:cacheprovider $(BESIDE) >build/beside.log 2>&1 & \
	beside=$$!; trap 'kill $$beside 2>/dev/null || true' EXIT; \
	$(BIN)/python -m pytest -q --durations=15 $(BESIDE:%=--ignore=%) || status=$$?; \
	wait $$beside || status=$$?; cat build/beside.log; exit $$status
endif

.PHONY: lint
lint: setup ## Check style and format.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: fmt
fmt: setup ## Write the format, and what style can be mended by itself.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: setup ## Check types (mypy --strict).
	@$(BIN)/mypy

.PHONY: proto
proto: $(PROTO_READY) ## Write the stubs in fedfleet/v1 from proto/.
	@$(call PROTOC,.)

.PHONY: proto-check
proto-check: $(PROTO_READY) ## Fail when the stubs in fedfleet/v1 are not those of proto/.
	@rm -rf $(PROTO)/fresh && mkdir -p $(PROTO)/fresh
	@$(call PROTOC,$(PROTO)/fresh)
	@diff -r -x __init__.py -x __pycache__ $(PROTO)/fresh/fedfleet/v1 fedfleet/v1 \
		|| { echo "proto-check: the stubs are stale; run 'make proto' and commit fedfleet/v1" >&2; exit 1; }

# The generator has an environment of its own: it caps protobuf below what FedFleet runs with.
$(PROTO_READY): proto/requirements.txt
	@rm -rf $(PROTO)/venv && $(PYTHON) -m venv $(PROTO)/venv
	@$(PROTO)/venv/bin/python -m pip install --quiet --requirement proto/requirements.txt
	@touch $(PROTO_READY)

.PHONY: docs
docs: setup ## Write the tables of docs/configuration.md from the code.
	@$(BIN)/python docs/write_configuration.py

.PHONY: bench
bench: setup ## Print every benchmark's figures, one JSON line each; fail where a target is missed.
	@mkdir -p build && : > build/bench.jsonl
	@for file in $(BENCHES); do $(BIN)/python "$$file" | tee -a build/bench.jsonl; done
	@! grep -q '"holds": false' build/bench.jsonl || { echo "make bench: a target was missed (\"holds\": false above)" >&2; exit 1; }

.PHONY: wheel-check
wheel-check: ## Build the wheel, install it for each role in a clean environment, start its commands.
	@PYTHON=$(PYTHON) .ci/wheel-check
