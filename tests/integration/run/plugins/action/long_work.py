"""Shows the progress of long_work."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """The module's lines, as they come."""
