#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_end
short_description: End a run with its outcome and its report
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Decides the outcome of this host's run from its records, writes C(report.json) and C(report.html) into the run's
    folder and prints the outcome, the command that goes on or goes back, and the report's place.
  - Fails unless the outcome is V(done) or V(nothing to do), so that no rescue hides a failure. A success that was not
    recorded is none.
options: {}
attributes:
  check_mode:
    description: Ends the run as well; records are no change of a target.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: full
"""

EXAMPLES = r"""
- name: End the run
  sre.runbooks.run_end:
"""

RETURN = r"""
outcome:
  description: How the run ended for this host.
  returned: always
  type: str
  sample: done
message:
  description: One sentence about it.
  returned: always
  type: str
  sample: Restored from 20261121T021500Z-3fa9; 4120 rows were lost.
resume:
  description: The command that goes on, when the outcome is no success.
  returned: always
  type: str
  sample: ansible-playbook sre.runbooks.database_restore -e target=orders-db
undo:
  description: The command that goes back, where there is one.
  returned: always
  type: str
  sample: ansible-playbook sre.runbooks.database_restore_undo -e target=orders-db
unhealthy:
  description: What was not ok when health was measured last; empty when all was, or nothing was measured.
  returned: always
  type: str
  sample: 1 critical, 2 warning after
report:
  description: The report's place on the controller.
  returned: always
  type: str
  sample: /home/ops/.local/state/sre.runbooks/runs/20261121T021500Z-database_restore-3fa9c1/report.html
"""
