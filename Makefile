# Every target sets up what it needs. Python 3.11 or newer and make are all that must be there.
PYTHON ?= python3
BIN := .venv/bin
export XDG_RUNTIME_DIR ?= $(CURDIR)/.altiora/run

.PHONY: install demo test check format bench mutate soak lock schema

install: .venv/installed

.venv/installed: requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say which with make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/altiora demo $(ARGS)

test: install
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m bench $(ARGS)

mutate: install
	$(BIN)/python -m tests.mutate $(ARGS)

# SEEDS=100: so many months with every kind of fault on real processes. Without: the long tests.
soak: install
	$(if $(SEEDS),$(BIN)/python -m tests.soak $(SEEDS) $(ARGS),$(BIN)/python -m pytest -m soak --timeout=3600 $(ARGS))

# The two locks, from pyproject.toml; needs uv (pip install uv).
lock:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -o requirements.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra sandbox --extra dev pyproject.toml -o requirements-dev.txt

# db/001_schema.sql is Alembic's offline output, api/openapi.json the API's description; tests hold them in step.
schema: install
	$(BIN)/python -m db.offline > db/001_schema.sql
	$(BIN)/python -m api
