# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PostgreSQL's client programs, of the server's own major version.

A newer pg_dump writes settings that an older server rejects, and an older pg_restore cannot read a newer archive,
so the programs are looked up for one major version and their version is asked for, not assumed.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

VERSION = re.compile(r"(\d+)(?:\.\d+|devel|beta\d+|rc\d+)")
# Where distributions put the versioned programs: Debian and Ubuntu, the PGDG packages of Red Hat.
PLACES = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")


@dataclass(frozen=True)
class ClientTools:
    """A folder with pg_dump, pg_dumpall and pg_restore of one major version."""

    directory: Path
    major: int

    def path(self, program: str) -> str:
        """The full path of one program."""
        return str(self.directory / program)


def _major_of(program: Path) -> int | None:
    found = VERSION.search(process.run([str(program), "--version"], timeout_s=10).stdout)
    return int(found.group(1)) if found else None


def find_client_tools(major: int, directory: str | None = None) -> ClientTools:
    """Find the client programs for a server of version `major`.

    Args:
        major: the server's major version (17, 18 …).
        directory: the only folder to look in; None looks in the distributions' folders and then in PATH.

    Raises:
        RunbookError: no pg_dump of that version is there.
    """
    if directory:
        candidates = [Path(directory)]
    else:
        candidates = [Path(place.format(major=major)) for place in PLACES]
        in_path = shutil.which("pg_dump")
        if in_path:
            candidates.append(Path(in_path).parent)
    seen = []
    for candidate in candidates:
        program = candidate / "pg_dump"
        if not program.is_file():
            continue
        found = _major_of(program)
        if found == major:
            return ClientTools(candidate, major)
        seen.append(f"{program} is version {found}")
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise RunbookError(
        f"No pg_dump of version {major}, the server's own, was found in {looked}"
        + (f" ({'; '.join(seen)})." if seen else "."),
        f"Install the client programs of PostgreSQL {major} there, or set postgresql_bin_directory in the inventory.",
        major=major,
    )
