# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""docs/faults.md, made from what `make test-faults` saw; started alone, it writes what the last run saw."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.repository import ROOT

RECORDS = ROOT / "build" / "faults"
PAGE = ROOT / "docs" / "faults.md"
NAME = re.compile(r"^\| (\d+) \| (.+?) \|", re.MULTILINE)
# A sentence of the page ends here; the record has all of it.
SHOWN = 320
HEADING = """\
<!-- Made by a whole `make test-faults` from what it saw; `make lint` says when a row is missing. -->
# Faults

What can go wrong with a backup, its store, its proof, a restore and its exchange, and a recovery to a point in time,
injected for real into real servers, and what the operator sees. A row counts as passed when the fault was called by its
name, what had been begun was undone, and the application sees the old or the restored database, whole. Rows in which
nothing is wrong are in the table as well, so that one who rejects everything is found out.

`refused` is what the check before the work said, which changes nothing, and `failed and undone` what failed after that
(`failed and undo failed` where going back failed as well), as a playbook decides it by its phases; the scenarios prove
these words through playbooks. An undo is `refused` by its own no.

*What becomes of it* is what a row expects, and looks at where it is more than that nothing is left. *Measured after it*
is what was seen: no database of a swap or a drill, no half of a backup and no plain data are left, and all rows that
the application reads were read anew, and are as many and have the same MD5 as before the fault, or as when the restored
backup was made. What was written since a backup is in the database that a restore puts aside.

`make test-faults` runs all of it (as root: some rows fill a file system of their own), `make test` a part; this page is
only written from one whole run. The choices at random come from a seed, which a failing row prints:
`make test-faults FAULTS_SEED=…` makes the same ones again.

Not injected: a network that swallows every packet in silence (a proxy on the same machine is answered by its own
kernel), and a wrong region of Amazon's S3 (the store of the lab takes any). An hour ahead is the clock of the module's
own process: Debian's libfaketime breaks the sleep of Python 3.11.
"""


def table() -> tuple[Any, ...]:
    """The rows, which live with the tests."""
    import tests.conftest  # noqa: F401 - makes the collection importable
    from tests.faults.table import TABLE

    return TABLE


def _cell(text: str) -> str:
    cut = text if len(text) <= SHOWN else f"{text[:SHOWN].rsplit(' ', 1)[0]} …"
    return cut.replace("|", "\\|").replace("<", "&lt;")


def page(rows: tuple[Any, ...], records: dict[str, dict[str, Any]]) -> str:
    """The page's text.

    Args:
        rows: of the matrix.
        records: what was seen of each, by its name.
    """
    injected = sum(records[row.name]["times"] for row in rows if not row.control)
    controls = sum(row.control for row in rows)
    first = records[rows[0].name]
    lines = [
        HEADING, f"{len(rows) - controls} faults, injected {injected} times, and {controls} controls, of the commit"
        f" {first['commit']} with the seed {first['seed']}.",
    ]
    where = ""
    for number, row in enumerate(rows, 1):
        if row.where != where:
            where = row.where
            lines += ["", f"## {where.capitalize()}", "", "| | fault | called | what the operator sees |"
                      " what becomes of it | measured after it |", "|---|---|---|---|---|---|"]
        seen = records[row.name]
        times = f", {seen['times']} times" if seen["times"] > 1 else ""
        rung = f" {'to' if row.expected == 'good' else 'above the rung'} {row.rung}" if row.rung else ""
        lines.append(
            f"| {number} | {row.name} | {row.expected}{rung}{times} | {_cell(seen['message'])} |"
            f" {row.undone or 'nothing is wrong'} | nothing left; {seen['data']} |"
        )
    return "\n".join([*lines, ""])


def findings() -> list[str]:
    """Rows that the page lacks, or has and nobody runs, as sentences."""
    if not PAGE.exists():
        return ["docs/faults.md is missing: run `make test-faults`."]
    shown = {name for _number, name in NAME.findall(PAGE.read_text(encoding="utf-8"))}
    wanted = {row.name for row in table()}
    return [
        *(f"docs/faults.md lacks the fault {name!r}: run `make test-faults`." for name in sorted(wanted - shown)),
        *(f"docs/faults.md has the fault {name!r}, which no test injects." for name in sorted(shown - wanted)),
    ]


def read_records() -> dict[str, dict[str, Any]]:
    """What was seen, by the name of the row."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    return {one["name"]: one for one in found}


def write() -> int:
    """Write build/faults.json, and the page where every row passed in one whole run."""
    records, rows = read_records(), table()
    (ROOT / "build" / "faults.json").write_text(
        json.dumps([records[row.name] for row in rows if row.name in records], ensure_ascii=False, indent=1) + "\n",
        encoding="utf-8",
    )
    lacking = [row.name for row in rows if not records.get(row.name, {}).get("passed")]
    if lacking:
        print(f"docs/faults.md stays as it was: {len(lacking)} of {len(rows)} rows did not pass: {'; '.join(lacking)}.")
        return 1
    runs = {(records[row.name].get("commit"), records[row.name]["seed"]) for row in rows}
    if len(runs) > 1 or None in {commit for commit, _seed in runs}:
        print("docs/faults.md stays as it was: it is only written from one whole run, `make test-faults`.")
        return 1
    PAGE.write_text(page(rows, records), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(write())
