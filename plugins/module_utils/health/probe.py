# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What goes into a probe and what comes out of it, the same for every kind."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about


class ProbeError(RunbookError):
    """A probe that ended without an answer.

    Args:
        message: one sentence with the values.
        status: `critical` where the refusal itself is the proof that the target is down, otherwise `unknown`.
    """

    def __init__(self, message: str, status: str = "unknown") -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, eq=False)
class Request:
    """One check to carry out.

    Args:
        target: whose check it is.
        check: its options, as in health_probe, with `name` filled in.
        timeout_s: seconds that it may take.
        body_limit_bytes: the longest body that is read.
    """

    target: str
    check: Mapping[str, Any]
    timeout_s: float = 5.0
    body_limit_bytes: int = 1048576

    @property
    def kind(self) -> str:
        """http, tcp, tls, postgresql or redis."""
        return self.check["kind"]

    @property
    def label(self) -> str:
        """Target and check, for messages and for the kept samples."""
        return f"{self.target} {self.check['name']}"

    def unanswered(self, message: str, status: str = "unknown") -> Check:
        """The one check that stands for a probe without an answer."""
        return Check(self.check["name"], self.target, self.kind, status, message)


@dataclass
class Answer:
    """What one probe found.

    Args:
        checks: observations.
        counters: for each measure that is a rate, the counters of this moment.
        words: what the counters are about, for messages.
        identity: changes when the server's counters start anew (a restart, a reset, another server).
        not_measured: sentences about what does not apply.
        taken_at: seconds since 1970, when the probe began.
    """

    checks: list[Check] = field(default_factory=list)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    identity: str = ""
    not_measured: list[str] = field(default_factory=list)
    taken_at: float = 0.0


class Deadline:
    """The time that is left for one probe, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never less than a millisecond: a socket takes 0 for "do not wait at all"."""
        return max(0.001, self._end - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end


def open_socket(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A TCP connection within the deadline, whichever of the name's addresses answers first in order.

    Raises:
        ProbeError: critical when the port is closed; unknown when the name has no address or nothing answered.
    """
    try:
        return socket.create_connection((host, port), timeout=deadline.left())
    except socket.gaierror as error:
        raise ProbeError(f"The name {host} has no address ({error.strerror}).") from error
    except TimeoutError as error:
        raise ProbeError(
            f"{host}:{port} took no connection within {about(deadline.seconds)}."
        ) from error
    except ConnectionRefusedError as error:
        raise ProbeError(f"Nothing listens on {host}:{port}.", "critical") from error
    except (OSError, UnicodeError, OverflowError) as error:
        raise ProbeError(f"{host}:{port} cannot be reached: {error}.") from error
