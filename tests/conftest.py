"""Makes the working tree importable as ansible_collections.sre.runbooks, for every test."""

from __future__ import annotations

import sys
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

REPOSITORY = Path(__file__).resolve().parent.parent
COLLECTIONS = REPOSITORY / ".ansible" / "collections"
LINK = COLLECTIONS / "ansible_collections" / "sre" / "runbooks"

if not LINK.exists():
    LINK.parent.mkdir(parents=True, exist_ok=True)
    LINK.symlink_to("../../../..")
sys.path.insert(0, str(REPOSITORY))
_AnsibleCollectionFinder(paths=[str(COLLECTIONS)])._install()
