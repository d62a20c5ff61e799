# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What PostgreSQL's own regression tests leave in a database: hundreds of objects of every kind.

Their SQL comes with the source of Debian's package, which apt-get fetches without changing anything of this machine.
The tests' library of C functions is not built: what needs it fails there, and everything else is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INSIDE = "/src/test/regress/"
WANTED = ("sql/", "data/", "parallel_schedule")
# Sessions at once; the tests of a line of the schedule go side by side.
SIDE_BY_SIDE = 4
TIMEOUT_S = 300
# As pg_regress sets them, since some statements depend on it.
SETTINGS = {
    "PGTZ": "PST8PDT", "PGDATESTYLE": "Postgres, MDY", "PGOPTIONS": "-c intervalstyle=postgres_verbose",
    "PG_DLSUFFIX": ".so",
}


def fill(login: Login, bin_directory: Path) -> None:
    """Run all tests in a database, whatever comes of each.

    Raises:
        RunbookError: their SQL cannot be had.
    """
    folder = sources(bin_directory.parent.name)
    environment = {
        **os.environ, **SETTINGS, "PG_LIBDIR": str(bin_directory.parent / "lib"), "PG_ABS_SRCDIR": str(folder),
        "PG_ABS_BUILDDIR": str(folder), "PGHOST": login.host, "PGPORT": str(login.port), "PGUSER": login.user,
        "PGPASSWORD": login.password, "PGDATABASE": login.database,
    }

    def test(name: str) -> None:
        with (folder / "sql" / f"{name}.sql").open("rb") as stream:
            subprocess.run(
                [bin_directory / "psql", "--no-psqlrc", "--quiet"], stdin=stream, capture_output=True,
                env=environment, timeout=TIMEOUT_S, check=True,
            )

    lines = (folder / "parallel_schedule").read_text(encoding="utf-8").splitlines()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for line in lines:
            kind, _colon, names = line.partition(":")
            if kind == "test":
                list(pool.map(test, names.split()))


def sources(major: str) -> Path:
    """The folder with the tests of a version, fetched once.

    Raises:
        RunbookError: they cannot be had here.
    """
    folder = machine.state_root() / f"postgresql-{major}-tests"
    if not folder.exists():
        making = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        try:
            _unpack(_fetch(f"postgresql-{major}", making / "fetched"), making / "tests")
            (making / "tests").rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder


def _fetch(package: str, folder: Path) -> Path:
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "sources").mkdir()
    targets = _apt(["indextargets", "--format", "$(ORIGIN)|$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
    (folder / "sources" / "debian.list").write_text("".join(
        f"deb-src [signed-by={KEYRING}] {line.removeprefix('Debian|')}\n"
        for line in sorted(set(targets.splitlines())) if line.startswith("Debian|")
    ))
    own = ["-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={folder / 'sources'}",
           "-o", f"Dir::State::Lists={folder / 'lists'}"]
    _apt([*own, "update"])
    shown = _apt([*own, "showsrc", package], "apt-cache").splitlines()
    versions = [line.removeprefix("Version: ") for line in shown if line.startswith("Version: ")]
    # Not every mirror has the source of what was mended last.
    for version in sorted(versions, reverse=True):
        done = subprocess.run(
            ["apt-get", *own, "source", "--download-only", f"{package}={version}"], cwd=folder, capture_output=True,
            check=False, timeout=TIMEOUT_S,
        )
        if done.returncode == 0:
            return next(folder.glob("*.orig.tar.*"))
    raise RunbookError(f"The source of {package} cannot be had here: {', '.join(versions) or 'no version is known'}.")


def _apt(arguments: Sequence[str], program: str = "apt-get") -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise RunbookError(f"{program} {arguments[-1]} failed: {getattr(error, 'stderr', error)}.") from error
    return done.stdout


def _unpack(archive: Path, folder: Path) -> None:
    """The tests alone, in a place that the server can read."""
    with tarfile.open(archive) as whole:
        for member in whole:
            _before, inside, name = member.name.partition(INSIDE)
            if inside and member.isfile() and name.startswith(WANTED):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(whole.extractfile(member).read())
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
