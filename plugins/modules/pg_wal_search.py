#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_wal_search
short_description: Find out from the archived WAL when a table was lost, and by which transaction
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Nobody knows at night when exactly a table was lost, and a recovery to a point in time wants to know it. This reads
    the archived WAL with pg_waldump and answers with the time, the transaction and the recovery target just before it.
  - Names come from the catalog's own pages in the WAL, also those of tables that no longer exist, and from the live
    database where O(login) is given.
  - It runs where the archive can be read, needs pg_waldump of the archive's own version, 15 to 18, and keeps at most
    nine segments of a pgBackRest archive on the disk at once.
  - That nothing was found is only said where everything was read and understood; else the answer is V(unknown).
attributes:
  check_mode:
    support: full
    description: It changes nothing, so that it does the same.
  diff_mode:
    support: full
    description: There is never a difference to show.
extends_documentation_fragment:
  - sre.runbooks.postgresql.client
  - sre.runbooks.progress
options:
  wal_directory:
    description: Folder with segments as PostgreSQL writes them, such as C(archive_command) fills by copying.
    type: path
  pgbackrest:
    description: An archive of pgBackRest, read by its own commands.
    type: dict
    suboptions:
      config:
        description: Its configuration file on this host. As root, pgBackRest runs as the user to whom it belongs.
        type: path
        required: true
      stanza:
        description: The cluster's stanza.
        type: str
        required: true
  login:
    description:
      - The live server. Without it all databases of the archive are searched, and a table that was not touched since
        the first checkpoint of what is read has no name.
    type: dict
    suboptions:
      host:
        description: Host name or address.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        default: 5432
      user:
        description: Role to connect as.
        type: str
        required: true
      password:
        description: The role's password. From a lookup, never a literal.
        type: str
      database:
        description: Any database of the server.
        type: str
        default: postgres
      sslmode:
        description: As libpq understands it.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: prefer
      sslrootcert:
        description: File with the trusted certificates, for C(verify-ca) and C(verify-full).
        type: path
  database:
    description: The database that is searched. Goes with O(login).
    type: str
  table:
    description: The table's name as the catalog has it. Without it every lost table is reported.
    type: str
  schema:
    description: The table's schema. Without it a table of that name in any schema.
    type: str
  since:
    description: Where to begin, ISO 8601 with a time zone. Without it at the oldest WAL.
    type: str
  until:
    description: Where to end, ISO 8601 with a time zone. Without it at the newest WAL.
    type: str
  timeline:
    description:
      - The timeline that is searched, together with those that led to it. Without it that of the live server; without
        O(login) the newest, which after an undone recovery is one that was abandoned.
    type: int
  minimum_deleted_rows:
    description:
      - A transaction that deletes fewer rows of a table is not reported; those are counted in RV(message).
      - Without it 1 where O(table) is given, else 1000.
    type: int
requirements:
  - psycopg >= 3.2, where O(login) is given
"""

EXAMPLES = r"""
- name: When was the table dropped
  sre.runbooks.pg_wal_search:
    pgbackrest:
      config: /etc/pgbackrest/pgbackrest.conf
      stanza: main
    login:
      host: 10.0.0.5
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    database: orders
    table: order_lines
    since: "2026-11-21T00:00:00+01:00"
  register: lost
"""

RETURN = r"""
answer:
  description:
    - V(found), V(not found), or V(unknown) when nothing was found and something could not be read, understood or named,
      or when the WAL that was read ends before O(until), O(since) or what the live server has done.
  returned: success
  type: str
  sample: found
message:
  description:
    - The newest event as a sentence, the largest where that was another one, how many deletions are not reported
      since they are smaller, and whatever keeps the answer from being whole.
  returned: success
  type: str
  sample: public.order_lines was dropped at 2026-11-21T14:31:07.120440Z by transaction 7291 (commit 0/195E158).
events:
  description:
    - What was lost, oldest first, at most the 1000 newest; C(lsn) is where the commit begins.
    - C(in_live_history) says whether the live server's own history holds it, along which a recovery goes; null when
      that is unknown.
  returned: success
  type: list
  elements: dict
  sample: [{kind: drop, schema: public, table: order_lines, earlier_names: [], database: null, database_oid: 16384,
            oid: 16394, rows: null, rows_complete: true, at: "2026-11-21T14:31:07.120440Z", lsn: 0/195E158, xid: 7291,
            timeline: 1, in_live_history: true,
            sentence: public.order_lines was dropped at 2026-11-21T14:31:07.120440Z by transaction 7291.,
            targets: {time: {kind: time, value: "2026-11-21 14:31:07.120440+00", exclusive: true},
                      lsn: {kind: lsn, value: 0/195E158, exclusive: true},
                      transaction: {kind: transaction, value: "7291", exclusive: true}}}]
events_left_out:
  description: How many older events there were.
  returned: success
  type: int
  sample: 0
databases:
  description: Like RV(events), databases that were dropped; where O(login) is given, those of the same name.
  returned: success
  type: list
  elements: dict
  sample: []
unnamed:
  description: Like RV(events), of tables whose names are not known.
  returned: success
  type: list
  elements: dict
  sample: []
holes:
  description: WAL that is missing or cannot be read.
  returned: success
  type: list
  elements: dict
  sample: [{timeline: 1, from_lsn: 0/4000000, to_lsn: 0/5000000, reason: The archive lacks 000000010000000000000004.}]
searched:
  description: What was read, the times of its first and last commit, and the archive's timelines that were not.
  returned: success
  type: dict
  sample: {timeline: 1, from_lsn: 0/1000000, to_lsn: 0/19CAB40, from_time: "2026-11-21T02:00:00.000000Z",
           to_time: "2026-11-21T15:02:11.000000Z", other_timelines: []}
lines_not_understood:
  description: How many lines of pg_waldump could not be understood.
  returned: success
  type: int
  sample: 0
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import parse_moment
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_answer import Question, answer
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_reader import PgBackRest, WalFolder
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_search import Wanted
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            "login": {**login_spec()["login"], "required": False},
            "database": {"type": "str"}, "table": {"type": "str"}, "schema": {"type": "str"},
            "wal_directory": {"type": "path"},
            "pgbackrest": {"type": "dict", "options": {
                "config": {"type": "path", "required": True}, "stanza": {"type": "str", "required": True},
            }},
            "since": {"type": "str"}, "until": {"type": "str"}, "timeline": {"type": "int"},
            "minimum_deleted_rows": {"type": "int"},
            "postgresql_bin_directory": {"type": "path"}, "progress_file": {"type": "path"},
        },
        required_one_of=[("wal_directory", "pgbackrest")],
        mutually_exclusive=[("wal_directory", "pgbackrest")],
        required_together=[("login", "database")],
        supports_check_mode=True,
    )
    given = module.params
    try:
        found = answer(Question(
            PgBackRest(**given["pgbackrest"]) if given["pgbackrest"] else WalFolder(given["wal_directory"]),
            Wanted(
                given["table"], given["schema"],
                *(parse_moment(given[name]) if given[name] else None for name in ("since", "until")),
                given["minimum_deleted_rows"],
            ),
            given["timeline"],
            Login.from_arguments(given["login"]).at(given["database"]) if given["login"] else None,
            given["postgresql_bin_directory"],
            Progress(given["progress_file"]),
        ))
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(changed=False, diff={"before": "", "after": ""}, **found)


if __name__ == "__main__":
    main()
