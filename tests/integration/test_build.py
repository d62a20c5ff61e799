# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The built collection works where nothing of this repository is: empty folder, empty home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import build
from tools.repository import playbooks


@pytest.fixture(scope="module")
def archive() -> Path:
    return build.build()


@pytest.fixture(scope="module")
def place(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> build.EmptyPlace:
    empty = build.EmptyPlace(tmp_path_factory.mktemp("empty"))
    done = empty.install(archive)
    assert done.returncode == 0, done.stdout
    return empty


def test_nothing_of_the_lab_the_tests_and_the_tools_is_in_the_file(archive: Path) -> None:
    assert build.strangers(archive) == []


@pytest.mark.parametrize("name", [path.stem for path in playbooks()])
def test_a_playbook_is_found_by_its_full_name(place: build.EmptyPlace, name: str) -> None:
    done = place.check_syntax(name)
    assert done.returncode == 0, done.stdout


def test_a_healthy_service_is_measured_from_anywhere(place: build.EmptyPlace) -> None:
    """X19: no file of the repository, no address and no configuration is assumed."""
    with build.small_service("healthy") as url:
        done = place.health(url)
    assert done.returncode == 0, done.stdout
    assert not list(place.work.iterdir())


def test_a_service_that_is_down_ends_with_another_exit_code(place: build.EmptyPlace) -> None:
    """X5: the answer is 200, and only its body says so."""
    with build.small_service("down") as url:
        done = place.health(url)
    assert done.returncode == 2, done.stdout
    assert "shop" in done.stdout
