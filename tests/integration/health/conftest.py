"""The probe against real servers: in this process for most tests, as a module of its own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.sre.runbooks.plugins.module_utils.health.arguments import argument_spec
from ansible_collections.sre.runbooks.plugins.module_utils.health.kinds import PROBES
from ansible_collections.sre.runbooks.plugins.module_utils.health.samples import SampleFile
from ansible_collections.sre.runbooks.plugins.module_utils.health.sweep import Limits, Sweep, requests_from
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab.machine import free_port
from lab.postgresql import PostgresServer
from tests.conftest import COLLECTIONS

Checks = dict[str, dict[str, Any]]


class Found(dict[str, Any]):
    """The checks of one target by name; `not_measured` beside them."""

    not_measured: list[str]


@pytest.fixture
def probe() -> Callable[..., Found]:
    """Probe one target with validated arguments; options of health_probe as keywords."""

    def measure(*checks: dict[str, Any], samples_file: Path | None = None, **limits: Any) -> Found:
        given = {"targets": [{"name": "it", "checks": list(checks)}]}
        validated = ArgumentSpecValidator(argument_spec()).validate(given)
        assert not validated.error_messages
        options = Limits(**{
            "timeout_seconds": 5.0, "deadline_seconds": 20.0, "samples_interval_seconds": 0.0, **limits
        })
        sweep = Sweep(PROBES, options, Progress())
        requests = requests_from(validated.validated_parameters["targets"], options)
        outcome = sweep.measure(requests, SampleFile(samples_file and str(samples_file)), keep=True)
        found = Found({check.name: check.as_dict() for check in outcome.checks})
        found.not_measured = outcome.not_measured
        return found

    return measure


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run health_probe as a process, its arguments over stdin, as with pipelining."""

    def call(check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        wrapped = {**arguments, "_ansible_check_mode": check_mode, "_ansible_remote_tmp": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "ansible_collections.sre.runbooks.plugins.modules.health_probe"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": wrapped}), capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    return call


def login_of(login: Login, **other: Any) -> dict[str, Any]:
    """A Login as the module's option."""
    return {"host": login.host, "port": login.port, "user": login.user, "password": login.password,
            "database": login.database, "sslmode": login.sslmode, **other}


@pytest.fixture
def unused_port() -> int:
    """A port on which nothing listens."""
    return free_port()


@pytest.fixture(scope="session")
def server_with_prepared(server_folder: Path) -> Iterator[Login]:
    """A small server of these tests' own, with prepared transactions and few connections: its superuser's login."""
    settings = {"max_prepared_transactions": "2", "max_connections": "12", "fsync": "off", "shared_buffers": "16MB",
                "max_wal_senders": "0"}
    with PostgresServer(server_folder / "health-postgresql", settings=settings) as server:
        yield server.login
