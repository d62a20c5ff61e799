"""One plan drives check, diff and apply."""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan


def test_an_empty_plan_says_that_there_is_nothing_to_do():
    assert not Plan()
    assert Plan().as_list() == []


def test_steps_that_were_carried_out_say_when_and_planned_ones_do_not():
    plan = Plan()
    plan.add("stop the service", "orders", "running", "stopped")
    assert plan.as_list("2026-11-21T14:52:23.393Z")[0]["at"] == "2026-11-21T14:52:23.393Z"
    assert "at" not in plan.as_list()[0]


def test_steps_keep_their_order_and_stand_in_the_diff():
    plan = Plan()
    plan.add("rename database", "orders_db", before="orders_db", after="orders_db__retired")
    plan.add("drop database", "old", before="present", after="absent", reversible=False)
    assert [step["step"] for step in plan.as_list()] == ["rename database", "drop database"]
    assert plan.as_list()[1]["reversible"] is False
    assert plan.diff()["before"] == "orders_db: orders_db\nold: present\n"
    assert plan.diff()["after"] == "orders_db: orders_db__retired  (rename database)\nold: absent  (drop database)\n"
