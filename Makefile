# Everything sets itself up: `make demo` and `make test` work on a fresh clone.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
PROFILE ?= demo
PORT ?= 3000
VENV := .venv
export DAGSTER_HOME ?= $(CURDIR)/.dagster
export MOBILECLIP2_PROFILE ?= $(PROFILE)
# nothing of the demo and the tests comes from a hub, and a hub's libraries would otherwise look
demo test: export HF_HUB_OFFLINE = 1

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## the environment, from the lock

$(VENV)/.ready: requirements.lock pyproject.toml
	command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(VENV)/bin/uv pip sync --quiet --require-hashes requirements.lock
	$(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup ## the whole pipeline on the embedded data, ends with a table and report.html
	$(VENV)/bin/mobileclip2 run --profile demo

test: setup ## lint, types and all tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadfile

ui: setup ## the web interface on loopback
	mkdir -p $(DAGSTER_HOME) && cp pipelines/dagster.yaml $(DAGSTER_HOME)/
	$(VENV)/bin/dagster dev --host 127.0.0.1 --port $(PORT) --module-name pipelines.definitions

lock: setup ## resolves the dependencies anew
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --output-file requirements.lock

clean: ## removes outputs and Dagster's history, keeps the environment
	rm -rf .store .dagster report.html

.PHONY: help setup demo test ui lock clean
