# The first of these commands that is Python 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check

.PHONY: demo test test-browser test-early test-oldest test-newer property property-deep property-mutants lint format bench bench-guard soak docs clean help

help:
	@echo 'make demo         run the quickstart app under uvicorn: print what runs when, and a SIGTERM during shielded work'
	@echo 'make test         lint, then run all tests on asyncio, uvloop and trio, in a process for each core'
	@echo 'make test-browser test the inspector in a Chromium that the machine has (a part of make test)'
	@echo 'make test-early   test the packages, and properties, with early scopes: each task enters its cancel scope at its first step'
	@echo 'make test-oldest  test the packages with the oldest supported FastAPI'
	@echo 'make test-newer   test the packages on each installed Python newer than 3.11'
	@echo 'make property     run the property tests (a part of make test)'
	@echo 'make property-deep  run them for hours with new examples, from the last stop on; HOURS=8 ends it'
	@echo 'make property-mutants  plant known bugs, and report which of them the properties notice'
	@echo 'make lint         run ruff, mypy, pyright and the import rules'
	@echo 'make format       fix what ruff can fix'
	@echo 'make bench        measure a task and a request, as ratios; OPTIONS=--help lists the options'
	@echo 'make bench-guard  count their instructions, and compare with benchmarks/guard.json; OPTIONS=--update writes it'
	@echo 'make soak         end servers under load, and their brokers, at random moments; writes docs/soak.md; MINUTES= ROUNDS= QUEUES= TABS= CRASHES= SEED='
	@echo 'make docs         build the documentation site into site/; a warning or a broken link is an error'
	@echo 'make clean        remove the virtual environments and the site'

demo: $(VENV)-demo/ready
	PYTHONPATH=core:fastapi_binding $(VENV)-demo/bin/python examples/demo.py

# One process for each core, but at most 4. `worksteal` gives each process the neighbours of a file, until it has no test
# left and takes half of the tests of another process.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal

test: lint
	$(BIN)/python -m pytest $(PARALLEL)

test-browser: $(VENV)/ready
	$(BIN)/python -m pytest tests/browser

# The properties of running tasks: a minute. (Those of tables, observers, queues and requests depend less on the scopes, and
# take three.)
RUNNING := $(patsubst %,property_tests/test_%.py,attempts closing corners enclosing groups interruptions native_cancel \
	routes runtime scopes settings stray threads)

test-early: $(VENV)/ready
	TASKPHASE_SCOPES=early $(BIN)/python -m pytest $(PARALLEL) tests/taskphase tests/fastapi_tasks $(RUNNING)

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Starlette 0.49 itself raises these warnings; newer versions do not.
OF_STARLETTE_0_49 := -W "ignore:The on_startup and on_shutdown parameters:DeprecationWarning" \
	-W "ignore:Async generator 'starlette.requests.Request.stream' was garbage collected:ResourceWarning"

test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest $(PARALLEL) $(OF_STARLETTE_0_49) tests/taskphase tests/fastapi_tasks

# pyenv runs only the versions that PYENV_VERSION lists, so list all of them.
PYENV := PYENV_VERSION=$(shell pyenv versions --bare 2>/dev/null | paste -sd: -)
NEWER := $(shell for p in python3.12 python3.13 python3.14 python3.15; do $(PYENV) $$p -c '' 2>/dev/null && echo $$p; done; true)

test-newer: $(NEWER:%=.venv-%/tested)
	@echo "newer Pythons found: $(or $(NEWER),none)"

.venv-python%/tested: .venv-python%/ready
	.venv-python$*/bin/python -m pytest $(PARALLEL) tests/taskphase tests/fastapi_tasks property_tests/test_interruptions.py

.PRECIOUS: .venv-python%/ready
.venv-python%/ready: pyproject.toml core/pyproject.toml constraints.txt
	$(PYENV) python$* -m venv .venv-python$*
	.venv-python$*/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	.venv-python$*/bin/python $(PIP) install --quiet -c constraints.txt --group test --group docs --group observing --group queues \
		-e ./core -e .
	touch $@

property: $(VENV)/ready
	$(BIN)/python -m pytest $(PARALLEL) property_tests

property-deep: $(VENV)/ready
	$(BIN)/python -m property_tests.deep $(if $(HOURS),--hours $(HOURS))

property-mutants: $(VENV)/ready
	$(BIN)/python -m property_tests.mutants

bench: $(VENV)/ready $(VENV)-peer/ready $(VENV)-taskflow/ready $(VENV)-dbos/ready
	$(BIN)/python -m benchmarks $(OPTIONS)

bench-guard: $(VENV)/ready
	$(BIN)/python -m benchmarks.guard $(OPTIONS)

soak: $(VENV)/ready
	$(BIN)/python -m soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(QUEUES),--queues $(QUEUES)) $(if $(TABS),--tabs $(TABS)) $(if $(CRASHES),--crashes $(CRASHES)) \
		$(if $(SEED),--seed $(SEED))

docs: $(VENV)/ready
	rm -rf site
	$(BIN)/zensical build --clean --strict

$(VENV)/ready: pyproject.toml core/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(BIN)/python $(PIP) install --quiet -c constraints.txt --group dev -e ./core -e .
	touch $@

# Small, and without a build of the packages, so that the demo starts within seconds.
$(VENV)-demo/ready: pyproject.toml constraints.txt
	@echo 'installing FastAPI, uvicorn and httpx into $(VENV)-demo'
	$(PYTHON) -m venv $(VENV)-demo
	$(VENV)-demo/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(VENV)-demo/bin/python $(PIP) install --quiet -c constraints.txt --group demo
	touch $@

.venv-oldest/ready: pyproject.toml core/pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	.venv-oldest/bin/python $(PIP) install --quiet -c constraints-oldest.txt --group test --group observing -e ./core -e .
	touch $@

# A separate environment: the `fastapi-tasks` on PyPI has the same import name as this project.
$(VENV)-peer/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-peer
	$(VENV)-peer/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(VENV)-peer/bin/python $(PIP) install --quiet -c constraints.txt --group peer
	touch $@

# Packages that keep tasks in SQLite, each with its own dependencies.
$(VENV)-taskflow/ready $(VENV)-dbos/ready: $(VENV)-%/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python $(PIP) install --quiet -c constraints.txt 'pip>=25.1'
	$(VENV)-$*/bin/python $(PIP) install --quiet -c constraints.txt --group peer-$*
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-python3.* $(VENV)-peer $(VENV)-taskflow $(VENV)-dbos $(VENV)-demo site .cache
