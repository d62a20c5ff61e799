#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_restore_copy
short_description: Restore a backup of a PostgreSQL database under another name, on another server, or some tables of it
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Restores a backup into a new database and proves it against the manifest. A database that is there is never touched;
    a name that is taken is refused.
  - The copy has its name only when it is whole. A call that was killed leaves an unfinished one under another name,
    which the next call drops.
  - Roles that the backup names and the server lacks are created first, with the groups they are in and the members
    whose rights come through them. They get no password, no power beyond the database and, without
    O(roles_login), no right to log in; RV(to_do) says what each one still needs. A role that is there stays as it is.
    Nobody becomes a member of it, nor it of another.
  - The role in O(login) need not be a superuser. Each right that it lacks is named before anything is made. It creates
    no roles.
  - Owner, privileges, comment, connection limit and settings of the database are those of the backup. On another
    server everything lies in its default tablespace.
  - Runs where the store is.
attributes:
  check_mode:
    support: full
    description: Looks at everything, refuses as it would, returns the plan, takes no lock and changes nothing.
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
    description: Name of the database that was backed up.
    type: str
    required: true
  to_name:
    description:
      - Name of the copy, which then is an ordinary database that nothing drops.
      - Without it the copy is C(<database>__copy_<backup id>) and is kept for O(retained_seconds).
        M(sre.runbooks.pg_retired_databases) lists it and drops it when told so.
    type: str
  tables:
    description:
      - Restore the rows of these tables only, as C(schema.table) or C(table). A partitioned table stands for its
        partitions. The structure of the whole database comes with them, without foreign keys, triggers, policies,
        publications, large objects and privileges. Only the database's owner can connect, since without policies each
        row would be open to whoever may read the table.
    type: list
    elements: str
    default: []
  schema:
    description: The same with all tables of this schema.
    type: str
  live_login:
    description: Where the live database is, whose rows are counted beside those of O(tables) or O(schema).
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
        description: Not used; O(database) is.
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
  roles_login:
    description: Let roles that are created log in, where they could. They still need a password.
    type: bool
    default: false
  application_check:
    description: The owner's own query, one row, first a boolean, then (optional) a text. Not asked of some tables.
    type: str
  retained_seconds:
    description: How long a copy without a name of its own is kept.
    type: int
    default: 259200
"""

EXAMPLES = r"""
- name: Bring a database to an empty server
  sre.runbooks.pg_restore_copy:
    login:
      host: 10.0.0.9
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/new-server-admin') }}"
    database: orders
    to_name: orders
    run: "{{ run_id }}"
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
  delegate_to: backup-store

- name: Have yesterday's rows of one table beside the live ones
  sre.runbooks.pg_restore_copy:
    login: &login
      host: 10.0.0.5
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    live_login: *login
    database: orders
    tables: [public.orders]
    run: "{{ run_id }}"
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
  delegate_to: backup-store
"""

RETURN = r"""
plan:
  description: The steps, each with C(step), C(target), C(before), C(after), C(reversible).
  returned: success
  type: list
  elements: dict
  sample: [{step: restore the backup beside everything else, target: orders__copy_20261121T021500Z-3fa9, before: absent,
            after: backup 20261121T021500Z-3fa9, reversible: true}]
name:
  description: Name of the copy.
  returned: success
  type: str
  sample: orders__copy_20261121T021500Z-3fa9
place:
  description: The server it is on.
  returned: success
  type: str
  sample: 10.0.0.5:5432
until:
  description: Until when it is kept; empty for a copy with a name of its own.
  returned: success
  type: str
  sample: "2026-11-24T14:45:01Z"
backup:
  description: The backup that was chosen.
  returned: success
  type: dict
  sample: {backup_id: 20261121T021500Z-3fa9, taken_at: "2026-11-21T02:15:00.120Z", proven_rung: content,
           newest_row_at: "2026-11-21T02:14:59.880Z", size_bytes: 500000000}
tables:
  description: Exact rows of each restored table, live and in the backup; null where that is not known.
  returned: when O(tables) or O(schema) was given
  type: list
  elements: dict
  sample: [{table: public.orders, live: 4117, backup: 100000, difference: -95883}]
lines:
  description: The same as sentences.
  returned: success
  type: list
  elements: str
  sample: ["public.orders: 100,000 rows in the backup, 4,117 live (-95,883)"]
roles_created:
  description: Roles that the server lacked.
  returned: success
  type: list
  elements: str
  sample: [orders_app]
to_do:
  description: What a person still has to do for them, each a sentence with its statement.
  returned: success
  type: list
  elements: str
  sample: ["The role orders_app was created without a password: ALTER ROLE \"orders_app\" PASSWORD '…'; (in psql
            \\password asks for it)."]
notes:
  description: Sentences worth knowing that stop nothing.
  returned: success
  type: list
  elements: str
  sample: ["The backup was made on another server than this one."]
application_check:
  description: The text that the owner's query gave.
  returned: when O(application_check) was asked
  type: str
  sample: 100000 orders
needed_bytes:
  description: Estimate of the disk that the copy takes.
  returned: success
  type: int
  sample: 650000000
free_bytes:
  description: Free disk of the server; null when it cannot be read from here.
  returned: success
  type: int
  sample: 80100000000
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.copying import Copy, Request
from ansible_collections.sre.runbooks.plugins.module_utils.backup.request import restore_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def request_of(arguments: dict[str, Any]) -> Request:
    """The module's arguments as a request."""
    live = arguments["live_login"]
    return Request.of(
        arguments, live=Login.from_arguments(live) if live else None, name=arguments["to_name"] or None,
        tables=tuple(arguments["tables"]), schema=arguments["schema"] or None, roles_login=arguments["roles_login"],
    )


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **restore_spec(),
            "live_login": {**login_spec()["login"], "required": False},
            "to_name": {"type": "str"},
            "tables": {"type": "list", "elements": "str", "default": []},
            "schema": {"type": "str"},
            "roles_login": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        copy = Copy(request_of(module.params), Progress(module.params["progress_file"]), check=module.check_mode)
        result = copy.make()
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(
        changed=True, plan=copy.plan.as_list("" if module.check_mode else now()), diff=copy.plan.diff(), **result
    )


if __name__ == "__main__":
    main()
