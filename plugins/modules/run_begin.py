#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_begin
short_description: Begin a run
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Opens the run of this play for this host on the controller. Every host and every serial batch finds the same run.
  - Refuses outside the windows and in the freezes of the variables C(run_windows) and C(run_freezes) when O(changes) is
    true, unless C(run_window_override) gives a reason, which is recorded. Check mode only says so.
  - The run's folder is below the variable C(run_directory), by default C($XDG_STATE_HOME/sre.runbooks/runs).
options:
  runbook:
    description: The playbook's name.
    type: str
    required: true
  changes:
    description: Whether the runbook changes something.
    type: bool
    default: true
  summary:
    description: One sentence on what the runbook does, for the report.
    type: str
    default: ""
  repeats:
    description:
      - Names of variables that the commands shown to the operator repeat when they are set, beside the target.
        Never one that holds a secret.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Begins the run as well; records are no change of a target.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: full
"""

EXAMPLES = r"""
- name: Begin the run
  sre.runbooks.run_begin:
    runbook: database_restore
    summary: Restore a database from a proven backup
  register: run
"""

RETURN = r"""
run:
  description: The run's id.
  returned: success
  type: str
  sample: 20261121T021500Z-database_restore-3fa9c1
folder:
  description: The run's folder on the controller.
  returned: success
  type: str
  sample: /home/ops/.local/state/sre.runbooks/runs/20261121T021500Z-database_restore-3fa9c1
holder:
  description: Who runs it, for O(sre.runbooks.run_lock#module:holder).
  returned: success
  type: dict
  sample: {user: ops, host: laptop, pid: 4711}
"""
