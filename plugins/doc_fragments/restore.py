# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of every module that restores a backup, besides the server's and the store's."""

from __future__ import annotations


class ModuleDocFragment:
    """Which backup, how high it must be proven, and how long each part may take."""

    DOCUMENTATION = r"""
options:
  run:
    description: The run's id, for the markers.
    type: str
    required: true
  backup_id:
    description: The backup to restore; without it the newest that fits.
    type: str
  before:
    description: Only backups taken at or before this time (ISO 8601 with a zone).
    type: str
  least_rung:
    description: How high a backup must be proven; V(none) takes unproven ones too.
    type: str
    choices: [none, bytes, archive, restore, content, application]
    default: restore
  jobs:
    description: Workers of C(pg_restore), and as many connections that count.
    type: int
    default: 2
  free_bytes:
    description: Free disk of the server, where it cannot be read because the server is on another machine.
    type: int
  check_timeout_seconds:
    description: How long the application's own check may take.
    type: int
    default: 60
  drop_timeout_seconds:
    description: How long dropping a database may take.
    type: int
    default: 300
  timeout_seconds:
    description: Seconds after which C(pg_restore) is ended.
    type: int
    default: 86400
  lock_wait_seconds:
    description: How long to wait for another call that still works on a database of this name.
    type: int
    default: 600
"""
