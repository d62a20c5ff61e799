#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lock
short_description: Hold a target for one run, and remember what was stopped on its behalf
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Keeps one JSON file per target on the host where it runs. This should not be the target, which may be down.
  - A holder whose process is gone from this machine, or from the controller, is taken over. One on another controller
    is taken over after its expiry, or with its run's id in O(take_over).
  - A lock is released only by the run that holds it. What is still quiesced then stays remembered for the next holder.
options:
  state:
    description: Whether this run holds the lock.
    type: str
    choices: [present, absent]
    default: present
  target:
    description: What is locked.
    type: str
    required: true
  directory:
    description:
      - The folder of the locks, the same for everybody who may act on the target.
      - By default C($XDG_STATE_HOME/sre.runbooks/locks), or the same below C(~/.local/state), which is one user's own.
    type: path
    default: ""
  holder:
    description: Who wants it, as RV(sre.runbooks.run_begin#module:holder) gives it.
    type: dict
    required: true
    suboptions:
      run:
        description: The run's id.
        type: str
        required: true
      user:
        description: The person.
        type: str
      host:
        description: The controller.
        type: str
      pid:
        description: The process of ansible-playbook on the controller.
        type: int
      process_started:
        description: When that process started, in clock ticks since the machine did.
        type: int
      boot_id:
        description: The controller's start.
        type: str
      namespace:
        description: The set of process ids that O(holder.pid) belongs to.
        type: str
  seconds:
    description:
      - After how many seconds a holder on another controller may be taken over, counted from its last call.
      - It must be longer than the longest step between two calls. A restore may take a day.
    type: int
    default: 90000
  take_over:
    description: The id of the run whose lock is taken over on purpose.
    type: str
    default: ""
  gone:
    description:
      - The id of the run whose process is no longer there, as the controller knows it.
      - Given by the action plugin of the same name when the earlier holder was on the same controller.
    type: str
    default: ""
  quiesced:
    description:
      - What is about to be stopped and how it is now, each with its C(target). Given before the first stop.
      - An entry for a target that is remembered already stays as it was, since it is from before the first stop.
    type: list
    elements: dict
    default: []
  released:
    description: Targets that run again and need no longer be remembered.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Says what it would do, refuses as it would, and takes no lock.
    support: full
  diff_mode:
    description: Shows the holder before and after.
    support: full
"""

EXAMPLES = r"""
- name: Hold the target
  sre.runbooks.run_lock:
    target: orders-db
    holder: "{{ run.holder }}"

- name: Remember what is running before the first stop
  sre.runbooks.run_lock:
    target: orders-db
    holder: "{{ run.holder }}"
    quiesced:
      - target: orders
        running: true

- name: Let go
  sre.runbooks.run_lock:
    state: absent
    target: orders-db
    holder: "{{ run.holder }}"
"""

RETURN = r"""
lock:
  description: The lock as it stands now. Empty when there is none.
  returned: success
  type: dict
  sample: {target: orders-db, run: 20261121T021500Z-database_restore-3fa9c1, user: ops, host: laptop}
quiesced:
  description: What is remembered as stopped, also from a run that died.
  returned: success
  type: list
  sample: [{target: orders, running: true}]
taken_over:
  description: The run that held it before and how it lost it. Empty when there was none.
  returned: success
  type: dict
  sample: {run: 20261121T011500Z-database_restore-77a0b2, reason: its process 4711 is gone}
"""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.folder import state_directory
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock import Lock, acquire, machine, remember
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock_file import LockFile

SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "target": {"type": "str", "required": True},
    "directory": {"type": "path", "default": ""},
    "holder": {
        "type": "dict",
        "required": True,
        "options": {
            "run": {"type": "str", "required": True},
            "user": {"type": "str"},
            "host": {"type": "str"},
            "pid": {"type": "int"},
            "process_started": {"type": "int"},
            "boot_id": {"type": "str"},
            "namespace": {"type": "str"},
        },
    },
    "seconds": {"type": "int", "default": 90000},
    "take_over": {"type": "str", "default": ""},
    "gone": {"type": "str", "default": ""},
    "quiesced": {"type": "list", "elements": "dict", "default": []},
    "released": {"type": "list", "elements": "str", "default": []},
}


def wanted(module: AnsibleModule, current: Lock | None) -> tuple[Lock | None, str]:
    """The lock as it should be, and how an earlier holder lost it."""
    given = module.params
    if given["state"] == "present":
        held, reason = acquire(
            current, given["target"], given["holder"], moment=datetime.now(UTC), seconds=given["seconds"],
            here=machine(), take_over=given["take_over"], gone=given["gone"],
        )
        return remember(held, given["quiesced"], given["released"]), reason
    if current is None or current.run != given["holder"]["run"]:
        return current, ""
    rest = remember(current, [], given["released"])
    return (replace(rest, holder=None, since="", until="") if rest.quiesced else None), ""


def main() -> None:
    """Take, update or release the lock."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    file = LockFile(Path(module.params["directory"] or state_directory(os.environ) / "locks"), module.params["target"])
    try:
        if module.check_mode:
            current = file.read()
            after, reason = wanted(module, current)
        else:
            with file.guard():
                current = file.read()
                after, reason = wanted(module, current)
                if after != current:
                    file.write(after)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    before_run, after_run = (current.run if current else ""), (after.run if after else "")
    module.exit_json(
        changed=before_run != after_run or (current.quiesced if current else []) != (after.quiesced if after else []),
        lock=after.as_dict() if after else {},
        quiesced=after.quiesced if after else [],
        taken_over={"run": before_run, "reason": reason} if reason else {},
        diff={"before": f"{file.path.name}: {before_run}\n", "after": f"{file.path.name}: {after_run}\n"},
    )


if __name__ == "__main__":
    main()
