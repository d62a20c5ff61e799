#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_approval
short_description: Show what will happen and what it costs, and ask whether it may
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Shows the question and the facts and asks for the target's name. Without a terminal the answer is the variable
    C(approve); it is the host's name, or what was given as C(target) when that is a group.
  - Without an answer, with another one, and after the time-out it is no. The run is then refused.
  - Check mode shows the same and asks nothing.
options:
  question:
    description: What will happen, in one sentence.
    type: str
    required: true
  facts:
    description: What it is about and what it costs, as a name and a value for each line. Never a secret.
    type: dict
    default: {}
  timeout_seconds:
    description: After how many seconds no answer is no.
    type: int
    default: 300
attributes:
  check_mode:
    description: Shows the question and asks nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: full
"""

EXAMPLES = r"""
- name: Ask before the data is exchanged
  sre.runbooks.run_approval:
    question: Restore orders from the backup of 02:00?
    facts:
      lost: about 4120 rows written since 02:00
      outage: about 3 minutes
"""

RETURN = r"""
approved:
  description: Whether it was approved; false only in check mode.
  returned: success
  type: bool
  sample: true
by:
  description: How the answer came.
  returned: success
  type: str
  sample: terminal
"""
