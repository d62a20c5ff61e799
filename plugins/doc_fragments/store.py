# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options shared by every module that reads or writes backups."""

from __future__ import annotations


class ModuleDocFragment:
    """Which backups, in which store."""

    DOCUMENTATION = r"""
options:
  store_path:
    description: The store's folder on this host. It must exist, so that a forgotten mount is noticed.
    type: path
    required: true
  system:
    description: The inventory's own name; a folder in the store.
    type: str
    required: true
  target:
    description: The inventory host of the database; a folder below O(system).
    type: str
    required: true
"""
