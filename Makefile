# make demo: simulated Franka, no GPU, no robot, no ROS, no published weights. `make help` lists the rest.
# make demo-ros: the same over ROS 2 topics, on ROS's own pip wheels; no ROS installation either.

VENV   ?= .venv
REPORT ?= demo-report
SEED   ?= 0
ARGS   ?=
WORKERS ?= 2

# The newest torch this project is tested with. Where there is no NVIDIA GPU its CPU build is taken if
# pip's configured indexes offer one (README, "Install", says how to add PyTorch's CPU index to them).
TORCH  ?= torch==2.13.0

# The first Python 3.10-3.13 that really runs; `make PYTHON=/path/to/python3.12 demo` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
	&& echo "$$p" && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
say  = @printf '== %s\n' $(1)

.DEFAULT_GOAL := help
.PHONY: help install install-dev install-ros gl demo demo-ros test test-slow lint format docs bench clean distclean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.stamp-venv:
	@test -n "$(PYTHON)" || { echo "No Python 3.10-3.13 found. Install one, or name it: make PYTHON=/path/to/python3.12 demo" >&2; exit 3; }
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) cannot be run. Name a Python 3.10-3.13: make PYTHON=/path/to/python3.12 demo" >&2; exit 3; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"$(PYTHON) is Python {v[0]}.{v[1]}; this package needs 3.10-3.13: make PYTHON=/path/to/python3.12 demo")'
	$(call say,"Creating $(VENV) with $$($(PYTHON) --version)")
	@"$(PYTHON)" -m venv $(VENV) || { echo "venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 3; }
	@touch $@

$(VENV)/.stamp-torch: $(VENV)/.stamp-venv
	@if command -v nvidia-smi >/dev/null 2>&1; then \
		echo "== Installing $(TORCH) (NVIDIA driver found)"; $(PIP) install '$(TORCH)'; \
	elif echo "== Installing $(TORCH), CPU build" && $(PIP) install '$(TORCH)+cpu' 2>/dev/null; then :; \
	else \
		echo "   pip's indexes offer no CPU build of their own; taking the default build (README, Install)"; \
		$(PIP) install '$(TORCH)'; \
	fi
	@touch $@

$(VENV)/.stamp-sim: setup.py setup.cfg $(VENV)/.stamp-torch
	$(call say,"Installing vjepa_ac_planner[sim]")
	@$(PIP) install --editable '.[sim]'
	@touch $@

# ROS 2 has wheels for Linux on x86-64; elsewhere a sourced ROS installation serves (venv with
# --system-site-packages), and without either the ROS tests are skipped and say so.
comma := ,
ROS := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(comma)ros)

$(VENV)/.stamp-ros: $(VENV)/.stamp-sim
	$(call say,"Installing ROS 2 as wheels")
	@$(PIP) install --editable '.[sim,bags,ros]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-sim
	$(call say,"Installing what tests and lint need")
	@$(PIP) install --editable '.[sim,training,bags,convert,dev$(ROS)]'
	@touch $@

install: $(VENV)/.stamp-sim ## Install the package and the simulator into .venv

install-ros: $(VENV)/.stamp-ros ## ... and ROS 2 as wheels

install-dev: $(VENV)/.stamp-dev ## ... and what training, tests and lint need

# Rendering without a display needs EGL or OSMesa. Where they are missing and we may, install them.
gl: $(VENV)/.stamp-sim
	@$(BIN)/vjepa-ac doctor --only gl >/dev/null 2>&1 && exit 0; \
	if ! command -v apt-get >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ]; then sudo=; \
	elif sudo -n true 2>/dev/null; then sudo="sudo -n"; \
	else sudo=no; fi; \
	if [ "$${sudo-no}" != no ]; then \
		echo "== Installing libegl1 libgl1-mesa-dri (headless rendering)"; \
		{ $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends libegl1 libgl1-mesa-dri; } >$(VENV)/apt.log 2>&1 || cat $(VENV)/apt.log >&2; \
	fi; \
	$(BIN)/vjepa-ac doctor --only gl

demo: $(VENV)/.stamp-sim gl ## Watch a simulated Franka reach what a goal image shows; writes demo-report/
	$(call say,"Running the demo")
	@$(BIN)/vjepa-ac demo --out $(REPORT) --seed $(SEED) $(ARGS)

demo-ros: $(VENV)/.stamp-ros gl ## The same over ROS 2: planner and simulated robot are two processes that meet over DDS
	$(call say,"Running the ROS demo")
	@$(BIN)/vjepa-ac ros demo --seed $(SEED) $(ARGS)

test: $(VENV)/.stamp-dev gl ## Run the tests (ARGS="-k cem" narrows them; WORKERS=8 for more cores than two)
	$(call say,"Running the tests")
	@failed=; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not clock and not slow and not gpu' $(ARGS) || test $$? = 5 || failed=yes; \
	echo "== ... and those that go by the clock, one at a time"; \
	$(BIN)/python -m pytest -m 'clock and not slow and not gpu' $(ARGS) || test $$? = 5 || failed=yes; \
	test -z "$$failed"

test-slow: $(VENV)/.stamp-dev gl ## Run the slow tests too
	@$(BIN)/python -m pytest -m 'not gpu' $(ARGS)

lint: $(VENV)/.stamp-dev ## ruff and mypy
	$(call say,"ruff")
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(call say,"mypy")
	@$(BIN)/mypy

format: $(VENV)/.stamp-dev ## Format the code in place
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

docs: $(VENV)/.stamp-dev ## Bring the parameter table in docs/ros.md up to date
	@$(BIN)/vjepa-ac ros parameters --into docs/ros.md

bench: $(VENV)/.stamp-sim ## Measure planning speed on this machine
	@$(BIN)/vjepa-ac bench $(ARGS)

clean: ## Remove what runs leave behind
	@rm -rf $(REPORT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## ... and the virtual environment
	@rm -rf $(VENV)
