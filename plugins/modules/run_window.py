#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_window
short_description: Ask once more whether now is a time to change something
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Fails when the window closed or a freeze began since M(sre.runbooks.run_begin), which reads the same variables.
  - Stands immediately before the first thing that others notice. What was prepared before it can take longer than a
    window.
  - What C(run_window_override) let through at the begin it lets through again.
options: {}
attributes:
  check_mode:
    description: Looks at any time.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: full
"""

EXAMPLES = r"""
- name: Ask whether the window is still open
  sre.runbooks.run_window:
"""

RETURN = r"""
# Nothing of its own.
"""
