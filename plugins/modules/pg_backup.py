#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup
short_description: Back up a PostgreSQL database, with the counts to prove it
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Dumps one database with C(pg_dump) in directory format, in parallel and in one snapshot. All tables are locked
    C(ACCESS SHARE) before the snapshot is taken, so that a C(TRUNCATE) cannot slip between.
  - Counts the rows of each table exactly in that same snapshot, and reads the database's own properties, which a dump
    of a single database does not carry, and the roles.
  - Runs where the store is. Data flows from the database to the store over libpq; the controller carries none.
  - The manifest, with size and SHA-256 of each file, is written last. A backup that is killed leaves nothing that looks
    like one; the next one removes what it left.
  - Each call makes a new backup, so it always reports a change.
attributes:
  check_mode:
    support: full
    description: Connects and measures, and returns the plan with the expected size and the free space.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.postgresql
  - sre.runbooks.postgresql.client
  - sre.runbooks.store
  - sre.runbooks.progress
options:
  database:
    description: Name of the database.
    type: str
    required: true
  jobs:
    description: Tables that are dumped at once, and as many that are counted.
    type: int
    default: 2
  compression_level:
    description:
      - Level of gzip, from V(0) (none) to V(9).
      - V(1) is about twice as fast as the customary V(6), for files that are about a tenth larger.
    type: int
    default: 1
  fingerprints:
    description:
      - Also take a fingerprint of each table's content, independent of the order of rows. It finds accidents, not
        malice (a sum of 64-bit hashes), and reads every column, so it costs about as much time as the dump itself.
    type: bool
    default: false
  role_credentials:
    description:
      - Let C(globals.sql) carry the roles' password hashes. Whoever reads the store can then try to guess them.
    type: bool
    default: false
  newest_row_query:
    description: A query with one row and one column, the time stamp of the newest row. Runs in the snapshot.
    type: str
  timeout_seconds:
    description: Seconds after which C(pg_dump) is ended.
    type: int
    default: 14400
"""

EXAMPLES = r"""
- name: Back up the orders
  sre.runbooks.pg_backup:
    login:
      host: 10.0.0.5
      user: backup
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-backup') }}"
    database: orders
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
    newest_row_query: SELECT max(created_at) FROM orders
  delegate_to: backup-store
"""

RETURN = r"""
plan:
  description: The steps, each with C(step), C(target), C(before), C(after), C(reversible).
  returned: always
  type: list
  elements: dict
  sample: [{step: back up database, target: "/srv/backups/bakery_ia/orders-db/<backup_id>", before: absent,
            after: "9 tables, up to 1.5 GB of 80.1 GB free, with 2 jobs, gzip:1", reversible: true}]
estimated_bytes:
  description: The expected size of the backup, an upper estimate.
  returned: always
  type: int
  sample: 1500000000
free_bytes:
  description: Free space before the backup, of the store's folder or the work folder, whichever has less.
  returned: always
  type: int
  sample: 80100000000
message:
  description: The result in one sentence.
  returned: always
  type: str
  sample: "20261121T021500Z-3fa9: 4,120,331 rows in 9 tables, 402.1 MB, in 41.2 s."
notes:
  description: What else an operator should know, such as a query for the newest row that fails.
  returned: always
  type: list
  elements: str
  sample: ["The time of the newest row is not known: The query for the newest row failed: column x does not exist."]
backup:
  description: The backup.
  returned: when not in check mode
  type: dict
  sample:
    backup_id: 20261121T021500Z-3fa9
    place: /srv/backups/bakery_ia/orders-db/20261121T021500Z-3fa9
    taken_at: "2026-11-21T02:15:00.120Z"
    newest_row_at: "2026-11-21T02:14:59.880Z"
    duration_s: 41.2
    total_bytes: 402118233
    tables: 9
    rows: 4120331
    not_counted: ["public.report (materialized view)"]
"""

from datetime import datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import place_of, store_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.dump import BackupMaker, Request, observe, plan_of
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words


def request_of(arguments: dict[str, Any]) -> Request:
    """The module's arguments as a request."""
    if not 0 <= arguments["compression_level"] <= 9 or arguments["jobs"] < 1:
        raise RunbookError(
            f"compression_level is {arguments['compression_level']} and jobs is {arguments['jobs']}.",
            "compression_level is 0 to 9, and jobs at least 1.",
        )
    return Request(
        login=Login.from_arguments(arguments["login"]), database=arguments["database"],
        place=place_of(arguments),
        jobs=arguments["jobs"], compression_level=arguments["compression_level"],
        fingerprints=arguments["fingerprints"], credentials=arguments["role_credentials"],
        newest_row_query=arguments["newest_row_query"], bin_directory=arguments["postgresql_bin_directory"],
        timeout_s=arguments["timeout_seconds"],
    )


def summary_of(manifest: Manifest, place: str) -> dict[str, Any]:
    """What an operator wants to know of a backup; the manifest has the rest."""
    duration = datetime.fromisoformat(manifest.ended_at) - datetime.fromisoformat(manifest.started_at)
    return {
        "backup_id": manifest.backup_id, "place": place, "taken_at": manifest.snapshot.taken_at,
        "newest_row_at": manifest.newest_row_at, "duration_s": round(duration.total_seconds(), 3),
        "total_bytes": manifest.total_bytes, "tables": len(manifest.tables),
        "rows": sum(table.rows or 0 for table in manifest.tables),
        "not_counted": [
            f"{table.schema}.{table.name} ({table.kind})" for table in manifest.tables if table.rows is None
        ],
    }


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **login_spec(),
            "database": {"type": "str", "required": True},
            **store_spec(),
            "jobs": {"type": "int", "default": 2},
            "compression_level": {"type": "int", "default": 1},
            "fingerprints": {"type": "bool", "default": False},
            "role_credentials": {"type": "bool", "default": False},
            "newest_row_query": {"type": "str"},
            "postgresql_bin_directory": {"type": "path"},
            "timeout_seconds": {"type": "int", "default": 14400},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        request = request_of(module.params)
        observed = observe(request)
        plan = plan_of(request, observed)
        result = {
            "changed": True, "plan": plan.as_list(), "diff": plan.diff(),
            "estimated_bytes": observed.estimated_bytes, "free_bytes": observed.room.free_bytes,
            "message": f"Checked only: {plan.steps[-1].after}.", "notes": list(observed.notes),
        }
        if not module.check_mode:
            with request.place.locked():
                maker = BackupMaker(request, observed, Progress(module.params["progress_file"]))
                manifest = maker.make()
            result["notes"] = maker.notes
            result["backup"] = made = summary_of(manifest, request.place.at(manifest.backup_id))
            result["message"] = (
                f"{made['backup_id']}: {counted(made['rows'], 'row')} in {counted(made['tables'], 'table')},"
                f" {size_words(made['total_bytes'])}, in {made['duration_s']} s."
            )
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
