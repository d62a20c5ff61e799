"""What a runbook acts on, checked before it starts (D30 ⚠: gate every mutating play)."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.plugins.loader import lookup_loader

DATABASES = ["orders-db", "payments-db", "audit-db"]
GROUPS = {
    "all": [*DATABASES, "orders", "web"], "ungrouped": [], "databases": DATABASES, "services": ["orders", "web"],
    "payments": ["payments-db"],
}


def look_up(target: Any = None, *, expect: Any = None, limit: str | None = None, **options: Any) -> list[str]:
    variables: dict[str, Any] = {"groups": GROUPS, "ansible_limit": limit}
    return lookup_loader.get("sre.runbooks.target").run(
        [], variables, **{"among": "databases", "target": target, "expect": expect, **options}
    )


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"target": "orders-db"}, "orders-db"),
        ({"target": "payments"}, "payments"),
        ({"target": "databases", "expect": 3}, "databases"),
        ({"target": "databases", "expect": "2", "limit": "orders-db:audit-db"}, "databases"),
        ({"target": "databases", "limit": "orders-db"}, "databases"),
        ({"target": "databases:!orders-db", "expect": 2}, "databases:!orders-db"),
        ({"target": "*-db:&payments"}, "*-db:&payments"),
        ({"target": "databases[0]"}, "databases[0]"),
        ({"target": "~(orders|audit)-db", "expect": "2"}, "~(orders|audit)-db"),
        ({"default": "all", "acting": False, "among": "all"}, "all"),
        ({"target": "databases", "acting": False}, "databases"),
    ],
)
def test_a_right_target_is_returned_as_it_was_given(given: dict[str, Any], pattern: str) -> None:
    assert look_up(**given) == [pattern]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ["No target was given", "orders-db, payments-db, audit-db", "-e target=<target>"]),
        ({"target": ""}, ["No target was given"]),
        ({"target": "order-db"}, ["There is no target order-db", "did you mean orders-db", "-e target=orders-db"]),
        ({"target": "databases:!order-db", "expect": 3}, ["There is no target order-db"]),
        ({"target": "zzz"}, ["There is no target zzz; there are: orders-db"]),
        ({"target": "orders"}, ["orders is not in the group databases"]),
        ({"target": "all", "expect": 5}, ["orders, web is not in the group databases"]),
        ({"target": "localhost"}, ["There is no target localhost"]),
        ({"target": "nothing*"}, ["The target nothing* is no host"]),
        ({"target": "databases"}, ["is 3 hosts: orders-db", "-e expect=<count>"]),
        ({"target": "databases", "expect": "2"}, ["3 hosts and 2 were expected", "-e expect=3"]),
        ({"target": "databases", "expect": "2", "acting": False}, ["3 hosts and 2 were expected"]),
        ({"target": "orders-db", "expect": "3"}, ["1 host and 3 were expected"]),
        ({"target": "orders-db", "limit": "audit-db"}, ["The limit audit-db leaves nothing", "-e target=orders-db"]),
        ({"default": "all", "acting": False, "among": "all", "limit": "nobody"}, ["The limit nobody leaves nothing"]),
    ],
)
def test_a_wrong_target_is_refused_with_the_right_command(given: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(AnsibleError) as refused:
        look_up(**given)
    for part in ["refused: ", "ansible-playbook", *said]:
        assert part in str(refused.value)
