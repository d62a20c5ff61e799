#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_restore_swap
short_description: Bring a PostgreSQL database back from a backup, beside the live one, and exchange the two
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Restores a backup into a copy beside the live database, proves it, and exchanges the names in one transaction. The
    old database is kept under a name of its own.
  - Where the swap stands is read from markers in the databases' own comments, so a call that was killed anywhere is
    continued by the next one. Meanwhile an advisory lock on the server keeps every other call out.
  - O(state=prepared) changes nothing that anybody sees. Owner, privileges, comment, connection limit, tablespace and
    settings are those of the live database, as people left them; encoding and locale are the backup's. Without a live
    database all are the backup's.
  - Between O(state=prepared) and O(state=swapped) the caller stops what writes. O(state=swapped) is the only time in
    which nobody can connect, a fraction of a second. When it fails, the old database is live and open again.
  - Runs where the store is.
attributes:
  check_mode:
    support: full
    description: Looks at everything, refuses as it would, returns plan and losses, takes no lock and changes nothing.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.postgresql
  - sre.runbooks.postgresql.client
  - sre.runbooks.store
  - sre.runbooks.restore
  - sre.runbooks.progress
options:
  database:
    description: Name of the live database. O(login.database) must be another one.
    type: str
    required: true
  state:
    description:
      - V(prepared), a proven copy stands beside the live database.
      - V(swapped), the copy is live and applications are let in.
      - V(done), the marker is taken away from the live database.
      - V(undone), the start is reached again. Where applications were let in, only with O(losses_agreed).
      - V(exported), what was written to the database that V(undone) put aside is in files as well; before V(done).
    type: str
    choices: [prepared, swapped, done, undone, exported]
    required: true
  application_check:
    description: The owner's own query, one row, first a boolean, then (optional) a text. Asked of the copy, and again
      of the new live database before applications are let in.
    type: str
  newest_row_query:
    description: A query with one row and one column, the time stamp of the newest row.
    type: str
  retired:
    description: For O(state=undone), the kept database to bring back; without it the latest.
    type: str
  losses_agreed:
    description: For O(state=undone), somebody has agreed to lose what was written since applications were let in.
    type: bool
    default: false
  drop_copy:
    description: For O(state=undone), drop the copy at once. It waits for a checkpoint, so applications come first.
    type: bool
    default: true
  export_directory:
    description:
      - For O(state=exported), the folder in which the files get one of their own, for this user alone.
      - Without it one below C(/var/tmp) that has the user's number in its name.
    type: path
  export_seconds:
    description: How long the export may take, applications being back; V(0) leaves it out.
    type: int
    default: 600
  retained_seconds:
    description: How long the database that is put aside is kept.
    type: int
    default: 259200
  session_timeout_seconds:
    description: How long sessions that were ended may take to be gone, before the old database is opened again.
    type: int
    default: 5
  smoke_timeout_seconds:
    description: How long the same check may take while nobody is let in, after the exchange.
    type: int
    default: 10
"""

EXAMPLES = r"""
- name: Prepare the newest proven backup beside the live database
  sre.runbooks.pg_restore_swap:
    login:
      host: 10.0.0.5
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    database: orders
    run: "{{ run_id }}"
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
    state: prepared
  delegate_to: backup-store

- name: Exchange the two
  sre.runbooks.pg_restore_swap:
    login:
      host: 10.0.0.5
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    database: orders
    run: "{{ run_id }}"
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
    state: swapped
  delegate_to: backup-store
"""

RETURN = r"""
plan:
  description:
    - The steps, each with C(step), C(target), C(before), C(after), C(reversible).
    - Outside check mode also C(at), when they were carried out.
  returned: success
  type: list
  elements: dict
  sample: [{step: exchange the names, target: orders, before: live, after: retired; the restored one is live,
            reversible: true}]
position:
  description: Where the swap stands now (in check mode, where it stood).
  returned: success
  type: dict
  sample: {state: prepared, backup: 20261121T021500Z-3fa9, undoing: false, exists: true,
           copies: [orders__restoring_20261121T021500Z-3fa9], kept: []}
backup:
  description: The backup that was chosen.
  returned: when O(state=prepared)
  type: dict
  sample: {backup_id: 20261121T021500Z-3fa9, taken_at: "2026-11-21T02:15:00.120Z", proven_rung: content,
           newest_row_at: "2026-11-21T02:14:59.880Z", size_bytes: 500000000, drill_seconds: 41.2,
           newer: {count: 0, damaged: 0, newest_taken_at: null}, rows: 31240, rows_before: 31102}
