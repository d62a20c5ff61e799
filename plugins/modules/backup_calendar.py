#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_calendar
short_description: Draw the days of all databases of a run, and which of them have a proven backup
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Makes C(calendar.html) in the run's folder on the controller from the records of the kind V(catalog) that each
    database has written, and records it as a page of the run, so that the report links it and its place is printed.
  - A database without such a record could not be read; it is shown so.
options:
  hosts:
    description: The databases; those that need a look come first.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Draws as well; pages of a run are no change of a target.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: full
"""

EXAMPLES = r"""
- name: Draw the calendar
  sre.runbooks.backup_calendar:
    hosts: "{{ ansible_play_hosts_all }}"
  run_once: true
"""

RETURN = r"""
path:
  description: The page's place on the controller.
  returned: always
  type: str
  sample: /home/ops/.local/state/sre.runbooks/runs/20261121T021500Z-backup_catalog-3fa9c1/calendar.html
"""
