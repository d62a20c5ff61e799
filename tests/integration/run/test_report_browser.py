"""The report as a person opens it, in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.calendar import STATES
from ansible_collections.sre.runbooks.plugins.module_utils.backup.calendar import page as page_of_calendar
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import append_line
from ansible_collections.sre.runbooks.plugins.plugin_utils.report import rendered, write_report
from playwright.sync_api import Browser, Page, sync_playwright

from tests.integration.run.sample import check, restore, run, tasks

FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>\"'`{{ 7 * 7 }}&amp;\u202e]]>"

# The texts whose contrast to their ground is below 4.5.
PALE = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => { const [r, g, b] = rgb.map(linear);
    return .2126 * r + .7152 * g + .0722 * b };
  const ground = element => { for (; element; element = element.parentElement) {
    const c = parse(getComputedStyle(element).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3) }
    return [255, 255, 255] };
  const texts = [...document.querySelectorAll('h1,h2,p,b,small,td,th,code,pre,summary,.pill,.square')];
  return texts.filter(e => e.innerText.trim())
    .map(e => { const a = light(parse(getComputedStyle(e).color).slice(0, 3)), b = light(ground(e));
      return [e.innerText.slice(0, 30), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)] })
    .filter(([text, contrast]) => contrast < 4.5) }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    path = shutil.which("chromium")
    assert path, "The browser is missing; run: make browser"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


def written(folder: Path, records: list[dict[str, Any]], timings: list[dict[str, Any]] | None = None) -> Path:
    """The report that is made of these records."""
    for record in records:
        append_line(folder / "run.jsonl", record)
    for task in timings or []:
        append_line(folder / "tasks.jsonl", task)
    return write_report(folder)


class Opened:
    """A page, and what went wrong while it was opened."""

    def __init__(self, browser: Browser, report: Path, width: int = 1000, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())

    def clean(self, report: Path) -> None:
        """No error, nothing loaded but the page itself, nothing wider than the screen."""
        assert self.errors == []
        assert [url for url in self.requests if not url.startswith("data:")] == [report.as_uri()]
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (1000, "dark"), (360, "light"), (360, "dark")])
def test_the_report_shows_at_first_sight_what_happened_and_what_next(
    tmp_path: Path, browser: Browser, width: int, scheme: str
) -> None:
    report = written(tmp_path, [run(), *restore()], tasks())
    opened = Opened(browser, report, width, scheme)
    opened.clean(report)
    page = opened.page
    outcome = page.locator("#outcome")
    assert outcome.inner_text().lower() == "done"
    for first_sight in (outcome, page.get_by_text("4,120 rows", exact=True), page.get_by_text("With warnings").first,
                        page.get_by_text("database_restore_undo")):
        box = first_sight.first.bounding_box()
        assert box
        assert box["y"] + box["height"] < 800
    bars = page.locator("svg.timeline rect.bar")
    assert bars.count() == 4
    assert all(bars.nth(index).bounding_box()["width"] >= 2 for index in range(4))  # type: ignore[index]
    assert page.locator("svg.timeline circle.mark").count() == 4
    assert page.get_by_text("missed").is_visible()
    # An option and its value are one part, which a narrow screen keeps whole.
    parts = page.locator("pre.command span")
    assert parts.all_inner_texts() == ["ansible-playbook", "sre.runbooks.database_restore_undo", "-e target=orders-db"]
    assert all(len(parts.nth(index).evaluate("part => [...part.getClientRects()]")) == 1 for index in range(3))
    assert page.locator("dt").all_inner_texts() == ["lost", "outage"]
    assert not page.get_by_text("Exchange the names", exact=False).nth(1).is_visible()


def test_the_ink_can_be_read_on_its_ground_in_light_and_dark(tmp_path: Path, browser: Browser) -> None:
    """WCAG 2 AA: a contrast of at least 4.5 for each text."""
    report = written(tmp_path, [run(), *restore(outcome="failed and undo failed")], tasks())
    for scheme in ("light", "dark"):
        assert Opened(browser, report, 1000, scheme).page.evaluate(PALE) == []


@pytest.fixture(scope="module")
def calendar_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calendar with a day of each state, a name and a message from outside, and a database that could not be read."""
    days = [
        {"date": f"2026-11-{15 + index}", "state": state, "backups": index, "text": f"{state} {HOSTILE}"}
        for index, state in enumerate(STATES)
    ]
    catalog = {
        "days": days, "place": HOSTILE, "moment": "2026-11-20T01:20:00.000Z", "backups": 3, "total_bytes": 402118233,
        "takes": HOSTILE, "exposed_s": 180000.0, "newest_age_s": 93600.0, "objective_seconds": 86400,
        "problems": [HOSTILE],
    }
    path = tmp_path_factory.mktemp("calendar") / "calendar.html"
    shown = page_of_calendar(HOSTILE, ["orders-db", "auth-db"], {"orders-db": catalog})
    path.write_text(rendered("calendar.html.j2", shown), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (390, "light"), (390, "dark")])
