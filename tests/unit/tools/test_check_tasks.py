# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `make lint` finds in tasks, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tools import check_tasks

PLAYBOOK = """
- name: A play
  hosts: all
  tasks:
    - name: A block
      block:
        - name: Deep inside
          rescue: []
          {task}
"""


def found(task: str) -> str:
    return " ".join(check_tasks.task_problems(yaml.safe_load(task)))


@pytest.mark.parametrize(
    ("task", "word"),
    [
        ("{ansible.builtin.shell: ls}", "shell"),
        ("{shell: ls}", "shell"),
        ("{ansible.builtin.raw: ls}", "raw"),
        ("{local_action: shell ls}", "shell"),
        ("{ignore_errors: true}", "ignores errors"),
        ("{ignore_errors: '{{ x }}'}", "ignores errors"),
        ("{ignore_unreachable: true}", "unreachable"),
        ("{failed_when: false}", "never fails"),
        ("{failed_when: 'false'}", "never fails"),
        ("{environment: {PGPASSWORD: '{{ x }}'}}", "PGPASSWORD"),
        ("{environment: {LOGIN: '{{ database_admin.password }}'}}", "LOGIN"),
        ("{environment: [{VAULT_TOKEN: x}]}", "VAULT_TOKEN"),
        ("{environment: '{{ whatever }}'}", "may hold a secret"),
        ("{loop: '{{ passwords }}'}", "loops over"),
    ],
)
def test_a_task_that_hides_errors_or_shows_secrets_is_found(task: str, word: str) -> None:
    """X4 X18: failures hidden, secrets in a task's environment or loop."""
    assert word in found(task)


@pytest.mark.parametrize(
    "task",
    [
        "{ansible.builtin.command: {argv: [ls]}}",
        "{failed_when: result.rc > 1}",
        "{environment: {LC_ALL: C, PATH: /usr/bin}}",
        "{loop: '{{ databases }}', sre.runbooks.pg_backup: {}}",
    ],
)
def test_an_honest_task_is_left_alone(task: str) -> None:
    assert found(task) == ""


def test_tasks_in_blocks_of_playbooks_and_roles_are_found(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "one.yml").write_text(PLAYBOOK.format(task="ignore_errors: true"), encoding="utf-8")
    tasks = tmp_path / "roles" / "two" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "apply.yml").write_text("- {name: Listing, shell: ls}\n", encoding="utf-8")
    assert check_tasks.findings(tmp_path) == [
        "playbooks/one.yml: 'Deep inside' ignores errors: say which state is expected instead.",
        "roles/two/tasks/apply.yml: 'Listing' uses shell: processes are started by argument lists.",
    ]
