# The first Python from 3.11 on.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check

.PHONY: demo test test-oldest test-newer property property-deep property-mutants lint format bench bench-guard soak docs clean help

help:
	@echo 'make demo         the quickstart app under uvicorn: what runs when, and a SIGTERM with shielded work under way'
	@echo 'make test         lint, and every test on asyncio, uvloop and trio'
	@echo 'make test-oldest  the tests of the packages with the oldest supported FastAPI'
	@echo 'make test-newer   the tests of the packages on each newer Python that is installed'
	@echo 'make property     the properties, at random and exhaustively (a part of make test)'
	@echo 'make property-deep     the same for hours, going on where it was stopped; HOURS=8 ends it'
	@echo 'make property-mutants  which of the planted bugs the properties notice'
	@echo 'make lint         ruff, mypy, pyright, import rules'
	@echo 'make format       what ruff can mend'
	@echo 'make bench        the cost of a task and of a request, as ratios; OPTIONS=--help tells what can be left out'
	@echo 'make bench-guard  how many instructions they take, against benchmarks/guard.json; OPTIONS=--update writes it'
	@echo 'make soak         real servers under load, ended at random moments; writes docs/soak.md; MINUTES= ROUNDS= SEED='
	@echo 'make docs         the documentation site, into site/; a warning or a broken link is an error'

demo: $(VENV)-demo/ready
	PYTHONPATH=core:fastapi_binding $(VENV)-demo/bin/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What that version itself warns of, and newer ones no longer do.
OF_STARLETTE_0_49 := -W "ignore:The on_startup and on_shutdown parameters:DeprecationWarning" \
	-W "ignore:Async generator 'starlette.requests.Request.stream' was garbage collected:ResourceWarning"

test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest $(OF_STARLETTE_0_49) tests/taskphase tests/fastapi_tasks

# (Of several that pyenv has, it runs those that are named.)
PYENV := PYENV_VERSION=$(shell pyenv versions --bare 2>/dev/null | paste -sd: -)
NEWER := $(shell for p in python3.12 python3.13 python3.14; do $(PYENV) $$p -c '' 2>/dev/null && echo $$p; done; true)

test-newer: $(NEWER:%=.venv-%/tested)
	@echo "newer Pythons that were found: $(or $(NEWER),none)"

.venv-python%/tested: .venv-python%/ready
	.venv-python$*/bin/python -m pytest tests/taskphase tests/fastapi_tasks

.PRECIOUS: .venv-python%/ready
.venv-python%/ready: pyproject.toml core/pyproject.toml constraints.txt
	$(PYENV) python$* -m venv .venv-python$*
	.venv-python$*/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	.venv-python$*/bin/python $(PIP) install --quiet -c constraints.txt --group test --group docs -e ./core -e .
	touch $@

property: $(VENV)/ready
	$(BIN)/python -m pytest property_tests

property-deep: $(VENV)/ready
	$(BIN)/python -m property_tests.deep $(if $(HOURS),--hours $(HOURS))

property-mutants: $(VENV)/ready
	$(BIN)/python -m property_tests.mutants

bench: $(VENV)/ready $(VENV)-peer/ready
	$(BIN)/python -m benchmarks $(OPTIONS)

bench-guard: $(VENV)/ready
	$(BIN)/python -m benchmarks.guard $(OPTIONS)

soak: $(VENV)/ready
	$(BIN)/python -m soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SEED),--seed $(SEED))

docs: $(VENV)/ready
	rm -rf site
	$(BIN)/zensical build --clean --strict

$(VENV)/ready: pyproject.toml core/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(BIN)/python $(PIP) install --quiet -c constraints.txt --group dev -e ./core -e .
	touch $@

# Small, and without building the packages, so that a first look takes seconds.
$(VENV)-demo/ready: pyproject.toml constraints.txt
	@echo 'installing FastAPI, uvicorn and httpx into $(VENV)-demo'
	$(PYTHON) -m venv $(VENV)-demo
	$(VENV)-demo/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(VENV)-demo/bin/python $(PIP) install --quiet -c constraints.txt --group demo
	touch $@

.venv-oldest/ready: pyproject.toml core/pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	.venv-oldest/bin/python $(PIP) install --quiet -c constraints-oldest.txt --group test -e ./core -e .
	touch $@

# Apart, because the fastapi-tasks that PyPI has bears the import name of this one.
$(VENV)-peer/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-peer
	$(VENV)-peer/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(VENV)-peer/bin/python $(PIP) install --quiet -c constraints.txt --group peer
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-python3.* $(VENV)-peer $(VENV)-demo site .cache