def test_the_calendar_draws_every_day_and_says_it_without_colours(
    calendar_page: Path, browser: Browser, width: int, scheme: str
) -> None:
    """B42 ⚠: a day without a backup is a red square, and no gap in the picture."""
    opened = Opened(browser, calendar_page, width, scheme)
    opened.clean(calendar_page)
    page = opened.page
    assert page.evaluate(PALE) == []
    assert page.locator("script, img").count() == 0
    squares = page.locator(".days .square")
    assert squares.count() == len(STATES)
    grounds = []
    for index, (state, (mark, meaning)) in enumerate(STATES.items()):
        square = squares.nth(index)
        box = square.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 20
        assert square.locator("i").inner_text() == mark
        assert square.locator(".of-day").text_content() == f"2026-11-{15 + index}: {meaning}"
        assert state in (square.get_attribute("title") or "")
        grounds.append(square.evaluate("e => getComputedStyle(e).backgroundColor + getComputedStyle(e).borderStyle"))
    assert len(set(grounds)) == len(STATES)
    page.get_by_text("The same as text").click()
    assert page.locator("details tbody tr").count() == len(STATES)
    assert page.get_by_text("could not be read in this run").is_visible()
    assert page.get_by_text("missed").is_visible()


def test_hostile_text_in_every_record_is_shown_as_text(tmp_path: Path, browser: Browser) -> None:
    """Table names, error messages and outputs come from outside."""
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return f"{value} {HOSTILE}" if isinstance(value, str) else value

    records = [
        {**record, "data": poison(record["data"])} if record["kind"] in ("run", "begin", "message", "plan", "step")
        else record for record in [run(), *restore()]
    ]
    records.insert(5, {"at": records[4]["at"], "host": "orders-db", "kind": "checks", "data": {
        "label": HOSTILE, "checks": [{**check(HOSTILE, HOSTILE, message=HOSTILE), "unit": HOSTILE}],
        "not_measured": [HOSTILE]}})
    records.insert(6, {"at": records[4]["at"], "host": "orders-db", "kind": "failure", "data": {"message": HOSTILE}})
    report = written(tmp_path, records, [{**task, "task": HOSTILE} for task in tasks()])
    opened = Opened(browser, report, 360)
    opened.clean(report)
    assert "broken" not in opened.page.title().split(":")[0]
    assert opened.page.locator("script, img").count() == 0
    assert "{{ 7 * 7 }}" in opened.page.content()


def test_a_run_on_many_targets_opens_those_that_need_somebody(tmp_path: Path, browser: Browser) -> None:
    records = [run("database_backup")]
    for number in range(14):
        records += restore(f"database-{number:02}", "failed and undone" if number == 7 else "done")
    report = written(tmp_path, records)
    opened = Opened(browser, report, 360)
    opened.clean(report)
    assert opened.page.locator("#outcome").inner_text().lower() == "failed and undone"
    assert opened.page.locator("details.target[open] > summary").all_inner_texts() == ["database-07 failed and undone"]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [run()],
        [run(), {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "verdict", "data": {}}],
        [run(), {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "step", "data": {}},
         {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "measure", "data": {}},
         {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "checks", "data": {"checks": None}},
         {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "message", "data": {"facts": ["x"]}},
         {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "plan", "data": {"steps": ["x"]}},
         {"at": "2026-11-21T03:02:10Z", "host": "a", "kind": "phase", "data": {"name": "apply", "state": "begin"}}],
    ],
    ids=["nothing", "begun", "an empty verdict", "empty records"],
)
def test_a_report_exists_whatever_was_recorded(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    (tmp_path / "run.jsonl").touch()
    report = written(tmp_path, records)
    assert report.stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "report.json").read_text())["outcome"] == "unknown"
