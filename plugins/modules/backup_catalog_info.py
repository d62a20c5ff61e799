#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_catalog_info
short_description: List the backups of a database, and what is proven of them
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Reads the manifests and verdicts of one target in a store. It reads no data, restores nothing and changes nothing.
  - A backup whose manifest is missing or broken is listed with its problem, and counts as no backup.
attributes:
  check_mode:
    support: full
    description: Reads as always.
  diff_mode:
    support: full
    description: Nothing is changed, so there is nothing to show.
options:
  store_path:
    description: The store's folder on this host.
    type: path
    required: true
  system:
    description: The inventory's own name.
    type: str
    required: true
  target:
    description: The inventory host of the database.
    type: str
    required: true
  rung:
    description: From which rung on a backup counts as proven in RV(problems).
    type: str
    choices: [bytes, archive, restore, content, application]
    default: archive
  maximum_age_seconds:
    description: How old the newest proven backup may be.
    type: float
    default: 90000
"""

EXAMPLES = r"""
- name: List the backups of the orders
  sre.runbooks.backup_catalog_info:
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
  delegate_to: backup-store
"""

RETURN = r"""
backups:
  description: All backups, oldest first.
  returned: always
  type: list
  elements: dict
  sample:
    - backup_id: 20261121T021500Z-3fa9
      folder: /srv/backups/bakery_ia/orders-db/20261121T021500Z-3fa9
      problem: ""
      taken_at: "2026-11-21T02:15:00.120Z"
      newest_row_at: "2026-11-21T02:14:59.880Z"
      age_s: 4120
      total_bytes: 402118233
      verdict: good
      rung: content
      proven_at: "2026-11-21T03:00:41.120Z"
problems:
  description: What is wrong, each a sentence with the next step. Empty when a proven backup is young enough.
  returned: always
  type: list
  elements: str
  sample: ["orders-db has no backup. Run: ansible-playbook sre.runbooks.database_backup -e target=orders-db"]
heading:
  description: The heading of the table that RV(line) belongs to.
  returned: always
  type: str
  sample: "target                   newest backup               age       size  proven       backups"
line:
  description: The newest backup in one line.
  returned: always
  type: str
  sample: "orders-db                20261121T021500Z-3fa9      69 min   402.1 MB  content      12"
"""

from datetime import UTC, datetime  # noqa: I001
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import HEADING, assess, line_of, list_backups
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RUNGS
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            "store_path": {"type": "path", "required": True},
            "system": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            "rung": {"type": "str", "choices": list(RUNGS), "default": "archive"},
            "maximum_age_seconds": {"type": "float", "default": 90000},
        },
        supports_check_mode=True,
    )
    target, moment = module.params["target"], datetime.now(UTC)
    try:
        place = TargetFolder(Path(module.params["store_path"]), module.params["system"], target)
        place.require_store()
        backups = list_backups(place)
        problems = assess(target, backups, moment, module.params["maximum_age_seconds"], module.params["rung"])
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(
        changed=False, backups=[backup.as_dict(moment) for backup in backups], problems=problems, heading=HEADING,
        line=line_of(target, backups, moment),
    )


if __name__ == "__main__":
    main()
