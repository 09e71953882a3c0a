# Everything a developer or the CI runs. `make` lists the targets.

SHELL := bash
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

RUN ?= mabe-transfer experiment demo
SMOKE ?= mabe-transfer experiment demo --scale smoke
BENCH ?= benchmarks/report.py --run
EXPERIMENT ?= mabe-transfer experiment
SEEDS ?= 3
DEVICE ?= auto
ROBOT ?= halfcheetah

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Builds happen in environments of their own, which a -c option would not reach.
PIP_INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install format lint type test test-all check build run bench smoke figure6 figure3 figure4 table1 rows matrix clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(INSTALLED): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "mabe-transfer needs Python 3.11 or newer, and there is no '$(PYTHON)' here. Name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("mabe-transfer needs Python 3.11 or newer, and $(PYTHON) is Python %d.%d. Name another: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" % v)'
	"$(PYTHON)" -m venv $(VENV)
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.bench: $(INSTALLED)
	$(PIP_INSTALL) -e ".[bench]"
	@touch $@

install: $(INSTALLED) ## Set up .venv with the project, the tools and the pre-commit hook
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit install; fi

format: $(INSTALLED) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: $(INSTALLED) ## Check format and lint rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check

type: $(INSTALLED) ## Check types
	$(BIN)/mypy

test: $(INSTALLED) ## Run the fast tests (WORKERS=2 processes; 0 for none of their own)
	$(BIN)/pytest -n $(WORKERS) -m "not slow and not gpu"

test-all: $(INSTALLED) ## Run every test; those that need a GPU skip without one
	$(BIN)/pytest -n $(WORKERS)

check: lint type test ## What a commit must pass

build: $(INSTALLED) ## Build sdist and wheel, and try the wheel in a fresh environment elsewhere
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build
	@away=$$(mktemp -d) && trap 'rm -rf "$$away"' EXIT && set -x && \
	$(BIN)/python -m venv "$$away/venv" && \
	"$$away/venv/bin/python" -m pip install --disable-pip-version-check -q -c constraints.txt dist/*.whl && \
	cd "$$away" && venv/bin/mabe-transfer envs list

run: $(INSTALLED) ## Run the demonstration from data to video
	$(BIN)/$(RUN)

figure6 figure3 figure4 table1 rows: $(INSTALLED)
	$(BIN)/$(EXPERIMENT) $@ --seeds $(SEEDS) --device $(DEVICE)

figure6: ## Reproduce Figure 6: a behaviour carried across worlds (SEEDS=3 DEVICE=auto); resumes
figure3: ## Reproduce Figure 3: what each part of MABE is worth; resumes
figure4: ## Reproduce Figure 4: adaptive against flat prior; resumes
table1: ## Reproduce Table 1 on this project's datasets; resumes
rows: ## Train every algorithm on half cheetah's and hopper's datasets, sized for two cores; resumes

matrix: $(INSTALLED) ## Measure where carrying helps: physics shifts by tasks (ROBOT=halfcheetah); resumes
	$(BIN)/$(EXPERIMENT) $@ --robot $(ROBOT) --seeds $(SEEDS) --device $(DEVICE)

bench: $(VENV)/.bench ## Measure speed beside other libraries, and print one table
	$(BIN)/python $(BENCH)

smoke: $(INSTALLED) ## Collect, train, evaluate and report at the smallest size
	$(BIN)/$(SMOKE)

clean: ## Remove builds and caches, never data/ or runs/
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache MUJOCO_LOG.TXT
	find $(wildcard mabe_transfer tests benchmarks) -name __pycache__ -prune -exec rm -rf {} +
