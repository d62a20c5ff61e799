# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows what a sweep still waits for."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """Runs health_probe and prints its progress."""
