# Everything one does here, a line or two a verb; CI calls the same ones. `make` lists them.
# Variables are given on the command line: make serve PORT=3100, make load ARGS='--p99-ms 200'.

HOST = 127.0.0.1
PORT ?= 3000
RECIPE = pos-en
RUN = runs/$(RECIPE)
EXTRA = serve
ARGS =
PYTHON = python3.11
ENGINE = docker
# Linux wheels of torch without CUDA. Only torch is looked for there, and only if the usual index has no such wheel.
TORCH_INDEX = https://download.pytorch.org/whl/cpu

# The GPU build of ONNX Runtime and the CPU build are one Python package: each gets an environment of its own.
VENV := $(if $(filter gpu,$(EXTRA)),.venv-gpu,.venv)
BIN := $(VENV)/bin
# What `make bench` compares with needs older releases of what is in .venv.
PEERS := .venv-peers
# Into the environment whose stamp is being made. Locks are complete, so pip has nothing to resolve. Warnings of pip are
# about the machine, errors are still shown.
INSTALL = $(@D)/bin/python -m pip install -qq --no-deps --no-input --disable-pip-version-check
LOCKS := $(patsubst %,requirements/%.txt,serve train loadtest dev)
TORCH = $(INSTALL) -c requirements/train.txt torch
# BentoML empties the metrics of its home at every start: each port has a home of its own.
SERVE := env BENTOML_HOME=$(CURDIR)/build/bentoml/$(PORT) $(BIN)/python -m bentoml serve service.app:Seqserve --host $(HOST) --port $(PORT)

# BentoML and ONNX Runtime report usage unless these are set.
export BENTOML_DO_NOT_TRACK ?= True
export ORT_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup serve test check train bundle load bench image bento lock clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/$(EXTRA).stamp ## serve the bundles of models/zoo: HOST=127.0.0.1 PORT=3000 EXTRA=gpu
	@$(BIN)/python -c "import socket; socket.create_server(('$(HOST)', $(PORT)))" 2>/dev/null || \
		{ echo "seqserve: $(HOST):$(PORT) is taken: stop what listens there, or make serve PORT=3100" >&2; exit 1; }
	@echo "seqserve: starting on http://$(HOST):$(PORT) (Ctrl-C stops it)"
	@exec $(SERVE) $(ARGS)

test: $(VENV)/all.stamp ## pass the tests: ARGS='-k packaging'
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/all.stamp ## linters, formatting and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: $(VENV)/all.stamp ## install what training, load tests and tests need into .venv, a few minutes
	@echo "seqserve: all is installed; next: . $(BIN)/activate"

train: $(VENV)/all.stamp ## train by a recipe: RECIPE=pos-en
	@$(BIN)/python -m training fit $(RECIPE) $(ARGS)

bundle: $(VENV)/all.stamp ## make the bundle of a run, RUN/bundle: RUN=runs/pos-en
	@$(BIN)/python -m training export $(RUN) $(ARGS)

load: $(VENV)/all.stamp ## 60 s of load on a service started for it: PORT=3000 ARGS='--p99-ms 200'
	@$(BIN)/python -m loadtest run --serve "$(SERVE)" --url http://$(HOST):$(PORT) --seconds 60 $(ARGS)

bench: $(VENV)/all.stamp $(PEERS)/peers.stamp ## against other servers, 40 minutes: ARGS='--quick', ARGS='--only seqserve,mosec'
	@$(BIN)/python -m loadtest bench --peers $(PEERS)/bin/python $(ARGS)

image: ## build the container image: ENGINE=docker EXTRA=gpu
	@$(ENGINE) build --build-arg EXTRA=$(EXTRA) -t seqserve $(ARGS) .

bento: $(VENV)/serve.stamp ## build a bento, for `bentoml serve seqserve:latest` anywhere
	@$(BIN)/bentoml build $(ARGS)

lock: $(BIN)/pip ## pin the newest versions that pyproject.toml allows (on Linux)
	@$(BIN)/python requirements/lock.py

clean: ## remove environments, caches and build/; runs/ stays
	@rm -rf .venv .venv-gpu $(PEERS) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last into an environment: if it is there, the environment is whole.
%/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "seqserve: needs Python 3.11 ('$(PYTHON)' is not there; make PYTHON=…)" >&2; exit 1; }
	@echo "seqserve: making $*"
	@$(PYTHON) -m venv $*

$(VENV)/serve.stamp $(VENV)/gpu.stamp: $(VENV)/%.stamp: requirements/%.txt | $(BIN)/pip
	@echo "seqserve: installing $$(grep -c == $<) packages of $< (about a minute)"
	@$(INSTALL) -r $< && touch $@

$(PEERS)/peers.stamp: requirements/peers.txt | $(PEERS)/bin/pip
	@echo "seqserve: installing torch, without CUDA"
	@$(TORCH) 2>/dev/null || $(TORCH) --extra-index-url $(TORCH_INDEX)
	@echo "seqserve: installing $$(grep -c == $<) packages of $< (a few minutes)"
	@$(INSTALL) -r $< && touch $@

$(VENV)/all.stamp: $(LOCKS) | $(BIN)/pip
	@echo "seqserve: installing torch, without CUDA"
	@$(TORCH) 2>/dev/null || $(TORCH) --extra-index-url $(TORCH_INDEX)
	@echo "seqserve: installing $$(cat $(LOCKS) | grep == | sort -u | wc -l) packages of $(LOCKS)"
	@$(INSTALL) $(addprefix -r ,$(LOCKS)) && touch $@ $(VENV)/serve.stamp
