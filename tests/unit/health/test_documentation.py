"""What the module's documentation promises and what there is, are the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.health.arguments import CHECK, KINDS, argument_spec
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check
from ansible_collections.sre.runbooks.plugins.module_utils.health.kinds import PROBES
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import MEASURES
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import CHOICES
from ansible_collections.sre.runbooks.plugins.module_utils.health.summary import summary
from ansible_collections.sre.runbooks.plugins.modules.health_probe import DOCUMENTATION, RETURN

DOCUMENTED = yaml.safe_load(DOCUMENTATION)["options"]
CHECKS = DOCUMENTED["targets"]["suboptions"]["checks"]["suboptions"]


def words(description: str | list[str]) -> str:
    return description if isinstance(description, str) else " ".join(description)


def differences(documented: dict[str, Any], spec: dict[str, Any]) -> set[str]:
    return {name for name in set(documented) ^ set(spec) if name != "progress_file"}


def test_options_are_documented_and_the_documented_ones_exist():
    assert differences(DOCUMENTED, argument_spec()) == set()
    assert differences(CHECKS, CHECK) == set()
    assert differences(CHECKS["thresholds"]["suboptions"], CHECK["thresholds"]["options"]) == set()


def test_shapes_and_kinds_are_those_of_the_tables():
    assert tuple(CHECKS["shape"]["choices"]) == CHOICES
    assert CHECKS["kind"]["choices"] == KINDS == list(PROBES)
    for shape in CHOICES:
        assert f"V({shape})" in words(CHECKS["shape"]["description"])


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_measures_are_those_of_the_table(kind):
    for measure in MEASURES[kind]:
        assert f"V({measure})" in words(CHECKS["measures"]["description"])


def test_sample_of_the_return_value_is_what_the_module_makes_of_these_checks():
    returned = yaml.safe_load(RETURN)
    (check,) = returned["checks"]["sample"]
    assert set(check) == set(Check("a", "b", "http", "ok", "It is.").as_dict())
    assert returned["summary"]["sample"] == summary(returned["checks"]["sample"], returned["not_measured"]["sample"])
    assert returned["status"]["sample"] == check["status"]
