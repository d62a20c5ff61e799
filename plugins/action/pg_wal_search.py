# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows the progress of pg_wal_search; the documentation is in plugins/modules/pg_wal_search.py."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The module's lines, as they come."""
