"""A database with one of each thing that a backup must treat right, and a way to call a module as Ansible does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from psycopg import sql

from lab.postgresql import PostgresServer, bin_directory
from tests.conftest import COLLECTIONS

ODD_NAME = 'Stra"ße \'q\' a=b ñ'

CONTENT = """
CREATE EXTENSION pg_trgm;
CREATE SCHEMA "Odd Schema";
CREATE TABLE orders (id bigserial PRIMARY KEY, customer text, amount numeric, created_at timestamptz DEFAULT now());
INSERT INTO orders (customer, amount) SELECT 'customer ' || i, i * 1.5 FROM generate_series(1, 2000) AS i;
CREATE TABLE "Odd Schema"."with ""quotes"" ñ" (t text, sre_runbooks_row int);
INSERT INTO "Odd Schema"."with ""quotes"" ñ" VALUES ('a', 1), ('a', 1), (NULL, NULL);
CREATE TABLE empty ();
CREATE UNLOGGED TABLE cache (k text); INSERT INTO cache VALUES ('x');
CREATE TABLE measured (at date, v int) PARTITION BY RANGE (at);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measured_2026 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO measured SELECT '2025-12-01'::date + i, i FROM generate_series(1, 60) AS i;
CREATE TABLE parent (a int); INSERT INTO parent VALUES (1);
CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (2), (3);
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM orders;
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE outside (line text) SERVER files OPTIONS (filename '/etc/hostname');
CREATE SEQUENCE downwards INCREMENT -1; SELECT nextval('downwards'), nextval('downwards');
SELECT lo_from_bytea(0, '\\x0102'), lo_from_bytea(0, '\\x03');
"""


@contextlib.contextmanager
def read_only(place: TargetBucket, part: str = "") -> Iterator[None]:
    """The key may list and read what a bucket has of a target, or of a part of it, and not write there."""
    client, name = place._s3._client, place._s3.bucket.bucket
    below = f"arn:aws:s3:::{name}/{place._s3.bucket.prefix}/{place._root}/{part}*"
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": below}
    client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    try:
        yield
    finally:
        client.delete_bucket_policy(Bucket=name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def filled(postgresql_server: PostgresServer) -> Iterator[Login]:
    """A database with an odd name and one of each kind of thing in it."""
    admin, name = postgresql_server.login, sql.Identifier(ODD_NAME)
    with connect(admin, "tests") as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS 'the owner''s words'").format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} SET work_mem = '8MB'").format(name))
        with connect(admin.at(ODD_NAME), "tests") as inside:
            inside.execute(CONTENT.encode())
        yield admin.at(ODD_NAME)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def as_arguments(login: Login) -> dict[str, Any]:
    return {
        "host": login.host, "port": login.port, "user": login.user, "password": login.password, "sslmode": "disable"
    }


@pytest.fixture(scope="session")
def start_module(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Start a module as a process, its arguments over stdin, as with pipelining."""
    folder = tmp_path_factory.mktemp("remote")

    def start(name: str, arguments: dict[str, Any], check_mode: bool = False) -> subprocess.Popen[str]:
        wrapped = {**arguments, "_ansible_check_mode": check_mode, "_ansible_diff": check_mode,
                   "_ansible_remote_tmp": str(folder)}
        child = subprocess.Popen(
            [sys.executable, "-m", f"ansible_collections.sre.runbooks.plugins.modules.{name}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        )
        child.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": wrapped}))
        child.stdin.close()
        child.stdin = None
        return child

    return start


@pytest.fixture(scope="session")
def call_module(start_module: Callable[..., subprocess.Popen[str]]) -> Callable[..., dict[str, Any]]:
    """Run a module to its end and return its result."""

    def call(name: str, arguments: dict[str, Any], check_mode: bool = False) -> dict[str, Any]:
        out, err = start_module(name, arguments, check_mode).communicate(timeout=120)
        assert out, err
        return json.loads(out)

    return call


def arguments_for(login: Login, store: Path, **more: Any) -> dict[str, Any]:
    return {
        "login": as_arguments(login), "database": login.database, "store_path": str(store),
        "system": "bakery_ia", "target": "orders-db", "postgresql_bin_directory": str(bin_directory()), **more,
    }


@pytest.fixture
def backup_arguments(store: Path) -> Callable[..., dict[str, Any]]:
    """The arguments of pg_backup for a database."""
    return lambda login, **more: arguments_for(login, store, **more)


@pytest.fixture(scope="module")
def whole_store(
    filled: Login, call_module: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with one backup of `filled`, with fingerprints; to be copied, not touched."""
    store = tmp_path_factory.mktemp("whole")
    result = call_module("pg_backup", arguments_for(filled, store, fingerprints=True))
    assert "backup" in result, result
    return store
