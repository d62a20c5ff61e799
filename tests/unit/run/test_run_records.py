"""The run's folder and its records."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.folder import (
    find,
    find_begun,
    open_run,
    run_directory,
    throwaway_place,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import (
    append_line,
    read_lines,
    read_records,
    record,
)


def _write(folder: str, host: str) -> None:
    for number in range(50):
        record(Path(folder), host, "message", {"text": f"{host} {number} " + "x" * 5000})


def test_records_of_many_processes_at_once_stay_whole(tmp_path: Path) -> None:
    workers = [multiprocessing.Process(target=_write, args=(str(tmp_path), f"host-{index}")) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    records = read_records(tmp_path)
    assert len(records) == 200
    assert [entry["data"]["text"].split()[1] for entry in records if entry["host"] == "host-2"] == [
        str(number) for number in range(50)
    ]


def test_a_line_that_a_killed_writer_left_half_done_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    append_line(path, {"kind": "step", "data": {}})
    with path.open("a") as stream:
        stream.write('{"kind": "st')
    assert [line["kind"] for line in read_lines(path)] == ["step"]
    append_line(path, {"kind": "outcome", "data": {}})
    append_line(path, {"kind": "end", "data": {}})
    assert [line["kind"] for line in read_lines(path)][-2:] == ["outcome", "end"]


def _open(directory: str, name: str) -> None:
    (Path(directory) / f"found-{name}").write_text(open_run(Path(directory) / "runs", "play-1", "a.b.restore", {}).name)


def test_all_hosts_of_a_play_find_one_private_folder(tmp_path: Path) -> None:
    workers = [multiprocessing.Process(target=_open, args=(str(tmp_path), str(index))) for index in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    names = {path.read_text() for path in tmp_path.glob("found-*")}
    assert len(names) == 1
    folder = tmp_path / "runs" / names.pop()
    assert "-restore-" in folder.name
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "run.jsonl").stat().st_mode & 0o777 == 0o600
    assert find(tmp_path / "runs", "play-1") == folder
    assert open_run(tmp_path / "runs", "play-2", "restore", {}) != folder


def test_a_play_that_has_not_begun_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="tasks_from: begin"):
        find_begun(tmp_path, "play-1")


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunbookError, match="run_directory="):
        open_run(tmp_path / "file" / "runs", "play-1", "restore", {})


@pytest.mark.parametrize(
    ("environment", "files", "thrown_away"),
    [
        ({}, [], False),
        ({}, ["run/.containerenv"], True),
        ({}, [".dockerenv"], True),
        ({"AWX_PRIVATE_DATA_DIR": "/runner"}, [], True),
        ({"XDG_STATE_HOME": "/srv/state"}, [".dockerenv"], False),
    ],
)
def test_a_container_is_no_place_that_lasts_unless_somebody_says_where(
    tmp_path: Path, environment: dict[str, str], files: list[str], thrown_away: bool
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert bool(throwaway_place(environment, tmp_path)) is thrown_away


@pytest.mark.parametrize(
    ("configured", "environment", "expected"),
    [
        ("/srv/runs", {}, "/srv/runs"),
        (None, {"XDG_STATE_HOME": "/srv/state"}, "/srv/state/sre.runbooks/runs"),
        ("", {"XDG_STATE_HOME": "relative"}, str(Path.home() / ".local/state/sre.runbooks/runs")),
    ],
)
def test_runs_are_kept_where_the_user_keeps_state(
    configured: str | None, environment: dict[str, str], expected: str
) -> None:
    assert str(run_directory(configured, environment)) == expected
