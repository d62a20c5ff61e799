# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real services on this machine that stand in for a system. `.venv/bin/python -m lab --help` is the way in."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# How somebody in the repository calls the lab, wherever a sentence names the next step.
COMMAND = ".venv/bin/python -m lab"
_COLLECTIONS = REPOSITORY / ".ansible" / "collections"
_LINK = _COLLECTIONS / "ansible_collections" / "sre" / "runbooks"

# The lab uses the collection's own logins and errors; as plain namespace packages they need no Ansible, which is slow.
if not _LINK.exists():
    _LINK.parent.mkdir(parents=True, exist_ok=True)
    _LINK.symlink_to("../../../..")
if str(_COLLECTIONS) not in sys.path:
    sys.path.append(str(_COLLECTIONS))
