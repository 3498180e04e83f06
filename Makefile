# `make` lists the targets. A fresh machine needs python3 with venv, and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist worksteal
UV := uv==0.13.9
COMPOSE = $(if $(shell docker compose version 2>/dev/null),docker compose,docker-compose)
SECRETS := deploy/secrets

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:

# The tests start the service hundreds of times: compiled anew, each start takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

# An interpreter that was asked for by name (make test PYTHON=python3.12) replaces an
# environment that was made with another one; the default is content with what is there.
ifneq ($(origin PYTHON),file)
version = $(shell $(1) -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null)
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(call version,$(PYTHON)),$(call version,$(BIN)/python))
.PHONY: $(VENV)/.runtime
endif
endif
endif

# An interpreter that was removed or replaced leaves an environment that cannot run.
ifneq ($(wildcard $(VENV)/.runtime),)
ifneq ($(shell $(BIN)/python -c 'print("well")' 2>/dev/null),well)
.PHONY: $(VENV)/.runtime
endif
endif

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- Serving ---------------------------------------------------------------------------------

.PHONY: run
run: $(VENV)/.runtime $(VENV)/.package ## set up what is missing, then serve (ARGS="-P 9090 -L DEBUG")
	@exec $(BIN)/python -m sanic_app $(ARGS)

.PHONY: local_app
local_app: run ## the same as run

.PHONY: compose
compose: ## build the image, then run it with Prometheus in Docker Compose (port 3000)
	$(COMPOSE) --project-name sanic-app --file deploy/docker-compose.yaml up --build $(ARGS)

.PHONY: compose-postgres
compose-postgres: $(SECRETS)/database-url ## the same with two nodes on PostgreSQL behind haproxy
	$(COMPOSE) --project-name sanic-app-postgres --file deploy/docker-compose.postgres.yaml \
	  up --build $(ARGS)

# Containers read them as users of their own; the folder keeps others of this machine out.
$(SECRETS)/postgres-password:
	@mkdir -p -m 700 $(SECRETS)
	@$(PYTHON) -c 'import secrets; print(secrets.token_hex(32))' >$@
	@chmod 644 $@

$(SECRETS)/database-url: $(SECRETS)/postgres-password
	@echo "postgresql://sanic_app:$$(cat $<)@postgres/sanic_app" >$@
	@chmod 644 $@

# --- Working on it ---------------------------------------------------------------------------

.PHONY: devenv
devenv: $(VENV)/.dev $(VENV)/.package ## make the virtual environment with everything in it

.PHONY: test
test: devenv ## run every test that Python alone can run (ARGS=--cov: and measure what it reaches)
	$(PYTEST) -m "not system and not deploy" $(ARGS)

.PHONY: test-postgres
test-postgres: devenv ## run the tests of the HTTP interface on PostgreSQL, in servers of their own
	TEST_ENGINE=postgres $(PYTEST) -m "not on_sqlite" tests/test_http.py tests/test_batch.py \
	  tests/test_control.py tests/test_events.py $(ARGS)

.PHONY: test-system
test-system: devenv ## run the tests that need Chromium, Prometheus, strace or root
	$(PYTEST) -m system $(ARGS)

.PHONY: test-deploy
test-deploy: devenv .venv-release/.ready ## run what deploy/ has: units, image, Compose files (needs root, Docker, systemd)
	$(BIN)/python -m pytest -m deploy $(ARGS)

.PHONY: proof
proof: devenv ## break it in every way there is and show that nothing is lost (ARGS="--seed 1")
	$(BIN)/python -m tests.proof $(ARGS)

.PHONY: mutants
mutants: devenv ## change the core in small ways and list what no test notices (ARGS="sanic_app.queue*")
	$(BIN)/python -m tests.mutants $(ARGS)

.PHONY: check
check: devenv ## check format, lint and types
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy --no-error-summary

.PHONY: format
format: devenv ## format the code and repair what the linter can
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format --quiet

.PHONY: wheel
wheel: devenv ## build the wheel and the source archive into dist/
	$(BIN)/python -m hatchling build

