#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_copy
short_description: Copy a backup of a database into another store
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Copies one backup out of O(source) into the store that the other options name, on the host where it runs.
  - Never mirrors. Nothing at the destination is overwritten, and nothing is removed but what a killed run left there.
  - Every byte is compared with the manifest while it is read, and with the manifest of the copy when it was written.
    Only then the copy gets its manifest, with a verdict for the rung V(bytes). Other verdicts are not copied.
  - What is encrypted stays so, and needs no key. What is plain is encrypted on its way where the destination has
    O(store_recipients).
  - A copy that is there already stays as it is, and is proven where it is not. Another backup under the same id, or a
    damaged copy, is an error.
attributes:
  check_mode:
    support: full
    description: Looks at both stores, returns the plan and writes nothing.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.store
  - sre.runbooks.store.source
  - sre.runbooks.progress
options:
  backup_id:
    description: The backup to copy; without it the newest that is proven to O(least_rung).
    type: str
  least_rung:
    description: How high the backup must be proven in the source.
    type: str
    choices: [bytes, archive, restore, content, application]
    default: archive
"""

EXAMPLES = r"""
- name: Bring the newest proven backup of the orders off the site
  sre.runbooks.backup_copy:
    source:
      store_path: /srv/backups
    store_s3:
      bucket: bakery-backups
      region: eu-central-1
      access_key: backup
      secret_key: "{{ lookup('ansible.builtin.file', secrets_directory ~ '/bucket-store/secret') }}"
    store_recipients: [/etc/sre.runbooks/escrow-key.asc]
    system: bakery_ia
    target: orders-db
  delegate_to: backup-server
"""

RETURN = r"""
plan:
  description:
    - The steps, each with C(step), C(target), C(before), C(after), C(reversible); none when a proven copy is there.
  returned: always
  type: list
  elements: dict
  sample: [{step: copy backup, target: "s3://bakery-backups/bakery_ia/orders-db/data/20261121T021500Z-3fa9",
            before: absent, after: "402.1 MB in 57 files from /srv/backups/bakery_ia/orders-db/20261121T021500Z-3fa9,
            plain", reversible: true}]
backup:
  description: The backup that is, or would be, copied.
  returned: always
  type: dict
  contains:
    backup_id:
      description: Its id, the same in both stores.
      type: str
      returned: always
      sample: 20261121T021500Z-3fa9
    place:
      description: Where the copy is.
      type: str
      returned: always
      sample: s3://bakery-backups/bakery_ia/orders-db/data/20261121T021500Z-3fa9
    taken_at:
      description: The moment that it shows.
      type: str
      returned: always
      sample: "2026-11-21T02:15:03.118Z"
    stored_bytes:
      description: What its files take in the source.
      type: int
      returned: always
      sample: 402118233
    readers:
      description: Fingerprints of the keys that open the copy; empty for a plain one.
      type: list
      elements: str
      returned: always
      sample: []
verdict:
  description: What the copy was proven to be; see M(sre.runbooks.pg_backup_verify).
  returned: when a copy was made or proven
  type: dict
  sample: {verdict: good, rung: bytes, proven_at: "2026-11-21T02:31:09.551Z", backup_id: 20261121T021500Z-3fa9,
           rungs: [{name: bytes, passed: true, detail: "57 files, 402.1 MB, as they were copied", duration_s: 3.1}]}
message:
  description: The result in one sentence.
  returned: always
  type: str
  sample: "20261121T021500Z-3fa9, 402.1 MB in 57 files, is at /mnt/offsite/bakery_ia/orders-db/20261121T021500Z-3fa9,
           plain, proven to the rung bytes."
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import (
    place_of,
    source_of,
    source_spec,
    store_spec,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store_copy import (
    Observed,
    Request,
    carry_out,
    message_of,
    observe,
    plan_of,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RUNGS
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def request_of(arguments: dict[str, Any]) -> Request:
    """The module's arguments as a request; the smaller cap of both stores holds."""
    name = "store_maximum_bytes_per_second"
    caps = [cap for cap in (arguments[name], arguments["source"][name]) if cap]
    return Request(
        source_of(arguments), place_of(arguments), arguments["backup_id"], arguments["least_rung"],
        min(caps, default=None),
    )


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            **store_spec(),
            **source_spec(),
            "backup_id": {"type": "str"},
            "least_rung": {"type": "str", "choices": list(RUNGS), "default": "archive"},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        request = request_of(module.params)
        observed = observe(request)
        result = _result(request, observed)
        if not module.check_mode and result["changed"]:
            with request.destination.locked():
                observed = observe(request)
                result = _result(request, observed, done=True)
                if result["changed"]:
                    verdict = carry_out(request, observed, Progress(module.params["progress_file"]))
                    result["verdict"] = verdict.as_dict()
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(**result)


def _result(request: Request, observed: Observed, done: bool = False) -> dict[str, Any]:
    plan, manifest = plan_of(request, observed), observed.manifest
    return {
        "changed": bool(plan), "plan": plan.as_list(), "diff": plan.diff(),
        "message": message_of(request, observed, done),
        "backup": {
            "backup_id": manifest.backup_id, "place": request.destination.at(manifest.backup_id),
            "taken_at": manifest.snapshot.taken_at, "stored_bytes": manifest.stored_bytes,
            "readers": list(observed.readers),
        },
    }


if __name__ == "__main__":
    main()
