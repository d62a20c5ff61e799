# Every target sets up what it needs from nothing, and finds it there the second time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
LINK := .ansible/collections/ansible_collections/sre/runbooks
OUTSIDE := $(subst $(CURDIR)/$(BIN):,,$(PATH))
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: help demo demo-recovery test test-faults lint bench dev lab-up lab-down build docs lock clean browser older-server ssh-server

help: ## these lines
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.demo $(LINK) ## see the whole path: a platform measured, data lost, and brought back
	@$(PY) -m lab.demo

# What only root can install is left out without root, and said.
demo-recovery: $(VENV)/.test $(LINK) ## lose data in three ways: how long each recovery took and what is gone, beside the targets
	@test "$$(id -u)" -ne 0 || $(MAKE) --no-print-directory older-server || true
	@$(PY) -m lab.demo_recovery

test: dev browser older-server ssh-server ## everything: lint, unit, integration and scenario tests, molecule
	@$(PY) tools/run_tests.py

test-faults: dev older-server ## every fault of the matrix, injected for real; writes docs/faults.md
	@$(PY) tools/run_faults.py

lint: dev ## ansible-lint, ruff, yamllint, ansible-test sanity, and our own checks
	@$(PY) tools/lint.py

bench: dev ## measure against the raw tools; writes docs/benchmarks.md
	@$(PY) -m tests.benchmarks.harness $(ONLY)

dev: $(VENV)/.test $(LINK) ## the virtual environment with everything for work on the collection

lab-up: $(VENV)/.demo $(LINK) ## start a system's lab: make lab-up SYSTEM=bakery_ia, with NAME=… a second one
	@$(PY) -m lab up $(or $(SYSTEM),bakery_ia) $(if $(NAME),--name $(NAME))

lab-down: $(VENV)/.demo $(LINK) ## take the lab down again; where there are several, SYSTEM=… or NAME=… says which
	@$(PY) -m lab down $(SYSTEM) $(if $(NAME),--name $(NAME))

build: dev ## the collection as a file, and proof that it installs and runs from an empty folder
	@$(PY) tools/build.py

docs: dev ## write the generated pages anew: coverage, the README's table
	@$(PY) tools/generate.py

lock: dev ## write requirements*.txt from pyproject.toml; UPGRADE=--upgrade takes newer versions
	@$(PY) tools/lock.py $(UPGRADE)

clean: ## remove what make has made here, the labs' runs and reports in build/ too; take labs down first
	rm -rf $(VENV) .ansible build .pytest_cache .ruff_cache .hypothesis

# Debian's Chromium opens the reports in the tests, as a person would.
browser: $(VENV)/.test
	@command -v chromium > /dev/null || $(PY) tools/install_from_debian.py chromium

# Debian's PostgreSQL is older than the wheel's: a server of another major version, with its own client programs. Debian's
# pgBackRest knows it, and not the wheel's.
older-server: $(VENV)/.test
	@ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || $(PY) tools/install_from_debian.py postgresql
	@command -v pgbackrest > /dev/null || $(PY) tools/install_from_debian.py pgbackrest

# Debian's OpenSSH is how the tests reach a store on another machine; its server is only unpacked, and serves them alone.
ssh-server: $(VENV)/.test
	@command -v ssh > /dev/null && { test -x /usr/sbin/sshd || test -x $(VENV)/openssh/usr/sbin/sshd; } \
	  || $(PY) tools/unpack_ssh_server.py

# A python3 on the path may be a stub that runs nothing, so each candidate has to prove that it can do what is needed.
# The one of a half-made environment is no candidate: it would be removed together with it.
$(VENV)/.made:
	@PATH="$(OUTSIDE)"; python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.13 python3.12 python3.11; do \
	    if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	      python="$$candidate"; break; \
	    fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer with venv was found: install one (Debian: apt-get install python3-venv)," \
	       "or name it: make PYTHON=/path/to/python3.11 …" >&2; exit 1; \
	fi; \
	rm -rf $(VENV); "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.demo: requirements-demo.txt | $(VENV)/.made
	@$(PY) tools/heartbeat.py "Installing what the demo needs into $(VENV)" \
	  $(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-demo.txt
	@touch $@

# The tests' set holds the demo's, so after this one the demo has nothing to install.
$(VENV)/.test: requirements-test.txt requirements-demo.txt | $(VENV)/.made
	@$(PY) tools/heartbeat.py "Installing what the tests need into $(VENV)" \
	  $(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-test.txt
	@touch $(VENV)/.demo $@

$(LINK):
	@mkdir -p $(dir $(LINK)) && ln -sfn ../../../.. $(LINK)
