# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The argument spec behind the store documentation fragment, and the store that the arguments name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import Keyring
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


def store_spec() -> dict[str, Any]:
    """The options that name a store; secrets are no_log in their own sub-options."""
    return {
        "store_path": {"type": "path"},
        "store_s3": {
            "type": "dict",
            "options": {
                "bucket": {"type": "str", "required": True},
                "prefix": {"type": "str", "default": ""},
                "endpoint_url": {"type": "str"},
                "region": {"type": "str"},
                "access_key": {"type": "str", "no_log": False},
                "secret_key": {"type": "str", "no_log": True},
                "ca_bundle": {"type": "path"},
                "server_side_encryption": {"type": "str", "choices": ["AES256", "aws:kms"]},
                "kms_key_id": {"type": "str", "no_log": False},
                "object_lock_mode": {"type": "str", "choices": ["governance", "compliance"]},
                "object_lock_days": {"type": "int"},
            },
        },
        "store_recipients": {"type": "list", "elements": "path", "default": []},
        "store_keyring": {
            "type": "dict",
            "options": {"home": {"type": "path"}, "passphrase": {"type": "str", "no_log": True}},
            "no_log": False,
        },
        "store_work_directory": {"type": "path"},
        "store_maximum_bytes_per_second": {"type": "int"},
        "system": {"type": "str", "required": True},
        "target": {"type": "str", "required": True},
    }


STORE_OPTIONS = tuple(name for name in store_spec() if name.startswith("store_"))


def source_spec() -> dict[str, Any]:
    """The option that names a second store, which is only read."""
    options = {name: option for name, option in store_spec().items() if name in STORE_OPTIONS}
    return {"source": {"type": "dict", "required": True, "options": options}}


def source_of(arguments: dict[str, Any]) -> TargetStore:
    """The store of the same target that is only read.

    Raises:
        RunbookError: see place_of.
    """
    return place_of({**arguments["source"], "system": arguments["system"], "target": arguments["target"]})


def place_of(arguments: dict[str, Any]) -> TargetStore:
    """The store of one target that a module's arguments name.

    Raises:
        RunbookError: they name none, or two.
    """
    path, s3 = arguments["store_path"], arguments["store_s3"]
    if bool(path) == bool(s3):
        raise RunbookError(
            f"The store of {arguments['target']} has {'both' if path else 'neither'} store_path and store_s3.",
            "Give its host in the inventory one of them: a folder, or a bucket.",
        )
    keyring, work = arguments["store_keyring"] or {}, arguments["store_work_directory"]
    privacy = Privacy(
        tuple(arguments["store_recipients"]), Keyring(keyring.get("home"), keyring.get("passphrase")),
        Path(work) if work else None,
    )
    system, target = arguments["system"], arguments["target"]
    if path:
        return TargetFolder(Path(path), system, target, privacy)
    return TargetBucket(Bucket(**s3), system, target, privacy, arguments["store_maximum_bytes_per_second"])
