# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A module on a host whose clock is wrong.

The module's own process has the wrong clock, put there before anything else is imported: Debian's libfaketime 0.9.10
breaks either the sleep or the waiting of Python 3.11.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.conftest import COLLECTIONS

AHEAD = """
import datetime, runpy, sys, time
ahead, name, right, moment = float(sys.argv[1]), sys.argv[2], time.time, datetime.datetime
class Ahead(moment):
    __slots__ = ()
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(right() + ahead, tz)
    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(right() + ahead, datetime.timezone.utc).replace(tzinfo=None)
datetime.datetime, time.time, sys.argv = Ahead, lambda: right() + ahead, sys.argv[:1]
runpy.run_module("ansible_collections.sre.runbooks.plugins.modules." + name, run_name="__main__")
"""


def call_ahead(module: str, arguments: dict[str, Any], seconds: float, *, check: bool = False) -> dict[str, Any]:
    """The result of a module whose clock is so many seconds ahead."""
    wrapped = {**arguments, "_ansible_check_mode": check, "_ansible_diff": False, "_ansible_remote_tmp": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-c", AHEAD, str(seconds), module], input=json.dumps({"ANSIBLE_MODULE_ARGS": wrapped}),
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
