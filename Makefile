# `make demo` and `make test` do all the set-up; both create .venv first.

# The first of these that is new enough, unless PYTHON names another. Tested with 3.10 to 3.14;
# with a newer one the installation is tried, and says which dependency has no wheel for it yet.
SUPPORTED := import sys; sys.exit(sys.version_info[:2] < (3, 10))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PACKAGING := setup.py setup.cfg pyproject.toml

# ROS 2 from wheels, in an environment of its own: it needs other versions of some build tools.
ROS_VENV ?= $(VENV)-ros
ROS_BIN := $(ROS_VENV)/bin

# Python for Arm under emulation, about 1 GB with the packages.
ARM ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vision/arm

# Images for training, calibration and measurement; `make models` says what is missing.
DATA ?= ../shared

.PHONY: demo test test-arm test-ros environments soak-ros soak-memory bench-ros lint types format models accuracy bench bench-transport bench-tracking clean

demo: $(VENV)/.runtime
	$(BIN)/vision demo

# Both parts run even if the first one fails; the last line says which failed.
test: $(VENV)/.test
	@failed=; \
	$(BIN)/python -m pytest || failed="the tests"; \
	$(MAKE) --no-print-directory test-ros || failed="$${failed:+$$failed and }the tests with ROS 2"; \
	if [ -n "$$failed" ]; then echo "make: failed: $$failed" >&2; exit 1; fi

# Succeeds with a reason if there are no ROS 2 wheels for this Python or no compiler.
test-ros: $(VENV)/.venv
	@if $(BIN)/python tests/ros/possible.py; then \
		$(MAKE) --no-print-directory $(ROS_VENV)/.ros && $(ROS_BIN)/python -m pytest tests/nodes; fi

# On x86-64 with apt; downloads everything for Arm to a folder, needs no root, takes about 10 minutes.
test-arm: $(VENV)/.test
	$(BIN)/python tests/arm/environment.py $(ARM)
	VISION_TEST_ARM=$(abspath $(ARM))/bin/python $(BIN)/python -m pytest tests/arm

# Everything that lint, types and test install.
environments: $(VENV)/.dev
	@if $(BIN)/python tests/ros/possible.py; then $(MAKE) --no-print-directory $(ROS_VENV)/.ros; fi

# The cost of ROS 2 over the engine alone: ages, conversions, an idle node, one process or three.
bench-ros: $(ROS_VENV)/.ros
	$(ROS_BIN)/python -m benchmarks.ros

# Ten minutes of camera, detector and classifier at 30 images a second: memory must not grow.
soak-ros: $(ROS_VENV)/.ros
	VISION_SOAK_S=600 $(ROS_BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/nodes/test_memory.py

# 400 pipelines opened and closed in one process: memory must not grow.
soak-memory: $(VENV)/.test
	VISION_PIPELINES=400 $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/faults/test_memory.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: $(VENV)/.test
	$(BIN)/python -m recipes.build --data $(DATA)

accuracy: $(VENV)/.test
	$(BIN)/python -m recipes.accuracy --data $(DATA)

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks --data $(DATA)

bench-transport: $(VENV)/.bench
	$(BIN)/python -m benchmarks.transport

bench-tracking: $(VENV)/.bench
	$(BIN)/python -m benchmarks.tracking --data $(DATA)

clean:
	rm -rf $(VENV) $(ROS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file records what is installed, so that a second `make` is quick and a changed setup.py
# reinstalls. Each set of packages includes the ones above it.
$(VENV)/.runtime: $(VENV)/.venv $(PACKAGING)
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.venv $(PACKAGING)
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.bench: $(VENV)/.venv $(PACKAGING)
	$(PIP) install --quiet --editable '.[test,bench]'
	@touch $@ $(VENV)/.runtime $(VENV)/.test

$(VENV)/.dev: $(VENV)/.venv $(PACKAGING)
	$(PIP) install --quiet --editable '.[test,dev]'
	@touch $@ $(VENV)/.runtime $(VENV)/.test

$(ROS_VENV)/.ros: $(ROS_VENV)/.venv $(PACKAGING) $(shell find tests/ros -type f)
	$(ROS_BIN)/python -m pip --disable-pip-version-check install --quiet \
		--requirement tests/ros/requirements.txt --editable '.[test,ros]'
	$(ROS_BIN)/python tests/ros/build_messages.py
	@touch $@

$(VENV)/.venv $(ROS_VENV)/.venv: %/.venv:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(SUPPORTED)'; then \
		echo "make: expected Python 3.10 or newer, but found $$($(or $(PYTHON),python3) --version 2>&1);" \
			"install one, then: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "make: $(PYTHON) lacks venv or ensurepip;" \
			"on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; fi
	@echo "installing into $*, which takes a minute or two the first time"
	$(PYTHON) -m venv --clear $*
	@touch $@