.PHONY: image
image: ## build the image sanic-app (ARGS="--tag sanic-app:0.1.0")
	docker build --file deploy/Dockerfile --tag sanic-app $(ARGS) .

.PHONY: sbom
sbom: devenv .venv-release/.ready ## write an SBOM and a list of licences of what is shipped into dist/
	$(BIN)/python -m tests.release

.PHONY: audit
audit: .venv-release/.ready ## ask a public database for known holes in what is shipped; needs a network
	.venv-release/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.txt $(ARGS)

.PHONY: pins
pins: ## write the pins anew after a change in pyproject.toml (ARGS=--upgrade for newer ones)
	@rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	@.venv-pins/bin/python -m pip --quiet --disable-pip-version-check install $(UV)
	$(COMPILE) --output-file requirements-build.txt --group build
	$(COMPILE) --output-file requirements.txt --extra postgres pyproject.toml
	$(COMPILE) --output-file requirements-release.txt --group release
	$(COMPILE) --output-file requirements-dev.txt --extra dev pyproject.toml \
	  --constraint requirements-build.txt --constraint requirements.txt
	@rm -rf .venv-pins

# One set of pins serves every platform and every Python from 3.11 on.
COMPILE = @.venv-pins/bin/uv pip compile $(ARGS) --quiet --universal --python-version 3.11 --no-strip-extras \
  --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make pins"

.PHONY: clean
clean: ## remove the environment, caches and what was built; data stays
	rm -rf $(VENV) .venv-* dist .coverage .coverage.* htmlcov
	rm -rf mutants .hypothesis .mypy_cache .pytest_cache .ruff_cache .schemathesis
	find sanic_app tests -type d -name __pycache__ -prune -exec rm -rf {} +

# --- Measuring: needs wrk (Debian package), and a machine that does nothing else ---------------

.PHONY: bench
bench: devenv ## measure everything, print a table and write BENCHMARKS.md (ARGS="--only NAME")
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-quick
bench-quick: devenv ## measure less of everything, in two minutes
	$(BIN)/python -m tests.bench --quick $(ARGS)

.PHONY: bench-instructions
bench-instructions: devenv ## count the instructions of an add, also on a busy machine (needs valgrind)
	$(BIN)/python -m tests.bench.instructions

.PHONY: bench-nodes
bench-nodes: devenv .venv-bench/.peers ## measure nodes on PostgreSQL beside SQLite and a peer (needs Debian's postgresql)
	$(BIN)/python -m tests.bench --only nodes $(ARGS)

.PHONY: bench-peers
bench-peers: devenv .venv-bench/.peers ## install other queues aside and measure them beside ours
	$(BIN)/python -m tests.bench.peers --write $(ARGS)

# --- The virtual environment -----------------------------------------------------------------
# A stamp lies in the environment and is as old as what it stands for. When pins change, the
# environment is made anew, so that nothing stays in it that is no longer asked for. The pins are
# complete: with --no-deps pip looks for nothing else, such as a newer version of an extra's package.

$(VENV)/.runtime: requirements.txt requirements-build.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed; name one with PYTHON=...")'
	@echo "Setting up $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-deps --require-hashes -r requirements-build.txt -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	@[ ! -e $@ ] || $(MAKE) --no-print-directory -B $(VENV)/.runtime $(VENV)/.package
	@echo "Adding the tools of development to $(VENV)"
	@$(PIP) install --no-deps --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/.package: pyproject.toml $(VENV)/.runtime
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv-release/.ready: requirements-release.txt
	@echo "Setting up .venv-release"
	@rm -rf .venv-release
	@$(PYTHON) -m venv .venv-release
	@.venv-release/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	  install --no-deps --require-hashes -r requirements-release.txt
	@touch $@

# beanstalkd's package is only unpacked: nothing of the system changes, and no daemon starts.
.venv-bench/.peers: tests/bench/peers.txt
	@echo "Setting up .venv-bench"
	@rm -rf .venv-bench
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip --quiet --disable-pip-version-check --no-input install -r $<
	@cd .venv-bench && { apt-get download --quiet --quiet beanstalkd && \
	  dpkg-deb --extract beanstalkd_*.deb beanstalkd || echo "beanstalkd is not to be had"; }
	@touch $@
