# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Streams on their way between stores: what writers rely on, and the cap of all files together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import transfer
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Stored
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from hypothesis import given
from hypothesis import strategies as st

from lab import machine


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

    def wait(seconds: float) -> bool:
        clock[0] += seconds
        return False

    monkeypatch.setattr(transfer.time, "monotonic", lambda: clock[0])
    meter = transfer.Meter("copying", 1000, 100)
    monkeypatch.setattr(meter._stopped, "wait", wait)
    for count in (100, 300, 0, 50):
        meter.seen(count)
    assert clock[0] == 4.5
    clock[0] = 20.0
    meter.seen(500)
    assert clock[0] == 25.0, "a line that was not used for a while is not used twice as much afterwards"
    assert meter.words() == "copying: 950 B of 1.0 kB, 38 B/s, about 1.3 s left"


def test_only_a_file_that_nobody_writes_is_whole(tmp_path: Path) -> None:
    """A80: what is sent while a dump goes on is what the dump wrote, to its end."""
    path = tmp_path / "2615.dat.gz"
    with path.open("wb") as stream:
        stream.write(b"half")
        stream.flush()
        assert not transfer.is_whole(path)
    assert transfer.is_whole(path)
    assert not transfer.is_whole(tmp_path / "nowhere")


def test_files_are_sent_while_a_dump_goes_on_and_each_is_in_the_manifest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LOOK_EVERY_S", 0.0)
    stored: dict[str, bytes] = {}

    def put(name: str, stream: BinaryIO, _about_bytes: int) -> Stored:
        assert name not in stored
        stored[name] = stream.read()
        return Stored(len(stored[name]), hashlib.sha256(stored[name]).hexdigest())

    data = tmp_path / "data"
    data.mkdir()
    with transfer.Sending(tmp_path, (), put, transfer.Meter("sending"), 2) as sending:
        (data / "1.dat.gz").write_bytes(b"one")
        with (data / "2.dat.gz").open("wb") as stream:
            sending.look()
            assert machine.wait_for(lambda: list(stored) == ["data/1.dat.gz"], 10)
            stream.write(b"two")
        (data / "toc.dat").write_bytes(b"contents")
        files = sending.finish(["data/1.dat.gz", "data/2.dat.gz", "data/toc.dat"], Progress())
    assert stored == {"data/1.dat.gz": b"one", "data/2.dat.gz": b"two", "data/toc.dat": b"contents"}
    assert [(file.path, file.bytes) for file in files] == [(name, len(stored[name])) for name in sorted(stored)]


def test_a_file_that_grew_after_it_was_sent_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X14: what is in the store would not be what was dumped."""
    monkeypatch.setattr(transfer, "LOOK_EVERY_S", 0.0)
    (tmp_path / "1.dat").write_bytes(b"one")

    def put(_name: str, stream: BinaryIO, _about_bytes: int) -> Stored:
        return Stored(len(stream.read()), "")

    with transfer.Sending(tmp_path, (), put, transfer.Meter("sending"), 2) as sending:
        sending.look()
        assert machine.wait_for(sending._begun["1.dat"].done, 10)
        with (tmp_path / "1.dat").open("ab") as stream:
            stream.write(b" and more")
        with pytest.raises(RunbookError, match=r"1\.dat was written to after it had been sent"):
            sending.finish(["1.dat"], Progress())
