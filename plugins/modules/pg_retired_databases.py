#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_retired_databases
short_description: List the databases that restores put aside, and drop those whose hour has passed
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Every restore leaves the old database under a name of its own until an hour that its marker names, and every undo
    the restored one; M(sre.runbooks.pg_restore_copy) leaves copies to look into. This lists them with their disk cost,
    and drops the expired ones when told so.
  - A database without such a marker, or before its hour, is never dropped.
attributes:
  check_mode:
    support: full
    description: Lists, and says what it would drop.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.postgresql
options:
  database:
    description: Only those of this live database; without it all of the server.
    type: str
  drop_expired:
    description: Drop those whose hour has passed.
    type: bool
    default: false
  progress_file:
    description: File for progress lines. Given by the action plugin.
    type: path
"""

EXAMPLES = r"""
- name: See what old databases cost
  sre.runbooks.pg_retired_databases:
    login:
      host: 10.0.0.5
      user: postgres
      password: "{{ lookup('ansible.builtin.file', '/etc/sre/secrets/orders-admin') }}"
    database: orders
  register: kept
"""

RETURN = r"""
databases:
  description: What was kept when the module began.
  returned: success
  type: list
  elements: dict
  sample: [{name: orders__retired_20261121T144501_120Z, database: orders, state: retired,
            backup: 20261121T021500Z-3fa9, run: 20261121T144000Z-database_restore-3fa9c1,
            until: "2026-11-24T14:45:01Z", expired: false, size_bytes: 500000000}]
plan:
  description: The steps, each with C(step), C(target), C(before), C(after), C(reversible).
  returned: success
  type: list
  elements: dict
  sample: [{step: drop the expired database, target: orders__retired_20261118T144501_120Z, before: 500000000 bytes,
            after: absent, reversible: false}]
freed_bytes:
  description: Disk that dropping gives back.
  returned: success
  type: int
  sample: 500000000
"""

from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import drop_kept, list_kept
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **login_spec(), "database": {"type": "str"}, "drop_expired": {"type": "bool", "default": False},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    login, wanted = Login.from_arguments(module.params["login"]), module.params["database"]
    plan = Plan()
    try:
        kept = [one for one in list_kept(login, datetime.now(UTC)) if wanted in (None, one["database"])]
        expired = [one for one in kept if one["expired"]] if module.params["drop_expired"] else []
        for one in expired:
            plan.add("drop the expired database", one["name"], f"{one['size_bytes']} bytes", "absent", False)
        if not module.check_mode:
            names = [one["name"] for one in expired]
            with Progress(module.params["progress_file"]).during(lambda: f"dropping {', '.join(names)}"):
                drop_kept(login, names)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(
        changed=bool(plan), databases=kept, plan=plan.as_list(), diff=plan.diff(),
        freed_bytes=sum(one["size_bytes"] for one in expired),
    )


if __name__ == "__main__":
    main()
