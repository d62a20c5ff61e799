# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Streams on their way between stores: what writers rely on, and the cap of all files together."""

from __future__ import annotations

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import transfer
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=9)), st.lists(st.integers(1, 12), min_size=1))
def test_a_read_is_only_shorter_than_asked_for_at_the_end(chunks: list[bytes], counts: list[int]) -> None:
    """B41: an uploader takes a short read for the end, and would leave out what follows."""
    whole, got, stream = b"".join(chunks), b"", transfer.ChunkStream(chunks)
    for count in counts:
        data = stream.read(count)
        got += data
        assert len(data) == count or got == whole
    assert got + stream.read() == whole
    assert stream.read(1) == stream.read() == b""


def test_the_end_of_a_stream_that_was_not_what_was_written_is_never_given() -> None:
    """B41 ⚠: what is damaged would be whole at the destination."""
    stream = transfer.ChunkStream(transfer.Compared("data/1.dat", [b"abc", b"def"], 6, "0" * 64, [].append))
    assert stream.read(4) == b"abcd"
    with pytest.raises(transfer.BrokenFileError, match="another SHA-256"):
        stream.read(4)


def test_all_files_together_are_held_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files at once must not take twice as much of a line that others need."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(transfer.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(transfer.time, "sleep", sleep)
    meter = transfer.Meter("copying", 1000, 100)
    for count in (100, 300, 0, 50):
        meter.seen(count)
    assert clock[0] == 4.5
    clock[0] = 20.0
    meter.seen(500)
    assert clock[0] == 20.0
    assert meter.words() == "copying: 950 B of 1.0 kB, 48 B/s, about 1.1 s left"