losses:
  description: What a restore (or going back) takes away, as far as it can be told.
  returned: when the live database can be read
  type: dict
  sample: {newest_live_row_at: "2026-11-21T14:31:00.000Z", newest_backup_row_at: "2026-11-21T02:14:59.880Z",
           lost_seconds: 44160.12, problem: "", inserted: 4120, updated: 12, deleted: 3, rows_lost: 4120, uncounted: [],
           lost: "about 4,120 rows inserted and 12 updated since the backup; the backup's newest row is
           12 h 16 min older",
           tables: [{table: public.orders, backup: 100000, live: 104117}]}
notes:
  description: Sentences worth knowing that stop nothing.
  returned: when O(state=prepared)
  type: list
  elements: str
  sample: ["Free disk of the server is unknown from here; about 650 MB are needed."]
needed_bytes:
  description: Estimate of the disk that the copy takes.
  returned: when O(state=prepared)
  type: int
  sample: 650000000
free_bytes:
  description: Free disk of the server; null when it cannot be read from here.
  returned: when O(state=prepared)
  type: int
  sample: 80100000000
sequences:
  description: Sequences that were advanced to the live one's value.
  returned: when there is a live database
  type: list
  elements: dict
  sample: [{sequence: public.orders_id_seq, before: 100000, after: 104120}]
exchange_seconds:
  description: Seconds from forbidding connections to allowing them.
  returned: when the names were exchanged
  type: float
  sample: 0.047
sessions_ended:
  description: Sessions that were ended for it.
  returned: when the names were exchanged
  type: int
  sample: 40
retired:
  description: Name of the old database; null when there was none.
  returned: when the names were exchanged
  type: str
  sample: orders__retired_20261121T144501_120Z
left:
  description: Sentences on copies that could not be dropped; the next restore drops them.
  returned: when O(state=undone) took back what nobody had seen
  type: list
  elements: str
  sample: []
export:
  description:
    - What only the database has that was put aside, and in which files it is now. Rows that were written while it was
      live are C(new) or C(changed), as their key is not or with other content in the one that is live again.
    - C(deleted) rows were in the backup. Of the C(unclear) keys nobody can tell whether they were deleted, or written
      to the other database after the backup. Without a primary key there are none of these but C(new).
    - C(exact) is false where nobody knows since when the rows were written, so that all that differ are there.
    - C(folder) is empty where there was nothing to write; in it are C(manifest.json) and C(load.sql) for C(psql).
  returned: when O(state=exported) found a database put aside
  type: dict
  sample: {new: 12, changed: 3, deleted: 1, unclear: 0, text: "12 new rows, 3 changed, 1 deleted in 1 table",
           exact: true, seconds: 0.4, lines: ["public.orders: 12 new in 001-public.orders.new.csv, …"],
           folder: /var/tmp/sre.runbooks-exports-0/orders__retired_20261121T150000_004Z,
           tables: [{table: public.orders, columns: [id, what], key: [id], new: 12, changed: 3, deleted: 1, unclear: 0,
                     files: [{kind: new, file: 001-public.orders.new.csv, rows: 12, bytes: 310, sha256: 9f86d081…}],
                     notes: []}]}
abandoned:
  description: Name of the restored database that was put aside again.
  returned: when O(state=undone) exchanged the names
  type: str
  sample: orders__retired_20261121T150000_004Z
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.export import default_directory
from ansible_collections.sre.runbooks.plugins.module_utils.backup.request import restore_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import STATES, Request, Restore
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def request_of(arguments: dict[str, Any]) -> Request:
    """The module's arguments as a request."""
    return Request.of(
        arguments, newest_row_query=arguments["newest_row_query"], retired=arguments["retired"] or None,
        losses_agreed=arguments["losses_agreed"], drop_copy=arguments["drop_copy"],
        session_timeout_s=arguments["session_timeout_seconds"], smoke_timeout_s=arguments["smoke_timeout_seconds"],
        export_s=arguments["export_seconds"],
        export_directory=Path(arguments["export_directory"] or default_directory()),
    )


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **restore_spec(),
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "newest_row_query": {"type": "str"},
            "retired": {"type": "str"},
            "losses_agreed": {"type": "bool", "default": False},
            "drop_copy": {"type": "bool", "default": True},
            "export_directory": {"type": "path"},
            "export_seconds": {"type": "int", "default": 600},
            "session_timeout_seconds": {"type": "int", "default": 5},
            "smoke_timeout_seconds": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        restore = Restore(request_of(module.params), Progress(module.params["progress_file"]), check=module.check_mode)
        result = restore.reach(module.params["state"])
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    plan = result.plan.as_list("" if module.check_mode else now())
    module.exit_json(changed=bool(plan), diff=result.plan.diff(), **{**result.as_dict(), "plan": plan})


if __name__ == "__main__":
    main()
