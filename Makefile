# Everything sets itself up: `make demo` and `make test` work on a fresh clone.
.DEFAULT_GOAL := help
PYTHON ?= # by default the newest that the project runs on
PROFILE ?= demo
PORT ?= 3000
VENV := .venv
export DAGSTER_HOME ?= $(CURDIR)/.dagster
export MOBILECLIP2_PROFILE ?= $(PROFILE)
# nothing of the demo and the tests comes from a hub, and a hub's libraries would otherwise look
demo test suite coverage: export HF_HUB_OFFLINE = 1

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## the environment, from the locks

# compiled at once, or the first command does it file by file
$(VENV)/.ready: requirements.lock requirements-dvc.lock pyproject.toml
	@python=$$(.ci/find-python $(PYTHON)) && \
	minor='import sys; print(sys.version_info[:2])' && \
	if [ -e $(VENV) ] && [ "$$($(VENV)/bin/python -c "$$minor")" != "$$($$python -c "$$minor")" ]; then rm -rf $(VENV); fi && \
	$$python -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	$(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	$(VENV)/bin/uv venv --quiet --clear --python $(VENV)/bin/python $(VENV)/tools/dvc
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)/tools/dvc requirements-dvc.lock
	ln -sf ../tools/dvc/bin/dvc $(VENV)/bin/dvc
	touch $@

demo: setup ## the whole pipeline on the embedded data, ends with a table and report.html
	$(VENV)/bin/mobileclip2 run --profile demo --jobs 2

# types take a core for a minute, beside the tests
test: setup ## lint, types and the tests
	$(MAKE) --no-print-directory --jobs=2 lint suite COVERAGE="$(COVERAGE)"

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

# more processes than cores, because a part of the time is waiting: for processes, servers and a browser. Without bytecode, each
# of the hundreds of processes that tests start would compile the project
suite: setup
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long and not image" $(COVERAGE)

test-long: setup ## whole profiles of the documentation, the wheel and the benchmarks' rehearsals
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 -m long

image: setup ## the image of workers, built with buildah, and a group computed in it
	k8s/try-image

MINUTES ?= 60
READERS := 27
fuzz: setup ## changed files for every reader, MINUTES=60 in all
	FUZZ_SECONDS=$$(( $(MINUTES) * 60 / $(READERS) )) OMP_NUM_THREADS=1 $(VENV)/bin/pytest tests/fuzz -rP --timeout 0

# of its own: counting lines takes a third more CPU time on Python 3.11
coverage: COVERAGE = --cov
coverage: test ## the same as test, and how much of the code the tests run

ui: setup ## the web interface on loopback
	$(VENV)/bin/python -m pipelines.instance
	MOBILECLIP2_DAGSTER=http://127.0.0.1:$(PORT) $(VENV)/bin/dagster dev --host 127.0.0.1 --port $(PORT) --module-name pipelines.definitions

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock: setup ## resolves the dependencies again: of development, the image of workers, and DVC
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev $(LOCK) --output-file requirements.lock
	$(VENV)/bin/uv pip compile pyproject.toml --extra k8s $(LOCK) --constraint requirements.lock \
		--output-file requirements-image.lock
	$(VENV)/bin/uv pip compile --group dvc $(LOCK) --output-file requirements-dvc.lock
	$(VENV)/bin/uv pip compile --group docs $(LOCK) --output-file requirements-docs.lock

# what the pages link to, at the same relative paths, so that one set of links serves the repository and the site
PAGES := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md CITATION.cff LICENSE NOTICE docs demo/README.md demo/ATTRIBUTION.md \
	demo/licenses $(wildcard pipelines/profiles/*.yaml) k8s/Dockerfile k8s/examples benchmarks/results mobileclip2/models/reparameterize.py examples
ROOMS := $(notdir $(patsubst %/__init__.py,%,$(wildcard mobileclip2/*/__init__.py)))

$(VENV)/tools/docs/.ready: requirements-docs.lock | setup
	$(VENV)/bin/uv venv --quiet --clear --python $(VENV)/bin/python $(VENV)/tools/docs
	$(VENV)/bin/uv pip sync --quiet --require-hashes --python $(VENV)/tools/docs requirements-docs.lock
	touch $@

docs: $(VENV)/tools/docs/.ready ## the pages and the API reference as a site in build/site
	rm -rf build/docs build/site && mkdir -p build/docs/api
	cp --parents --recursive $(PAGES) build/docs
	for room in $(ROOMS); do printf '# mobileclip2.%s\n\n::: mobileclip2.%s\n' $$room $$room > build/docs/api/$$room.md; done
	$(VENV)/tools/docs/bin/zensical build --strict --config-file mkdocs.yml
	@echo "build/site/index.html"

clean: ## removes outputs and Dagster's history, keeps the environment
	rm -rf .store .dagster report.html

.PHONY: help setup demo test lint suite test-long image fuzz coverage ui lock docs clean
