"""The playbooks backup_verify and backup_catalog, as an operator starts them."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import read_manifest, write_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import read_verdicts
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text

from lab import machine
from lab.postgresql import PostgresServer


@pytest.fixture
def folder(backups) -> Path:
    """A whole backup of the orders."""
    assert backups.play("database_backup", "-e", "target=orders-db").returncode == 0
    return backups.folders("orders-db")[0]


LEAST = "database_restore_least_rung=archive"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def data_file(folder: Path) -> Path:
    return max((folder / "data").glob("*.dat.gz"), key=lambda path: path.stat().st_size)


def test_a_drill_proves_a_backup_and_measures_the_recovery(backups, folder: Path):
    """A81 B40 B45 ⚠: RTO and RPO are measured, not written down. A backup of 20 days ago loses 20 days, however young
    its newest row was then.
    """
    taken_at, manifest = datetime.now(UTC) - timedelta(days=20), read_manifest(folder)
    write_manifest(folder, replace(
        manifest, snapshot=replace(manifest.snapshot, taken_at=utc_text(taken_at)),
        newest_row_at=utc_text(taken_at - timedelta(seconds=2)),
    ))
    done = backups.play("backup_verify", "-e", "target=orders-db")
    assert done.returncode == 0, done.stdout
    assert "is good up to the rung application" in done.stdout
    assert read_verdicts(folder)[-1].rung == "application"
    measures = {
        record["data"]["name"]: record["data"] for record in backups.records() if record["kind"] == "measure"
    }
    assert measures["recovery_time"]["objective"] == 14400
    assert 0 < float(measures["recovery_time"]["value"]) < 14400
    assert measures["would_be_lost"]["objective"] == 86400
    assert 20 * 86400 < float(measures["would_be_lost"]["value"]) < 20.1 * 86400
    assert (float(measures["newest_row_age"]["value"]), measures["newest_row_age"]["objective"]) == (2, None)
    assert "recovery_point" not in measures, "nothing was lost"


@pytest.mark.usefixtures("folder")
def test_a_good_drill_that_is_too_slow_fails_with_its_way_on(backups):
    """B45 ⚠: the drill is done and the backup good; what fails is the objective."""
    done = backups.play("backup_verify", "-e", "target=orders-db", "-e", "recovery_time_objective_seconds=0.001")
    assert done.returncode == 2
    assert "is good, but its recovery took" in done.stdout
    assert "orders-db: DONE. " in done.stdout


DAMAGE = {
    "a byte of a data file": (lambda folder: flip(data_file(folder)), "corrupt"),
    "a data file": (lambda folder: data_file(folder).unlink(), "incomplete"),
}


def test_a_damaged_backup_fails_the_drill_and_the_catalog(backups, folder: Path, tmp_path: Path):
    """X14 ⚠: a file that is there proves nothing. The whole backup passes before and after.

    Every other kind of damage is the module's: tests/integration/backup/test_pg_backup_verify.py.
    """
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    for what, (damage, verdict) in DAMAGE.items():
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        damage(folder)
        done = backups.play("backup_verify", "-e", "target=orders-db")
        assert done.returncode != 0, what
        assert f"of orders-db is {verdict}" in done.stdout, what
        assert "Make a new backup now" in done.stdout, what
        assert f"orders-db: DONE. The backup {folder.name} of orders-db is {verdict}" in done.stdout, what
        assert done.stdout.strip().splitlines()[-1].startswith("done (health: 1 critical after)"), what
    catalog = backups.play("backup_catalog", "-e", "target=orders-db")
    assert catalog.returncode != 0
    assert f"{folder.name} of orders-db is incomplete" in catalog.stdout
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    assert backups.play("backup_catalog", "-e", "target=orders-db", "-e", LEAST).returncode == 0


def test_a_scratch_server_whose_disk_becomes_full_says_nothing_on_the_backup(backups, small_server):
    """The same backup is good where there is room."""
    backups.sql("CREATE TABLE large AS SELECT md5(i::text) AS v FROM generate_series(1, 900000) AS i")
    assert backups.play("database_backup", "-e", "target=orders-db").returncode == 0
    done = backups.play("backup_verify", "-e", "target=orders-db", "-e", backups.scratch(small_server))
    assert done.returncode != 0
    assert "of orders-db is unverifiable" in done.stdout
    assert "No space left on device" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("failed and undone"), "its scratch database is dropped"
    (folder,) = backups.folders("orders-db")
    assert read_verdicts(folder)[-1].verdict == "unverifiable"
    assert backups.play("backup_verify", "-e", "target=orders-db").returncode == 0
    assert read_verdicts(folder)[-1].verdict == "good"


SLEEPS = json.dumps({"database_application_check": "SELECT pg_sleep(60) IS NOT NULL"})
# It makes the scratch database one that cannot be dropped.
PINS = json.dumps({"database_application_check": (
    "WITH made AS (UPDATE pg_database SET datistemplate = true WHERE datname = current_database() RETURNING true AS y)"
    " SELECT y FROM made"
)})
ASLEEP = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname LIKE 'sre%scratch%' AND query LIKE '%pg_sleep(60)%'"


@pytest.mark.usefixtures("folder")
def test_a_drill_whose_server_dies_says_that_a_copy_of_production_may_be_left(backups, server_place: Path):
    """B40 ⚠: it was told as undone, with nobody looking, while the scratch database lay there."""
    with PostgresServer(server_place / "doomed", settings={"fsync": "off"}) as server:
        there = ("-e", "target=orders-db", "-e", backups.scratch(server))
        with backups.begin("backup_verify", *there, "-e", SLEEPS) as run:
            with connect(server.login, "tests") as look:
                assert machine.wait_for(lambda: look.execute(ASLEEP).fetchone()["n"] > 0, 90)
            server.kill()
            shown = run.communicate(timeout=90)[0]
        assert run.returncode == 2, shown
        assert shown.strip().splitlines()[-1].startswith("failed and undo failed"), shown
        assert "Whether a scratch database with the data of " in shown
        assert "start the drill again: it drops what is left there" in shown
        server.start()
        with connect(server.login, "tests") as look:
            names = [row["datname"] for row in look.execute("SELECT datname FROM pg_database")]
            assert [name for name in names if name.startswith("sre_scratch_")]
            again = backups.play("backup_verify", *there)
            assert again.returncode == 0, again.stdout
            left = [row["datname"] for row in look.execute("SELECT datname FROM pg_database")]
        assert not [name for name in left if name.startswith("sre_scratch_")]
        stays = backups.play("backup_verify", *there, "-e", PINS)
        assert stays.returncode == 2
        assert "cannot drop a template database" in stays.stdout
        assert stays.stdout.strip().splitlines()[-1].startswith("failed and undo failed"), "good, and still there"


def test_the_catalog_fails_where_there_is_no_backup_or_an_old_one(backups, folder: Path):
    """B42 ⚠ B40: the alert after 25 hours that was never defined; and what a restore would take, proven by a drill."""
    assert folder.is_dir()
    undrilled = backups.play("backup_catalog", "-e", "target=orders-db")
    assert undrilled.returncode != 0
    assert "none: it refuses" in undrilled.stdout
    assert "sre.runbooks.backup_verify -e target=orders-db" in undrilled.stdout
    assert backups.play("backup_catalog", "-e", "target=orders-db", "-e", LEAST).returncode == 0
    assert backups.play("backup_verify", "-e", "target=orders-db").returncode == 0
    fresh = backups.play("backup_catalog", "-e", "target=orders-db")
    assert fresh.returncode == 0, fresh.stdout[-3000:]
    assert "the newest" in fresh.stdout
    assert [check["status"] for check in _checks(backups)] == ["ok"] * 4
    backups.local_store.rmdir()
    everything = backups.play("backup_catalog", "-e", f"backup_catalog_textfile_directory={backups.folder}")
    backups.local_store.mkdir()
    assert everything.returncode != 0
    assert "broken-db has no backup" in everything.stdout
    assert folder.name in everything.stdout
    _shows_each_database(backups, everything.stdout)
    lost = backups.play("backup_catalog", "-e", "target=orders-db", "-e", "recovery_point_objective_seconds=0")
    assert lost.returncode != 0
    failed = [check["name"] for check in _checks(backups) if check["status"] != "ok"]
    assert failed == ["recovery_point_seconds"]
    old = backups.play("backup_catalog", "-e", "target=orders-db", "-e", "backup_catalog_maximum_age_seconds=0")
    assert old.returncode != 0
    assert "old, and at most 0 s are allowed" in old.stdout
    again = backups.play(
        "backup_catalog", "-e", "target=orders-db", "-e", "backup_catalog_maximum_drilled_age_seconds=0"
    )
    assert again.returncode != 0
    assert "sre.runbooks.backup_verify -e target=orders-db" in again.stdout


def _checks(backups) -> list[dict]:
    """Those of the newest run."""
    return [record["data"]["checks"] for record in backups.records() if record["kind"] == "checks"][-1]


def _shows_each_database(backups, printed: str) -> None:
    """The calendar, also of a store that cannot be read; the metrics, only of those that can."""
    places = set(re.findall(r"Calendar: (\S+)", printed))
    (calendar,) = map(Path, places)
    page = calendar.read_text(encoding="utf-8")
    cards = dict(zip(re.findall(r"<h2>(\S+-db) ", page), page.split("<h2>")[2:], strict=True))
    assert list(cards) == ["broken-db", "local-db", "orders-db"]
    assert "No backup." in cards["broken-db"]
    assert "could not be read" in cards["local-db"]
    assert "is proven to the rung application" in cards["orders-db"]
    assert "RPO 1 d" in page
    assert 'href="calendar.html"' in (calendar.parent / "report.html").read_text(encoding="utf-8")
    told = {path.name: path.read_text(encoding="utf-8") for path in backups.folder.glob("*.prom")}
    assert sorted(told) == [f"sre_runbooks_backup_backup_tests_{name}-db.prom" for name in ("broken", "orders")]
    labels = 'system="backup_tests",target="{}",rung="application"'
    newest = {
        name: float(re.search(rf"newest_timestamp_seconds{{{labels.format(name)}}} (\S+)", "".join(told.values()))[1])
        for name in ("broken-db", "orders-db")
    }
    assert newest["broken-db"] == 0
    assert 0 < time.time() - newest["orders-db"] < 3600


def test_records_carry_the_verdict(backups, folder: Path):
    backups.play("backup_verify", "-e", "target=orders-db", "-e", "backup_verify_rung=archive")
    verdicts = [record["data"] for record in backups.records() if record["kind"] == "verdict"]
    assert json.loads(json.dumps(verdicts[-1]))["rung"] == "archive"
    assert verdicts[-1]["backup_id"] == folder.name
