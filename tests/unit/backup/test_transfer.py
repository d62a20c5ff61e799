# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Streams on their way between stores: what writers rely on, and the cap of all files together."""

from __future__ import annotations

import hashlib
import time
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


@pytest.mark.parametrize(("most_bytes", "before_the_end"), [(None, ["1"]), (1000, ["1", "2"])])
def test_files_are_sent_while_a_dump_goes_on_and_each_is_in_the_manifest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int | None, before_the_end: list[str]
) -> None:
    """A80: a file that is still written is followed to its end, unless it may become too large for its store."""
    monkeypatch.setattr(transfer, "LOOK_EVERY_S", 0.0)
    stored: dict[str, bytes] = {}
    begun: list[str] = []

    def put(name: str, stream: BinaryIO, _about_bytes: int) -> Stored:
        begun.append(name)
        stored[name] = stream.read(4) + stream.read()
        return Stored(len(stored[name]), hashlib.sha256(stored[name]).hexdigest())

    names = {"1": "data/1.dat.gz", "2": "data/2.dat.gz", "3": "data/3.dat.gz", "toc": "data/toc.dat"}
    (tmp_path / "data").mkdir()
    (tmp_path / names["1"]).write_bytes(b"one")
    with transfer.Sending(tmp_path, (), put, transfer.Meter("sending"), 2, most_bytes) as sending:
        with (tmp_path / names["2"]).open("wb", buffering=0) as stream:
            stream.write(b"tw")
            sending.look()
            assert machine.wait_for(lambda: sorted(begun) == [names[one] for one in before_the_end], 10)
            time.sleep(3 * transfer.FOLLOW_EVERY_S)
            assert list(stored) == [names["1"]]
            stream.write(b"o, and its end")
        sending.look()
        assert machine.wait_for(lambda: names["2"] in stored, 10)
        with (tmp_path / names["3"]).open("wb", buffering=0) as stream:
            stream.write(b"three")
            sending.look()
        (tmp_path / names["toc"]).write_bytes(b"contents")
        files = sending.finish(names.values(), Progress())
    assert stored == {
        names["1"]: b"one", names["2"]: b"two, and its end", names["3"]: b"three", names["toc"]: b"contents"
    }
    assert sorted(begun) == sorted(stored)
    assert [(file.path, file.bytes) for file in files] == [(name, len(stored[name])) for name in sorted(stored)]


def test_without_leases_a_file_is_followed_to_the_dumps_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A80: some network file systems have none, and a short file would pass for a whole one."""
    monkeypatch.setattr(transfer, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(transfer, "is_whole", lambda _path: False)

    def put(_name: str, stream: BinaryIO, _about_bytes: int) -> Stored:
        return Stored(len(stream.read()), "")

    path = tmp_path / "1.dat"
    with transfer.Sending(tmp_path, (), put, transfer.Meter("sending"), 2, 1000) as sending:
        path.write_bytes(b"one")
        sending.look()
        with path.open("ab") as stream:
            stream.write(b" and more")
        (file,) = sending.finish(["1.dat"], Progress())
    assert file.bytes == len(b"one and more")


def test_a_dump_that_failed_lets_go_of_what_was_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A80 ⚠: nothing waits for a file that nobody will end."""
    monkeypatch.setattr(transfer, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(transfer, "is_whole", lambda _path: False)
    (tmp_path / "1.dat").write_bytes(b"one")
    with transfer.Sending(
        tmp_path, (), lambda _name, stream, _about: stream.read(), transfer.Meter("sending"), 2, 1000
    ) as sending:
        sending.look()
    with pytest.raises(RunbookError, match="The transfer was stopped"):
        sending._begun["1.dat"].result(10)


def test_a_file_that_grew_after_it_was_sent_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X14: what is in the store would not be what was dumped."""
    monkeypatch.setattr(transfer, "LOOK_EVERY_S", 0.0)
    (tmp_path / "1.dat").write_bytes(b"one")

    def put(_name: str, stream: BinaryIO, _about_bytes: int) -> Stored:
        return Stored(len(stream.read()), "")

    with transfer.Sending(tmp_path, (), put, transfer.Meter("sending"), 2, None) as sending:
        sending.look()
        assert machine.wait_for(sending._begun["1.dat"].done, 10)
        with (tmp_path / "1.dat").open("ab") as stream:
            stream.write(b" and more")
        with pytest.raises(RunbookError, match=r"1\.dat was written to after it had been sent"):
            sending.finish(["1.dat"], Progress())
