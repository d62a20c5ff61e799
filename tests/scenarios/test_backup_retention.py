# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Retention as an operator starts it: what was removed is in the record, however it ended."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import REMOVING, TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text

from lab import REPOSITORY
from tests.unit.backup.conftest import manifest_of


def test_a_removal_that_fails_in_the_middle_leaves_what_is_gone_in_the_record(tmp_path: Path) -> None:
    """X15 D30: a backup that is gone and stands in no record is one that nobody knows to be missing."""
    (tmp_path / "store").mkdir()
    place, now = TargetFolder(tmp_path / "store", "shop", "orders-db"), datetime.now(UTC)
    for days in (5, 4, 3, 2):
        moment = now - timedelta(days=days)
        backup_id = f"{moment:%Y%m%dT%H%M%SZ}-0001"
        place.partial(backup_id).mkdir(parents=True)
        place.put(backup_id, "data/toc.dat", io.BytesIO(b"toc"), 3)
        place.publish(replace(manifest_of(backup_id, utc_text(moment)), system="shop", target="orders-db"))
        place.add_verdict(Verdict("good", "restore", utc_text(moment), backup_id))
    ids = place.ids()
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    policy = {"retention_days": 1, "maximum_age_seconds": 864000}
    inventory = {"all": {
        "vars": {**local, "system": "shop", "run_directory": str(tmp_path / "runs"),
                 "run_lock_directory": str(tmp_path / "locks")},
        "children": {
            "databases": {"hosts": {"orders-db": {"backup_store": "disk", "backup_policy": policy}}},
            "stores": {"hosts": {"disk": {"store_path": str(tmp_path / "store")}}},
        },
    }}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")

    def remove() -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
        program = Path(sys.executable).with_name("ansible-playbook")
        played = subprocess.run(
            [program, "-i", tmp_path / "hosts.yml", "playbooks/backup_retention.yml", "-e", "remove=true"],
            cwd=REPOSITORY, env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
        )
        newest = max((tmp_path / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
        return played, [json.loads(line) for line in (newest / "run.jsonl").read_text().splitlines()]

    def steps(records: list[dict[str, Any]]) -> list[str]:
        return [record["data"]["target"] for record in records if record["kind"] == "step"]

    in_the_way = place.path / f"{REMOVING}{ids[1]}"
    (in_the_way / "something").mkdir(parents=True)
    failed, records = remove()
    assert failed.returncode == 2, failed.stdout
    assert f"Removed before it were: {ids[0]}." in " ".join(failed.stdout.split())
    assert steps(records) == ids[:1]
    assert place.ids() == ids[1:]
    (in_the_way / "something").rmdir()
    done, records = remove()
    assert done.returncode == 0, done.stdout
    assert steps(records) == ids[1:3]
    assert place.ids() == ids[3:]
