# `make` lists the targets. Everything runs in .venv, which `make setup` makes and keeps up to date.
# PYTHON=python3.12 make setup   another Python than the first of python3 … that is at least 3.11

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
CODE := usersim data_prep serve eval collab_train scripts $(if $(wildcard benchmarks/*.py),benchmarks)
BENCHES := $(sort $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))))
# No test and no demo asks the network; a library that would try is told so.
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg

BEFORE := runs/starts/userlm-135m-v2

.DEFAULT_GOAL := help
.PHONY: help setup test test-clients test-scale test-adapters test-soak demo embedded lint format types data train doctor lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@for bench in $(BENCHES); do echo "  make $$bench"; done
	@echo "  figures: QUICK=1 for at most 5 minutes on two cores; ARGS='…' hands options on"

setup:  ## .venv with everything at exact versions; seconds when nothing changed
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
	    echo "setup: needs Python 3.11 or newer (tried: $(or $(PYTHON),python3 python3.13 python3.12 python3.11));" \
	        "name one: PYTHON=python3.12 make setup" >&2; exit 2; }
	@$(PYTHON) scripts/setup.py

test: setup lint types  ## lint, types and the test-suite; at most 12 minutes on two cores
	$(OFFLINE) $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

URL ?= http://127.0.0.1:8000

test-clients: .venv-clients/done  ## one conversation of each real client; needs `usersim serve`, or URL=…
	.venv-clients/bin/python scripts/clients/run.py --url $(URL) $(ARGS)

.venv-clients/done: requirements/clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install -q --no-deps -r $<
	touch $@

test-scale: setup .venv-router/done  ## two real engines behind one API server, and vllm-router between them
	$(OFFLINE) $(BIN)/python scripts/scale.py $(ARGS)

test-adapters: setup  ## the adapter behind an alias is changed under load, on a real engine
	$(OFFLINE) $(BIN)/python scripts/adapters.py $(ARGS)

test-soak: setup  ## half an hour under load while an engine is killed every two minutes
	$(OFFLINE) $(BIN)/python benchmarks/soak.py $(if $(QUICK),--quick) $(ARGS)

.venv-router/done:
	$(PYTHON) -m venv .venv-router
	.venv-router/bin/python -m pip install -q vllm-router==0.1.17
	touch $@

demo: setup  ## the User LM beside people and a prompted model; ASSISTANT=URL for your own
	$(OFFLINE) TQDM_DISABLE=1 $(BIN)/python -m scripts.demo $(if $(ASSISTANT),--assistant '$(ASSISTANT)') $(ARGS)

lint: setup  ## ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: setup  ## mypy --strict
	$(BIN)/mypy --strict $(CODE)

data: setup  ## the installed ShareGPT chats as conversations, with goals, in data/sharegpt
	$(BIN)/usersim prep sharegpt --out data/sharegpt $(ARGS)

train: setup  ## the shipped User LM trained on, to a folder with its certificate; hours on two cores (ARGS=--dry-run: the plan)
	$(BIN)/usersim adapt configs/adapt/userlm-135m.toml $(ARGS)

# The User LM that the embedded experiment is told apart from, which the history keeps.
$(BEFORE):
	mkdir -p $@
	git archive d5b1c9d usersim/assets/userlm-135m | tar -x --strip-components=3 -C $@

embedded: setup $(BEFORE)  ## the embedded experiment of docs/bench-assistants.md: about an hour on two cores
	$(OFFLINE) $(BIN)/python scripts/embedded.py $(ARGS)

doctor: setup  ## what is installed, which engine and device, what is wrong and its cure
	$(BIN)/usersim doctor $(ARGS)

bench-%: setup
	$(OFFLINE) $(BIN)/python benchmarks/$*.py $(if $(QUICK),--quick) $(ARGS)

lock: setup  ## write requirements/lock*.txt from .venv, after its tests passed
	$(BIN)/python scripts/lock.py

clean:  ## caches and build products; keeps .venv, data and runs
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
