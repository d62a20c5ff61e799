#!/usr/bin/python
# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: service_quiesce
short_description: Stop a service, remember how it was, and bring exactly that back
version_added: 0.1.0
author: the sre.runbooks contributors (@sre-runbooks)
description:
  - Stops what writes into a database, and later starts it again as it was. What did not run before is not started.
  - The caller keeps RV(record), in the lock of its run, before the first stop. Check mode with O(state=quiesced) gives
    it without stopping anything.
  - Runs on the service's host.
attributes:
  check_mode:
    support: full
    description: Returns the record and the plan, and stops or starts nothing.
  diff_mode:
    support: full
    description: Shows the plan.
extends_documentation_fragment:
  - sre.runbooks.progress
options:
  name:
    description: The service, for messages and records.
    type: str
    required: true
  control:
    description:
      - How it is driven, as C(service_control) in the inventory. C(driver) is V(process), with C(pid_file) and
        C(command), and optional C(directory), C(log_file), C(environment_file), C(stop_timeout_seconds) and C(kill).
      - What is started again has its command, directory, user, group and umask back. Of its environment only C(PATH),
        C(LANG), C(HOME), C(USER), C(LOGNAME) and C(SHELL) are set, and what stands in C(environment_file), a file on
        the service's host with C(NAME=value) on each line; variables of a running process are never written down.
      - The drivers V(kubernetes), V(compose) and V(systemd) are known words that are not served yet.
    type: dict
    required: true
  state:
    description: V(quiesced), it does not run; V(released), it runs again when it did before.
    type: str
    choices: [quiesced, released]
    required: true
  record:
    description: For O(state=released), how it was, as RV(record) of the call that quiesced it.
    type: dict
"""

EXAMPLES = r"""
- name: See how the service runs
  sre.runbooks.service_quiesce:
    name: orders
    control: "{{ service_control }}"
    state: quiesced
  check_mode: true
  register: before

- name: Stop it
  sre.runbooks.service_quiesce:
    name: orders
    control: "{{ service_control }}"
    state: quiesced

- name: Bring it back as it was
  sre.runbooks.service_quiesce:
    name: orders
    control: "{{ service_control }}"
    state: released
    record: "{{ before.record }}"
"""

RETURN = r"""
plan:
  description:
    - The steps, each with C(step), C(target), C(before), C(after), C(reversible).
    - Outside check mode also C(at), when they were carried out.
  returned: success
  type: list
  elements: dict
  sample: [{step: stop the service, target: orders, before: running as process 4711, after: stopped, reversible: true}]
record:
  description: How it was when O(state=quiesced) began, and how it is after O(state=released). Has C(target), its name.
  returned: success
  type: dict
  sample: {target: orders, driver: process, running: true, pid: 4711, process_started: 8812345,
           command: [/srv/orders/bin/orders], directory: /srv/orders, uid: 998, gid: 998,
           umask: "0022"}
notes:
  description: What an operator should know of how it was found, with O(state=quiesced).
  returned: success
  type: list
  elements: str
  sample: ["The service orders counts as stopped, since its file /run/orders.pid is not on app-1."]
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.service.control import service_of


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "control": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["quiesced", "released"], "required": True},
            "record": {"type": "dict"},
            "progress_file": {"type": "path"},
        },
        required_if=[("state", "released", ["record"])],
        supports_check_mode=True,
    )
    name, plan = module.params["name"], Plan()
    try:
        service = service_of(name, module.params["control"], Progress(module.params["progress_file"]))
        # Check mode changes nothing, and so leaves no file of a lock.
        with contextlib.nullcontext() if module.check_mode else service.alone():
            notes = service.notes() if module.params["state"] == "quiesced" else []
            record = service.observe()
            running = f"running as process {record['pid']}" if record["running"] else "stopped"
            if module.params["state"] == "quiesced":
                if record["running"]:
                    plan.add("stop the service", name, running, "stopped")
                if plan and not module.check_mode:
                    service.quiesce(record)
            elif module.params["record"].get("running") and not record["running"]:
                plan.add("start the service", name, running, "running")
                if not module.check_mode:
                    record = service.release(module.params["record"])
    except RunbookError as error:
        module.fail_json(msg=str(error), error=error.context)
    done_at = "" if module.check_mode else now()
    module.exit_json(
        changed=bool(plan), plan=plan.as_list(done_at), diff=plan.diff(), record={"target": name, **record}, notes=notes
    )


if __name__ == "__main__":
    main()
