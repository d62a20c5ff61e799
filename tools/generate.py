# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pages that are made, not written: docs/coverage.md, the README's table of runbooks. `make docs` writes them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.repository import ROOT, load, playbooks

TABLE_BEGINS = "<!-- runbooks: made by `make docs` -->"
TABLE_ENDS = "<!-- end of runbooks -->"
_ID = r"([KABWDX])(\d{1,3})([a-z]?)"
_RANGE = re.compile(rf"\b{_ID}(?:(?:\s?[–-]\s?| to )([KABWDX])?(\d{{1,3}}))?\b")
SHOWN_TESTS = 3


def identifiers(text: str, known: Iterable[str]) -> list[str]:
    """The known procedure ids in a text, in its order; `A8–A10` and `A8 to A10` stand for all between."""
    known = set(known)
    found: list[str] = []
    for prefix, first, letter, end_prefix, last in _RANGE.findall(text):
        if last and (end_prefix or prefix) == prefix and int(last) >= int(first):
            ids = [f"{prefix}{number}" for number in range(int(first), int(last) + 1)]
        else:
            ids = [f"{prefix}{first}{letter}"] + ([f"{end_prefix}{last}"] if end_prefix else [])
        found += [one for one in ids if one in known]
    return list(dict.fromkeys(found))


def cited_by_tests(root: Path, known: Iterable[str]) -> dict[str, list[str]]:
    """Procedure id → the tests whose docstring cites it; a class's docstring speaks for its tests."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for name, text in _docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            for one in identifiers(text, known):
                found.setdefault(one, []).append(f"{path.relative_to(root)}{name}")
    return found


def _docstrings(tree: ast.AST, above: str = "") -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(tree) if isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef) else None
    if text:
        yield above, text
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.name.startswith("test")):
            yield from _docstrings(node, f"{above}::{node.name}")


def replaced_by(root: Path, known: Iterable[str]) -> dict[str, list[str]]:
    """Playbook → the ids that it replaces, as the row `| Replaces | … |` of its page says."""
    found = {}
    for path in playbooks(root):
        page = root / "docs" / "runbooks" / f"{path.stem}.md"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        row = re.search(r"^\| Replaces \|(.*)", text, re.MULTILINE)
        found[path.stem] = identifiers(row[1], known) if row else []
    return found


def held_as_data(root: Path, known: Iterable[str]) -> dict[str, list[str]]:
    """Procedure id → the inventories whose files cite it."""
    found: dict[str, list[str]] = {}
    for inventory in sorted((root / "inventories").glob("*")):
        text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(inventory.rglob("*.yml")))
        for one in identifiers(text, known):
            found.setdefault(one, []).append(inventory.name)
    return found


def coverage(root: Path = ROOT) -> str:
    """docs/coverage.md."""
    data = load(root / "docs" / "procedures.yml")
    procedures: dict[str, str] = data["procedures"]
    tests = cited_by_tests(root, procedures)
    partly: dict[str, str] = data.get("partly", {})
    inventories = held_as_data(root, procedures)
    by_playbook = replaced_by(root, procedures)
    playbook_of: dict[str, list[str]] = {}
    for playbook, ids in by_playbook.items():
        for one in ids:
            playbook_of.setdefault(one, []).append(playbook)
    lines = [
        "<!-- Made by `make docs` from docs/procedures.yml, docs/runbooks and the docstrings of the tests. -->",
        "# Coverage",
        "",
        "Every procedure of the five runbooks, what carries it out, and the test that proves it. What has no test",
        "is not called covered.",
    ]
    for prefix, title in data["systems"].items():
        ids = [one for one in procedures if one.startswith(prefix)]
        covered = [one for one in ids if one in tests]
        in_part = [one for one in covered if one in partly]
        also = f", {len(in_part)} of them in part" if in_part else ""
        lines += ["", f"## {prefix}: {title}", "", f"{len(covered)} of {len(ids)} covered{also}.", ""]
        lines += ["| id | what | carried out by | proven by |", "|---|---|---|---|"]
        for one in ids:
            how = [f"[{name}](runbooks/{name}.md)" for name in playbook_of.get(one, [])]
            how += [f"data of {name}" for name in inventories.get(one, [])] if not how else []
            proofs = tests.get(one, [])
            shown = ["<br>".join(f"`{proof}`" for proof in proofs[:SHOWN_TESTS])] if proofs else []
            shown += [f"and {len(proofs) - SHOWN_TESTS} more"] if len(proofs) > SHOWN_TESTS else []
            proven = "<br>".join(shown) or ("no test yet" if how else "")
            carried = ", ".join(how) or ("" if proofs else "not covered yet")
            carried += f", in part: {partly[one]}" if one in partly else ""
            lines.append(f"| {one} | {procedures[one]} | {carried} | {proven} |")
    return "\n".join([*lines, ""])


def runbook_table(root: Path = ROOT) -> str:
    """The README's table: playbook, what it does (the play's name), the ids that it replaces."""
    known = load(root / "docs" / "procedures.yml")["procedures"]
    lines = [TABLE_BEGINS, "", "| runbook | what it does | replaces |", "|---|---|---|"]
    for playbook, ids in replaced_by(root, known).items():
        name = load(root / "playbooks" / f"{playbook}.yml")[0]["name"]
        lines.append(f"| [{playbook}](docs/runbooks/{playbook}.md) | {name} | {' '.join(ids)} |")
    return "\n".join([*lines, "", TABLE_ENDS])


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Each generated file with the text that it should have."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    table = re.compile(f"{re.escape(TABLE_BEGINS)}.*{re.escape(TABLE_ENDS)}", re.DOTALL)
    return {
        root / "docs" / "coverage.md": coverage(root),
        root / "README.md": table.sub(lambda _match: runbook_table(root), readme),
    }


def findings(root: Path = ROOT) -> list[str]:
    """The generated files that are not up to date, as sentences."""
    found = [
        f"{path.relative_to(root)} is not up to date: run `make docs`."
        for path, text in pages(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    known = load(root / "docs" / "procedures.yml")["procedures"]
    found += [
        f"docs/runbooks/{playbook}.md has no row '| Replaces | … |' with the ids of the procedures that it replaces."
        for playbook, ids in replaced_by(root, known).items()
        if not ids
    ]
    return found


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
        print(page.relative_to(ROOT))
