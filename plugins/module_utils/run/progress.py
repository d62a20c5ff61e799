# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Progress of long work: a module appends lines to a file, the action plugin beside it shows them at once."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# A person at a terminal takes silence beyond this for a hang.
SILENCE_S = 4.0

Report = Callable[[str], None]


class Progress:
    """Writes progress messages as JSON lines.

    Args:
        path: the file that the action plugin follows; None writes nothing.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = Path(path) if path else None
        self._last = 0.0

    def say(self, message: str) -> None:
        """Report one line at once."""
        self._last = time.monotonic()
        if self._path:
            # Work that goes well must not end because nobody can be told: a full /tmp, a folder that is gone.
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"at": time.time(), "message": message}) + "\n")

    def tick(self, describe: Callable[[], str]) -> None:
        """Report `describe()`, but only when nothing was reported for SILENCE_S seconds."""
        if time.monotonic() - self._last >= SILENCE_S:
            self.say(describe())

    @contextlib.contextmanager
    def during(self, describe: Callable[[], str]) -> Iterator[None]:
        """Report `describe()` from a thread whenever the block inside is silent: for one long statement."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(SILENCE_S / 4):
                self.tick(describe)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
