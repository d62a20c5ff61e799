# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The option of every module that works for long."""

from __future__ import annotations


class ModuleDocFragment:
    """Where progress is written."""

    DOCUMENTATION = r"""
options:
  progress_file:
    description: File for progress lines. Given by the action plugin.
    type: path
"""
