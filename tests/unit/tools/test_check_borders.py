# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which imports `make lint` calls across a border, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_borders

PLUGINS = "ansible_collections.sre.runbooks.plugins"


@pytest.mark.parametrize(("domain", "source", "found"), [
    ("pitr", "from {0}.module_utils.backup import marker", ["module_utils.backup.marker"]),
    ("pitr", "from {0}.module_utils.backup.store import TargetStore", ["module_utils.backup.store.TargetStore"]),
    ("pitr", "import {0}.module_utils.backup.store", ["module_utils.backup.store"]),
    ("pitr", "if TYPE_CHECKING:\n    from {0}.module_utils.health import kinds", ["module_utils.health.kinds"]),
    ("pitr", "def late():\n    from {0}.module_utils import backup", ["module_utils.backup"]),
    ("backup", "from {0}.module_utils import postgresql", ["module_utils.postgresql"]),
    ("run", "from {0}.module_utils.backup import dump", ["module_utils.backup.dump"]),
    ("health", "from {0}.modules import health_probe", ["modules.health_probe"]),
    ("pitr", "from {0}.module_utils.pitr.position import Places", []),
    ("pitr", "from {0}.module_utils.run import process", []),
    ("pitr", "from {0}.module_utils.postgresql import marker", []),
    ("backup", "from {0}.module_utils.postgresql.connection import Login, connect", []),
    ("backup", "from {0}.module_utils.health.check import Check", []),
    ("backup", "import json\nfrom ansible.module_utils.basic import AnsibleModule", []),
])
def test_a_domain_imports_of_another_only_its_public_face(domain: str, source: str, found: list[str]) -> None:
    assert list(check_borders.across(domain, source.format(PLUGINS))) == found


def test_a_file_that_crosses_a_border_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "module_utils" / "pitr"
    folder.mkdir(parents=True)
    (folder / "survey.py").write_text(f"from {PLUGINS}.module_utils.backup import dump\n", encoding="utf-8")
    (found,) = check_borders.findings(tmp_path)
    assert found.startswith("plugins/module_utils/pitr/survey.py: imports module_utils.backup.dump, ")
