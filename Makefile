# `make` lists the commands; CI runs `make check` and `make test`.
# Set variables on the command line: make serve PORT=3100, make load ARGS='--p99-ms 200'.

HOST = 127.0.0.1
PORT ?= 3000
RECIPE = pos-en
RUN = runs/$(RECIPE)
MODEL =
EXTRA = serve
ARGS =
ENGINE = docker
# The first Python that runs. A pyenv shim may exist for a version that is not active, so each one is started.
PYTHON = $(firstword $(foreach python,python3.11 python3.12 python3.13,$(shell $(python) -c 'print("$(python)")' 2>/dev/null)))
# CPU builds of torch for Linux. Used only if the default index has none.
TORCH_INDEX = https://download.pytorch.org/whl/cpu

# onnxruntime and onnxruntime-gpu install the same Python package, so each needs its own environment.
VENV := $(if $(filter gpu,$(EXTRA)),.venv-gpu,.venv)
BIN := $(VENV)/bin
# The other servers of `make bench` need older releases of packages in .venv.
PEERS := .venv-peers
# Installs into the environment whose stamp is being made. The locks are complete, so pip resolves nothing.
INSTALL = $(@D)/bin/python -m pip install -qq --no-deps --no-input --disable-pip-version-check
TORCH = $(INSTALL) -r requirements/torch.txt
SERVE = $(BIN)/python -m service serve --host $(HOST) --port $(PORT)
COMPILE = $(BIN)/uv pip compile -q --no-annotate pyproject.toml

export BENTOML_DO_NOT_TRACK ?= True
export ORT_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup serve test check docs train bundle speed load bench image bento lock clean
.DELETE_ON_ERROR:

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/$(EXTRA).stamp $(BIN)/seqserve ## serve the bundles of models/zoo: HOST=127.0.0.1 PORT=3000 EXTRA=gpu
	@exec $(SERVE) $(if $(ARGS),-- $(ARGS))

# Coverage of models and service/scheduling, lines and branches, was 98.7% on 2026-11-29.
test: $(VENV)/all.stamp ## run the tests and measure coverage; without it: ARGS='-k packaging'
	@$(BIN)/python -m pytest $(or $(ARGS),--cov --cov-report=term --cov-fail-under=98)

check: $(VENV)/all.stamp ## run the linters, the import rules, the spell checker, and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo --no-cache && $(BIN)/codespell && $(BIN)/mypy

docs: $(VENV)/all.stamp ## generate the reference pages and build the site in build/site
	@$(BIN)/python docs/generate.py && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict
	@echo "seqserve: open build/site/index.html"

setup: $(VENV)/all.stamp $(BIN)/seqserve ## install everything for training, load tests, and tests into .venv
	@echo "seqserve: everything is installed. Next: . $(BIN)/activate && seqserve --help"

train: $(VENV)/all.stamp ## train a recipe: RECIPE=pos-en
	@$(BIN)/python -m training fit $(RECIPE) $(ARGS)

bundle: $(VENV)/all.stamp ## export the bundle of a run to RUN/bundle: RUN=runs/pos-en
	@$(BIN)/python -m training export $(RUN) $(ARGS)

speed: $(VENV)/all.stamp ## measure requests and inputs per second of a model or a run, 30 s: MODEL=pos-en
	@$(BIN)/python -m loadtest speed $(MODEL) $(ARGS)

load: $(VENV)/all.stamp ## start the service and load it for 60 s: PORT=3000 ARGS='--p99-ms 200'
	@$(BIN)/python -m loadtest load --serve "$(SERVE)" --url http://$(if $(findstring :,$(HOST)),[$(HOST)],$(HOST)):$(PORT) --seconds 60 $(ARGS)

# Other servers are installed only if one of them is measured.
bench: $(VENV)/all.stamp $(if $(filter seqserve --only=seqserve --against,$(ARGS)),,$(PEERS)/peers.stamp) ## compare with other servers, 40 minutes: ARGS='--quick', ARGS='--only seqserve,mosec'
	@$(BIN)/python -m loadtest bench --peers $(PEERS)/bin/python $(ARGS)

image: ## build the container image: ENGINE=docker EXTRA=gpu
	@$(ENGINE) build --build-arg EXTRA=$(EXTRA) -t seqserve $(ARGS) .

bento: $(VENV)/serve.stamp ## build a bento for `bentoml serve seqserve:latest`
	@$(BIN)/bentoml build $(ARGS)

lock: $(VENV)/all.stamp ## pin what pyproject.toml allows: ARGS=--upgrade, ARGS='--upgrade-package ruff'
	@$(COMPILE) $(ARGS) --extra serve --extra train --extra loadtest --extra dev --excludes requirements/no-cuda.txt -o requirements/all.txt
	@$(COMPILE) $(ARGS) --extra serve --generate-hashes -c requirements/all.txt -o requirements/serve.txt
	@$(COMPILE) $(ARGS) --extra gpu --generate-hashes -c requirements/all.txt -o requirements/gpu.txt
	@$(COMPILE) $(ARGS) --extra peers --excludes requirements/no-cuda.txt -o requirements/peers.txt
	@$(BIN)/uv pip compile -q --no-annotate $(ARGS) --group pyproject.toml:sbom --generate-hashes -o requirements/sbom.txt

clean: ## remove environments, caches, and build/; keep runs/
	@rm -rf .venv .venv-gpu $(PEERS) build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `venv` installs pip last: if pip exists, the environment is complete.
%/bin/pip:
	@command -v '$(PYTHON)' >/dev/null || { echo "seqserve: found no Python 3.11, 3.12, or 3.13. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "seqserve: creating $* with $(PYTHON)"
	@$(PYTHON) -m venv $*

# The command runs this repository from any folder. With the .pth file, Python finds its packages too.
$(BIN)/seqserve: Makefile | $(BIN)/pip
	@echo '$(CURDIR)' > "$$($(@D)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/seqserve.pth"
	@printf '#!/bin/sh\nexec "%s/python" "%s/seqserve.py" "$$@"\n' '$(CURDIR)/$(@D)' '$(CURDIR)' > $@ && chmod +x $@

$(VENV)/serve.stamp $(VENV)/gpu.stamp: $(VENV)/%.stamp: requirements/%.txt | $(BIN)/pip
	@echo "seqserve: installing $$(grep -c == $<) packages (about a minute)"
	@$(INSTALL) --require-hashes -r $< && touch $@

$(PEERS)/peers.stamp: requirements/peers.txt requirements/torch.txt | $(PEERS)/bin/pip
	@echo "seqserve: installing torch without CUDA"
	@$(TORCH) 2>/dev/null || $(TORCH) --extra-index-url $(TORCH_INDEX)
	@echo "seqserve: installing $$(grep -c == $<) packages (a few minutes)"
	@$(INSTALL) -r $< && touch $@

$(VENV)/all.stamp: requirements/all.txt requirements/torch.txt | $(BIN)/pip
	@echo "seqserve: installing torch without CUDA"
	@$(TORCH) 2>/dev/null || $(TORCH) --extra-index-url $(TORCH_INDEX)
	@echo "seqserve: installing $$(grep -c == $<) packages"
	@$(INSTALL) -r $< && touch $@ $(VENV)/serve.stamp
