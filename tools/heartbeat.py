# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a command that can be silent for long (pip, apt-get), and says every few seconds that it still runs.

    python tools/heartbeat.py "Installing what the tests need" pip install -q -r requirements-test.txt

Standard library only, and old syntax: it runs before anything is installed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

SILENCE_S = 4.0


def run(title: str, argv: list[str]) -> int:
    """Run argv with our own output streams; returns its exit code, 130 after Ctrl-C."""
    started = time.monotonic()
    print(f"{title} …", flush=True)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as child:
        while True:
            try:
                code = child.wait(SILENCE_S)
                break
            except subprocess.TimeoutExpired:
                print(f"  … {time.monotonic() - started:.0f} s", flush=True)
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)
                child.wait()
                return 130
    if code == 0:
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
    else:
        print(f"{title}: the command ended with exit code {code}: {' '.join(argv)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
