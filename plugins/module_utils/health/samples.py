# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rates and ratios: two samples of a counter, at least 10 seconds apart (A19 ⚠: a counter is no rate)."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole

APART_S = 10.0
# A daily sweep still finds yesterday's sample; what is older says nothing about today.
LASTING_S = 26 * 3600.0


@dataclass(frozen=True)
class Sample:
    """The counters of one check at one moment.

    Args:
        at: seconds since 1970.
        identity: changes when the counters start anew.
        counters: for each measure, its counters.
        words: what the counters are about, for messages; never kept.
    """

    at: float
    identity: str
    counters: Mapping[str, Mapping[str, float]]
    words: Mapping[str, str] = field(default_factory=dict)

    def follows(self, earlier: Sample | None) -> bool:
        """Whether a rate can be made of an earlier sample and this one."""
        return (earlier is not None and self.identity == earlier.identity
                and APART_S <= self.at - earlier.at <= LASTING_S)

    def replaces(self, kept: Sample | None) -> bool:
        """Whether to keep this sample instead; a young one stays, or sweeps in quick succession never had two."""
        return kept is None or self.identity != kept.identity or not 0 <= self.at - kept.at < APART_S


class SampleFile:
    """Keeps the last sample of each check in one JSON file, replaced as a whole.

    Args:
        path: the file; its folder is made when it is missing. None keeps nothing.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None

    def load(self) -> dict[str, Sample]:
        """The kept samples by label; none when the file is missing or is not ours, since a sample is only a start.

        Raises:
            RunbookError: the file is there and cannot be read.
        """
        if self._path is None:
            return {}
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                str(label): Sample(float(entry["at"]), str(entry["identity"]), dict(entry["counters"]))
                for label, entry in kept.items()
            }
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}
        except OSError as error:
            raise _unusable(self._path, error) from error

    def keep(self, samples: Mapping[str, Sample]) -> None:
        """Put these samples over the kept ones, leaving those of other targets; two sweeps at once lose none.

        Raises:
            RunbookError: the file cannot be written.
        """
        if self._path is None or not samples:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._path.parent / f".{self._path.name}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                merged = {**self.load(), **samples}
                write_whole(self._path, json.dumps({
                    label: {"at": sample.at, "identity": sample.identity, "counters": sample.counters}
                    for label, sample in merged.items()
                }))
        except OSError as error:
            raise _unusable(self._path, error) from error


def _unusable(path: Path, error: OSError) -> RunbookError:
    return RunbookError(
        f"The samples file {path} cannot be used: {error.strerror or error}.",
        "Give samples_file a place that this user can write, or leave it out.", path=str(path),
    )
