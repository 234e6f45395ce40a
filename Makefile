# One command each, and nothing to set up before it but python3 and make: every target builds .venv itself if it has to.
# PYTHON chooses the interpreter the environment is made with: make test PYTHON=python3.13

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
CODE   := src tests examples bench proof deploy

.DEFAULT_GOAL := help
.PHONY: help demo demo-fleet test test-interop check format lint types layers docs bench soak clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

demo: $(READY)  ## a real client, an outage, a kill -9, a recovery, and the relay's page; counted; under a minute, no network
	@$(BIN)/eventpost demo

demo-fleet: $(READY)  ## two relays, two senders, two applications on one Valkey, a kill -9 of each; under a minute, no network
	@$(BIN)/eventpost demo-fleet

test: $(READY)  ## all tests, against the real SDK and real processes
	@$(BIN)/python -m pytest -n 3 --dist loadfile

test-interop: $(READY)  ## the official SDKs of Go, JavaScript, Java and Python in front of the relay; fetches them
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m interop tests/interop

check: format lint types layers docs  ## format, lint, types, layers and docs: what has to be clean before a commit

format: $(READY)  ## the layout of the code (checked, not changed)
	@$(BIN)/ruff format --check $(CODE)

lint: $(READY)  ## ruff, nearly all of its rules
	@$(BIN)/ruff check $(CODE)

types: $(READY)  ## mypy, strict
	@$(BIN)/mypy

layers: $(READY)  ## who may import whom
	@$(BIN)/python -m pytest -qq tests/unit/test_layers.py && echo "layers: as drawn"

docs: $(READY)  ## the documentation names what there is
	@$(BIN)/python -m pytest -qq tests/unit/test_docs.py && echo "docs: as built"

bench: $(READY)  ## the official pipeline, peers and ours, alternately in one run; writes docs/performance*.md and docs/scale.md
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.relay --write
	@$(BIN)/python -m bench.fleet --write
	@$(BIN)/python -m bench.scale --write

soak: $(READY)  ## the whole proof: simulations, power loss, kills, fuzzing, chaos, mutants; hours; writes its figures to docs/guarantees.md
	@$(BIN)/python -m proof --record all

clean:  ## remove the environment and what the tools leave behind
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# pycurl has no wheel for some systems (Alpine, free-threaded builds); it is never built from source here.
$(READY): requirements-dev.txt requirements-dev-curl.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: -r requirements-dev-curl.txt \
	  || echo "no pycurl wheel for this system: going on with the urllib3 transport"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)
