#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_retention
short_description: Remove the backups of a database that no rule keeps
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Decides from the whole catalog which backups stay, and says of each one why.
  - Nothing goes while no newer backup is proven by a restore. The newest one that is proven so always stays, and so
    does one whose manifest cannot be read. That the newest one has its manifest and all its files is looked at each
    time; one that lacks any counts as unproven.
  - In a bucket with Object Lock, a backup stays until its lock has ended.
  - Refuses when the listing or the clock looks wrong. A newest backup that is in the future or too old, or a held
    backup that is gone.
  - Holds the lock under which backups are made. A removed backup is none from the first moment on, also when the
    module is killed. When one cannot be removed, RV(plan) are those that were.
attributes:
  check_mode:
    support: full
    description: Returns the same plan and removes nothing.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.store
  - sre.runbooks.progress
options:
  keep:
    description:
      - Of how many of the last periods with a backup one is kept; of those that are proven highest it is the newest. A
        damaged one stands for no period. Periods are those of UTC.
    type: dict
    required: true
    suboptions:
      hourly:
        description: Hours.
        type: int
        default: 0
      daily:
        description: Days.
        type: int
        default: 0
      weekly:
        description: Weeks, from Monday on (ISO 8601).
        type: int
        default: 0
      monthly:
        description: Months.
        type: int
        default: 0
      yearly:
        description: Years.
        type: int
        default: 0
  minimum_age_seconds:
    description: What is younger always stays.
    type: float
    default: 86400
  maximum_age_seconds:
    description: When the newest backup is older than this, nothing is removed.
    type: float
    default: 90000
  holds:
    description: Ids of backups that stay whatever happens.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Keep a week of days, a month of weeks and a year of months
  sre.runbooks.backup_retention:
    store_path: /srv/backups
    system: bakery_ia
    target: orders-db
    keep: {daily: 7, weekly: 4, monthly: 12}
  delegate_to: backup-store
"""

RETURN = r"""
plan:
  description: The steps, each with C(step), C(target), C(before), C(after), C(reversible).
  returned: always
  type: list
  elements: dict
  sample: [{step: remove backup, target: 20261021T021500Z-3fa9, before: "402.1 MB, 31 days old", after: absent,
            reversible: false}]
kept:
  description: The backups that stay, oldest first, each with the reason.
  returned: always
  type: list
  elements: dict
  sample: [{backup_id: 20261121T021500Z-3fa9, reason: the newest that is proven by a restore}]
lines:
  description: Each backup in one line, oldest first, for a terminal.
  returned: always
  type: list
  elements: str
  sample: ["20261021T021500Z-3fa9 goes: no rule keeps it", "20261121T021500Z-3fa9 stays: daily"]
freed_bytes:
  description: Size of what was, or would be, removed.
  returned: always
  type: int
  sample: 402118233
message:
  description: The result in one sentence.
  returned: always
  type: str
  sample: "12 backups stay and 3 go, 1.2 GB."
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import place_of, store_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup
from ansible_collections.sre.runbooks.plugins.module_utils.backup.retention import (
    PERIODS,
    Decision,
    Policy,
    decide,
    present_backups,
    remove,
    spare_locked,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words


def plan_of(going: list[Backup], moment: datetime) -> Plan:
    """The steps, oldest first."""
    plan = Plan()
    for one in going:
        before = f"{size_words(one.total_bytes or 0)}, {about((moment - one.taken_at).total_seconds())} old"
        plan.add("remove backup", one.backup_id, before, "absent", reversible=False)
    return plan


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **store_spec(),
            "keep": {
                "type": "dict", "required": True,
                "options": {name: {"type": "int", "default": 0} for name in PERIODS},
            },
            "minimum_age_seconds": {"type": "float", "default": 86400},
            "maximum_age_seconds": {"type": "float", "default": 90000},
            "holds": {"type": "list", "elements": "str", "default": []},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    arguments, progress = module.params, Progress(module.params["progress_file"])
    policy = Policy(
        arguments["keep"], arguments["minimum_age_seconds"], arguments["maximum_age_seconds"],
        frozenset(arguments["holds"]),
    )
    going, moment = [], datetime.now(UTC)
    try:
        place = place_of(arguments)
        place.require()
        decisions = spare_locked(place, decide(present_backups(place), policy, moment))
        if not module.check_mode and going_of(decisions):
            with place.locked():
                moment = datetime.now(UTC)
                decisions = spare_locked(place, decide(present_backups(place), policy, moment))
                going = going_of(decisions)
                remove(place, going, progress)
    except RunbookError as error:
        gone = [one for one in going if one.backup_id in error.context.get("removed", ())]
        module.fail_json(
            msg=str(error), error=error.context, changed=bool(gone), plan=plan_of(gone, moment).as_list(),
            freed_bytes=_bytes_of(gone),
        )
    module.exit_json(**_result(decisions, moment))


def going_of(decisions: list[Decision]) -> list[Backup]:
    """Those that no rule keeps, oldest first."""
    return [one.backup for one in decisions if not one.kept]


def _bytes_of(backups: list[Backup]) -> int:
    return sum(one.total_bytes or 0 for one in backups)


def _result(decisions: list[Decision], moment: datetime) -> dict[str, Any]:
    going = going_of(decisions)
    plan, freed = plan_of(going, moment), _bytes_of(going)
    return {
        "changed": bool(going), "plan": plan.as_list(), "diff": plan.diff(), "freed_bytes": freed,
        "kept": [{"backup_id": one.backup.backup_id, "reason": one.reason} for one in decisions if one.kept],
        "lines": [f"{one.backup.backup_id} {'stays' if one.kept else 'goes'}: {one.reason}" for one in decisions],
        "message": f"{len(decisions) - len(going)} backups stay and {len(going)} go, {size_words(freed)}.",
    }


if __name__ == "__main__":
    main()
