# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster brought back to the moment before a table was dropped, as an operator starts it; a consumer writes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Places
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from tests.scenarios.pitr_scene import TARGET, Shop, shop

__all__ = ["shop"]


def test_rows_dropped_at_a_known_moment_come_back_and_undo_brings_the_kept_cluster_back(shop: Shop) -> None:
    """A86 ⚠: the consumer is away for seconds, the old cluster is kept, a base of the new timeline is proven."""
    restoring = shop.server.folder / "data.restoring"
    shop.run("SELECT pg_sleep(1.5)")
    moment = shop.run("SELECT clock_timestamp()").isoformat()
    before = shop.run(f"SELECT count(*) FROM orders WHERE at <= '{moment}'")
    shop.run("DROP TABLE customers")

    looked = shop.play("database_pitr", "-e", f"to={moment}", "--check", "--diff")
    assert looked.returncode == 0, looked.output
    for step in ("restore the backup beside the live cluster", "stop the service", "put the live data directory aside",
                 "make a base backup of the new timeline"):
        assert step in looked.output
    assert "losing" in looked.output
    assert "A plan was shown and nothing was changed" in " ".join(looked.output.replace("│", "").split())
    assert shop.records("outcome")[-1]["outcome"] == "done"
    assert not restoring.exists()

    drilled = shop.play("database_pitr_drill", "-e", f"approve={TARGET}")
    assert drilled.returncode == 0, drilled.output
    assert "The check of the owner passed." in shop.records("outcome")[-1]["message"]
    assert not restoring.exists()

    # Somebody looks at the restored cluster, and wants another look.
    pid = shop.service_pid()
    code, shown = shop.play_at_terminal([TARGET, "no"], "database_pitr", "-e", f"to={moment}")
    assert code == 2, shown
    assert "the answer was no" in shown
    outcome = shop.records("outcome")[-1]
    assert outcome["outcome"] == "refused", shown
    assert "was not touched. The restored one stays beside it, read-only: psql -h" in outcome["message"]
    assert "REFUSED" in shown
    assert "what by now" in shown
    assert shop.service_pid() == pid
    assert restoring.exists()

    played = shop.play("database_pitr", "-e", f"to={moment}", "-e", f"approve={TARGET}")
    assert played.returncode == 0, played.output
    assert "restore the backup beside" not in played.output, "it stood there"
    assert shop.run("SELECT count(*) FROM customers") == 500
    assert shop.run(f"SELECT count(*) FROM orders WHERE at <= '{moment}'") == before
    assert shop.answers()
    measured = {one["name"]: one for one in shop.records("measure")}
    measures = {name: one["value"] for name, one in measured.items()}
    assert 0 < measures["exchange"] < measures["outage"] < measures["recovery_time"]
    away, back = (
        (datetime.fromisoformat(measured["outage"][name]) - datetime.fromisoformat(moment)).total_seconds()
        for name in ("started_at", "ended_at")
    )
    assert away < measures["recovery_point"] < back, "the consumer wrote until it was stopped"
    assert "database_pitr_undo" in played.output
    password = shop.server.login.password
    assert password not in played.output
    position = (shop.server.folder / "data.pitr" / "position.json").read_text(encoding="utf-8")
    assert password not in position

    # Who was cut off at the end starts it again: what was written since stays.
    shop.run("CREATE TABLE since AS SELECT 1 AS n")
    again = shop.play("database_pitr", "-e", f"to={moment}", "-e", f"approve={TARGET}")
    assert again.returncode == 0, again.output
    assert shop.records("outcome")[-1]["outcome"] == "nothing to do", again.output
    assert shop.run("SELECT n FROM since") == 1

    undone = shop.play("database_pitr_undo", "-e", f"approve={TARGET}")
    assert undone.returncode == 0, undone.output
    assert shop.run("SELECT to_regclass('customers')") is None
    assert shop.answers()
    assert not shop.locks()


def test_a_check_that_could_not_be_asked_is_not_called_passed(shop: Shop) -> None:
    """A86 ⚠: just before the end of a DROP TABLE nobody can read the table, until the recovered cluster is live."""
    shop.run("CREATE TABLE suppliers AS SELECT generate_series(1, 20) AS id")
    with connect(shop.server.login.at("shop"), "tests", autocommit=False) as dropping:
        dropping.execute("DROP TABLE suppliers")
        accident = dropping.execute("SELECT pg_current_xact_id()::text AS id").fetchone()["id"]
        dropping.commit()
    check = "SELECT count(*) = 20, count(*) || ' suppliers' FROM suppliers"
    given = (
        "-e", f"to={accident}", "-e", "database_pitr_kind=transaction", "-e", "database_pitr_exclusive=true",
        "-e", f"backup={shop.first_base()}", "-e", json.dumps({"database_application_check": check}),
        "-e", f"approve={TARGET}",
    )
    drilled = shop.play("database_pitr_drill", *given)
    assert drilled.returncode == 2, drilled.output
    assert "so it is not proven" in " ".join(drilled.output.replace("│", "").split())
    assert shop.records("outcome") == [], "nothing is called done"
    assert not (shop.server.folder / "data.restoring").exists()

    played = shop.play("database_pitr", *given)
    assert played.returncode == 0, played.output
    assert any("It is asked then, before the recovery is done" in one["text"] for one in shop.records("message"))
    assert "The check of the owner passed." in shop.records("outcome")[-1]["message"]
    assert shop.run("SELECT count(*) FROM suppliers") == 20


def test_a_run_that_meets_another_one_leaves_everything_to_it(shop: Shop) -> None:
    """A86 ⚠: taking back would be taking away what the other one is restoring."""
    places = Places(shop.server.data_directory)
    places.prepare((shop.server.data_directory.stat().st_uid, shop.server.data_directory.stat().st_gid))
    # When a base backup ended is known by the second, and a target must be after that.
    time.sleep(2)
    moment = shop.run("SELECT clock_timestamp()").isoformat()
    with places.alone(Progress(), 5):
        played = shop.play(
            "database_pitr", "-e", f"to={moment}", "-e", f"approve={TARGET}", "-e", "database_pitr_lock_wait_seconds=1"
        )
    assert played.returncode == 2, played.output
    shown = " ".join(played.output.replace("│", "").split())
    assert "Another run still works on" in shown
    assert shop.records("outcome") == [], "nothing was left undone"
    assert [one["name"] for one in shop.records("phase") if one["state"] == "end"][-1] == "undo"
    assert shop.answers()
    assert not shop.locks()


def test_a_server_that_does_not_run_any_more_is_recovered(shop: Shop) -> None:
    """A86 ⚠: the commonest reason to recover; nobody can be asked, and consumers are ill already."""
    moment = shop.run("SELECT clock_timestamp()").isoformat()
    before = shop.run(f"SELECT count(*) FROM orders WHERE at <= '{moment}'")
    shop.run("DELETE FROM orders")
    shop.server.pgbackrest("check")
    time.sleep(3)
    shop.server.kill()
    killed = datetime.now(UTC)
    played = shop.play("database_pitr", "-e", f"to={moment}", "-e", f"approve={TARGET}")
    assert played.returncode == 0, played.output
    lost = next(one["value"] for one in shop.records("measure") if one["name"] == "recovery_point")
    written = (killed - datetime.fromisoformat(moment)).total_seconds()
    assert written - 2 < lost <= written + 1, "what it wrote and had not archived is lost as well"
    assert "had not archived cannot be recovered" in " ".join(played.output.replace("│", "").split())
    assert shop.run(f"SELECT count(*) FROM orders WHERE at <= '{moment}'") == before
    assert shop.answers()
