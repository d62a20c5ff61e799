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
extends_documentation_fragment:
  - sre.runbooks.store
options:
  maximum_age_seconds:
    description: How old the newest backup may be that is proven at least to the rung V(archive).
    type: float
    default: 90000
  least_rung:
    description: How high a backup must be proven for a restore to take it, as in M(sre.runbooks.pg_restore_swap).
    type: str
    choices: [none, bytes, archive, restore, content, application]
    default: restore
  maximum_drilled_age_seconds:
    description: How old the newest backup may be that is proven at least to O(least_rung).
    type: float
    default: 2764800
  recovery_point_objective_seconds:
    description:
      - How much may be lost at most (RPO). The newest backup that is proven at least to the rung V(archive) is held
        against it; without it there is no such check.
    type: float
  days:
    description: Of how many days RV(calendar) tells, from 1 to 366; today is the last one.
    type: int
    default: 35
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
  description:
    - All backups, oldest first. C(rung) is how high one is proven and C(proven_at) when it was, null where it is not;
      C(verdict) is the last one, which may be another.
  returned: always
  type: list
  elements: dict
  sample:
    - backup_id: 20261121T021500Z-3fa9
      place: /srv/backups/bakery_ia/orders-db/20261121T021500Z-3fa9
      problem: ""
      taken_at: "2026-11-21T02:15:00.120Z"
      newest_row_at: "2026-11-21T02:14:59.880Z"
      age_s: 4120
      total_bytes: 402118233
      verdict: good
      rung: content
      proven_at: "2026-11-21T03:00:41.120Z"
checks:
  description: The health of the catalog, checks as those of M(sre.runbooks.health_probe).
  returned: always
  type: list
  elements: dict
  sample:
    - name: drilled_backup_age_seconds
      target: orders-db
      kind: catalog
      status: ok
      value: 1036800.0
      unit: s
      warning: 2764800.0
      critical: null
      message: The newest backup of orders-db that is proven to the rung restore, 20261109T021500Z-a1b2, is 12 d old.
takes:
  description: The id of the backup that a restore takes when nobody names one; null where it would refuse.
  returned: always
  type: str
  sample: 20261109T021500Z-a1b2
growth_bytes_per_day:
  description:
    - By how many bytes a backup grows in a day, from the sizes of the last 30 days.
    - Below 0 where backups became smaller, null where they are less than two days apart.
  returned: always
  type: float
  sample: 3214000.5
listing:
  description: A line for each backup, the newest first.
  returned: always
  type: list
  elements: str
  sample: ["20261121T021500Z-3fa9  69 minutes old, 402.1 MB, proven to content on 2026-11-21"]
problems:
  description: What is wrong, each a sentence with the next step. Empty when every one of RV(checks) is ok.
  returned: always
  type: list
  elements: str
  sample: ["orders-db has no backup. Run: ansible-playbook sre.runbooks.database_backup -e target=orders-db"]
calendar:
  description:
    - The backups by days of UTC, a day without one included, as M(sre.runbooks.backup_calendar) shows them.
    - C(state) of a day is V(restored) or V(archived), as far as its best backup is proven; V(unproven), V(missing),
      V(pending) for a today that is not over, or V(before) the oldest backup, which nothing is known of.
  returned: always
  type: dict
  sample:
    moment: "2026-11-21T03:24:00.000Z"
    place: /srv/backups/bakery_ia/orders-db
    backups: 12
    total_bytes: 4825418796
    takes: 20261109T021500Z-a1b2
    exposed_s: 1036800.0
    newest_age_s: 4120.0
    days:
      - date: "2026-11-21"
        state: archived
        backups: 1
        text: 20261121T021500Z-3fa9 is proven to the rung archive.
metrics:
  description: The same for Prometheus, in its text format; M(sre.runbooks.backup_metrics) writes it.
  returned: always
  type: str
  sample: |
    # HELP sre_runbooks_backups How many backups there are, damaged ones as well.
    # TYPE sre_runbooks_backups gauge
    sre_runbooks_backups{system="bakery_ia",target="orders-db"} 12
heading:
  description: The heading of the table that RV(line) belongs to.
  returned: always
  type: str
  sample: "target                   newest backup                 age       size      a day  proven             \
    \    backups  a restore takes"
line:
  description: The newest backup, and the one that a restore takes, in one line.
  returned: always
  type: str
  sample: "orders-db                20261121T021500Z-3fa9  69 minutes   402.1 MB    +3.2 MB  archive 2026-11-21 \
    \         12  the newest"
"""

from datetime import UTC, datetime  # noqa: I001

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import place_of, store_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.calendar import calendar
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import (
    HEADING,
    Limits,
    assess,
    line_of,
    listing,
    takes,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.exposition import exposition
from ansible_collections.sre.runbooks.plugins.module_utils.backup.growth import growth_per_day
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RESTORABLE, RUNGS
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

MOST_DAYS = 366


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **store_spec(),
            "maximum_age_seconds": {"type": "float", "default": 90000},
            "least_rung": {"type": "str", "choices": ["none", *RUNGS], "default": RESTORABLE},
            "maximum_drilled_age_seconds": {"type": "float", "default": 2764800},
            "recovery_point_objective_seconds": {"type": "float"},
            "days": {"type": "int", "default": 35},
        },
        supports_check_mode=True,
    )
    target, moment = module.params["target"], datetime.now(UTC)
    least_rung = None if module.params["least_rung"] == "none" else module.params["least_rung"]
    limits = Limits(
        module.params["maximum_age_seconds"], module.params["maximum_drilled_age_seconds"], least_rung,
        module.params["recovery_point_objective_seconds"],
    )
    days = module.params["days"]
    try:
        if not 1 <= days <= MOST_DAYS:
            raise RunbookError(f"A calendar of {days} days cannot be drawn.", f"Give days from 1 to {MOST_DAYS}.")
        place = place_of(module.params)
        place.require()
        backups = place.backups()
        checks, taken = assess(target, backups, moment, limits), takes(backups, least_rung)
        growth = growth_per_day(backups, moment)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(
        changed=False, backups=[backup.as_dict(moment) for backup in backups],
        checks=[check.as_dict() for check in checks], takes=taken.backup_id if taken else None,
        problems=[check.message for check in checks if check.status != "ok"], heading=HEADING,
        line=line_of(target, backups, moment, least_rung, growth), growth_bytes_per_day=growth,
        listing=listing(backups, moment),
        calendar=calendar(backups, moment, days, limits.age_s, least_rung, str(place)),
        metrics=exposition(module.params["system"], target, backups, moment, limits),
    )


if __name__ == "__main__":
    main()
