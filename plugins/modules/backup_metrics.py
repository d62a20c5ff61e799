#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_metrics
short_description: Put the metrics of a catalog where Prometheus finds them
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Writes one file for each database into the folder that node_exporter reads (C(--collector.textfile.directory)).
  - Readers see the old file or the new one, never a part. Until then no name ends in C(.prom), which is what
    node_exporter looks for.
attributes:
  check_mode:
    support: full
    description: Says whether the file would change, and leaves it.
  diff_mode:
    support: full
    description: Shows the file before and after.
options:
  directory:
    description: The folder; it must be there, and readable for node_exporter.
    type: path
    required: true
  system:
    description: The inventory's own name.
    type: str
    required: true
  target:
    description: The inventory host of the database.
    type: str
    required: true
  metrics:
    description: What M(sre.runbooks.backup_catalog_info) returns as C(metrics).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Let Prometheus know the backups of the orders
  sre.runbooks.backup_metrics:
    directory: /var/lib/prometheus/node-exporter
    system: bakery_ia
    target: orders-db
    metrics: "{{ catalog.metrics }}"
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /var/lib/prometheus/node-exporter/sre_runbooks_backup_bakery_ia_orders-db.prom
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole

READABLE = 0o644


def put(path: Path, text: str, check_mode: bool) -> dict[str, object]:
    """Write the file unless it has this text already.

    Raises:
        RunbookError: the folder is not there, or cannot be written.
    """
    try:
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if before != text and not check_mode:
            write_whole(path, text, READABLE)
    except OSError as error:
        raise RunbookError(
            f"The metrics cannot be written to {path}: {error.strerror}.",
            "Look at its folder, the one that node_exporter's --collector.textfile.directory names, and at its rights.",
        ) from error
    return {"changed": before != text, "path": str(path), "diff": {"before": before, "after": text}}


def main() -> None:
    """The module."""
    texts = ("system", "target", "metrics")
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            **{name: {"type": "str", "required": True} for name in texts},
        },
        supports_check_mode=True,
    )
    system, target, metrics = (module.params[name] for name in texts)
    name = f"sre_runbooks_backup_{system}_{target}.prom".replace("/", "_")
    try:
        result = put(Path(module.params["directory"]) / name, metrics, module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
