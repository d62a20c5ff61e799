"""A module that says a line, waits for a file, and says another: it works as long as the test wants."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

WAIT_S = 120


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "gate": {"type": "path", "required": True},
            "password": {"type": "str", "no_log": True},
            "broken": {"type": "bool", "default": False},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    gate, progress = Path(module.params["gate"]), Progress(module.params["progress_file"])
    place = module.params["progress_file"] or "nowhere"
    if module.check_mode:
        module.exit_json(changed=False, said_to=place)
    try:
        progress.say(f"begun by process {os.getpid()} é")
        until = time.monotonic() + WAIT_S
        while not gate.exists():
            if time.monotonic() > until:
                module.fail_json(msg="The gate was never opened.")
            time.sleep(0.05)
        progress.say("the gate is open")
        if module.params["broken"]:
            module.fail_json(msg="The work was refused: 3 of 4. Do it again.", error={"done": 3})
        gate.with_suffix(".done").touch()
        module.exit_json(
            changed=True, said_to=place, user=os.geteuid(), got=len(module.params["password"] or ""),
            mask=f"{os.umask(0):o}",
        )
    except KeyboardInterrupt:
        gate.with_suffix(".tidied").touch()
        raise


if __name__ == "__main__":
    main()
