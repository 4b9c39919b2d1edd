"""Each benchmark runs, with few tasks. The results are not checked, because no figure is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[2]

WITHIN = 60.0  # seconds; it takes two or three


def run(program: str) -> str:
    """Run a program from the root, as the commands do."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("section", ["tasks", "requests", "memory", "growth"])
def test_each_case_of_a_section_gives_a_sample(section: str) -> None:
    program = f"""
import json
from benchmarks import {section} as section
found = section.groups("ours", quick=True)
print(json.dumps({{title: [group.base, {{name: case() for name, case in group.cases.items()}}]
    for title, group in found.items()}}))
"""
    groups = json.loads(run(program))

    assert groups
    for base, samples in groups.values():
        assert base in samples
        assert len(samples) > 1
        assert all(sample > 0 for sample in samples.values())


def test_a_wanted_figure_is_a_row_of_a_table() -> None:
    program = """
import json
from benchmarks import growth, inspector, memory, requests, tasks, traffic
from benchmarks.wanted import WANTED
rows = [[title, name] for section in (growth, inspector, memory, requests, tasks)
    for title, group in section.groups("ours", quick=True).items() for name in group.cases]
rows += [[traffic.TITLE, name] for name in traffic.SERVERS["ours"]]
rows += [[f"{traffic.AWAITING}, {traffic.TITLE}", traffic.awaits_once(name)] for name in traffic.SERVERS["ours"]]
tables = [f"{traffic.JOURNAL}, {count}" for count in ("1 connection", f"{traffic.CONNECTIONS} connections")]
rows += [[table, name] for table in tables for name in traffic.RECORDED.values()]
print(json.dumps([rows, [[each.table, row] for each in WANTED for row in (each.row, each.base) if row]]))
"""
    rows, wanted = json.loads(run(program))

    assert wanted
    for table, name in wanted:
        assert any((title == table or title.startswith(f"{table},")) and name == row for title, row in rows), table


def test_the_ratio_of_a_figure_is_the_median_of_pairs() -> None:
    program = """
from benchmarks.figures import figure_of
figure = figure_of("x", [(2.0, 1.0), (40.0, 10.0), (3.0, 1.0)])
print(figure.value, figure.ratio, figure.low, figure.high)
"""
    assert run(program).split() == ["3.0", "3.0", "2.0", "4.0"]


def test_a_goal_for_a_column_compares_it_with_that_of_the_base() -> None:
    program = """
from dataclasses import replace
from benchmarks.figures import Table, figure_of
from benchmarks.wanted import EACH_PHASE, P99, judge
rows = [replace(figure_of(name, [(1, 1)]), more={P99: p99}) for name, p99 in (("base", 2.0), (EACH_PHASE, 5.0))]
verdicts = judge([Table("one uvicorn worker, x", "requests/s", "base", rows, 1)])
print([(each.measured, each.reached) for each in verdicts if P99 in each.what])
"""
    assert run(program).strip() == "[('2.50', False)]"


def test_the_guard_counts_each_case_with_two_numbers_of_tasks() -> None:
    lines = run("from benchmarks.guard_cases import main; main(50)").splitlines()

    cases: dict[str, list[str]] = {}
    for line in lines:
        pid, count, name = line.split(" ", 2)
        assert pid.isdecimal()
        cases.setdefault(name, []).append(count)
    assert len(cases) > 1
    assert set(map(tuple, cases.values())) == {("50", "100")}


def test_the_guard_sees_what_has_become_worse_and_nothing_else() -> None:
    program = """
from benchmarks.guard import compare, difference
print(difference({100: 5_000, 200: 8_000}))
print(compare({"a": 1000, "b": 1029, "c": 1031, "d": 1, "new": 7}, dict.fromkeys("abcd", 1000)))
"""
    per_task, worse = run(program).splitlines()

    assert per_task == "30.0"
    assert worse == "['c: 1031 instructions, +3.1% of 1000']"


def test_the_baseline_of_the_guard_has_every_case() -> None:
    counted = run("import json; from benchmarks.guard_cases import cases; print(json.dumps(list(cases())))")

    for name, entry in json.loads((ROOT / "benchmarks" / "guard.json").read_text()).items():
        assert re.fullmatch(r"3\.\d+-\w+", name)
        assert sorted(entry["instructions"]) == sorted(json.loads(counted))
        assert entry["environment"].startswith("Python 3.")


@pytest.mark.parametrize("library", ["taskflow", "dbos"])
def test_another_package_that_keeps_tasks_answers_where_it_is_installed(library: str) -> None:
    program = f"""
import json
from benchmarks import keepers, load
from benchmarks.traffic import server
if keepers.is_measured({library!r}):
    with server({library!r}, keepers.NAMES[{library!r}]) as at:
        print(json.dumps(load.load(*at, 2, 0.1)))
"""
    for line in run(program).splitlines():
        assert json.loads(line)["requests"] > 0


def test_load_is_measured_whatever_makes_it() -> None:
    program = """
import json
from benchmarks import load
from benchmarks.traffic import BASE, server
for load.WRK in {load.WRK, None}:
    with server("ours", BASE) as at:
        print(json.dumps(load.load(*at, 2, 0.1)))
"""
    for line in run(program).splitlines():
        answer = json.loads(line)
        assert sorted(answer) == ["CPU, us", "p50, ms", "p95, ms", "p99, ms", "requests"]
        assert all(figure > 0 for figure in answer.values())


def test_a_page_and_its_plots_are_made_of_tables(tmp_path: Path) -> None:
    program = f"""
import xml.dom.minidom
from pathlib import Path
from xml.etree import ElementTree as ET
from dataclasses import replace
from benchmarks import report
from benchmarks.figures import Table, figure_of
from benchmarks.tasks import KEPT
from benchmarks.traffic import BASE, TITLE
from benchmarks.wanted import EACH_PHASE, judge
report.FOLDER, report.WITH_JSON = Path({str(tmp_path)!r}), True
rows = [figure_of("create_task", [(1, 1)]), figure_of(KEPT, [(1.25, 1)]), figure_of("taskphase, immediate", [(2, 1)]),
    figure_of("taskphase, after_response", [(1.5, 1)])]
tables = [Table("one task, asyncio", "us", "create_task", rows, 1)]
latency = {{"p50, ms": 1.5, "p99, ms": 2.5}}
served = [replace(figure_of(name, [(number, 900)]), more=latency)
    for name, number in ((BASE, 900), (EACH_PHASE, 600), ("no tasks", 1000))]
traffic = Table(f"{{TITLE}}, 16 connections of wrk", "requests/s", BASE, served, 1)
report.write({{"Python": "3"}}, [*tables, traffic], judge(tables))
xml.dom.minidom.parse(str(report.FOLDER / "requests-short.svg"))
xml.dom.minidom.parse(str(report.FOLDER / "one-task-asyncio.svg"))
"""
    run(program)
    page, goals = ((tmp_path / name).read_text() for name in ("results.md", "goals.md"))
    short = (tmp_path / "requests-short.svg").read_text()
    data = json.loads((tmp_path / "results.json").read_text())

    begin, _, rest = page.partition("\n## ")
    assert "A task costs 2 \N{MICRO SIGN}s on asyncio" in begin
    assert "600 requests/s if each request schedules a task in each phase, 900 with three" in begin
    assert "(requests-short.svg)" in begin
    assert "600/s, p50 1.5, p99 2.5 ms" in short
    assert "reached" in goals
    assert "reached" not in page
    assert rest.startswith("How to read the tables")
    assert "| taskphase, immediate | 2.00 | 2.00 | 2.00 to 2.00 |" in page
    assert "(one-task-asyncio.svg)" in page
    assert [verdict["reached"] for verdict in data["wanted"]] == [False, True]
    assert data["tables"][0]["figures"][2]["ratio"] == 2


def test_the_page_about_the_journal_tells_the_costs_of_the_last_run() -> None:
    tables = json.loads((ROOT / "docs/benchmarks/results.json").read_text())["tables"]
    costs = [
        {figure["name"].rpartition("sync=")[2]: figure["ratio"] for figure in table["figures"]}
        for table in tables
        if table["title"].startswith("one uvicorn worker with a journal")
    ]
    [one, many] = costs
    text = " ".join((ROOT / "docs/how-to/survive-a-crash.md").read_text().split())
    assert 'takes about 2.5 times as long with `sync="normal"`, and four times with `sync="full"`' in text
    assert one["normal"] == pytest.approx(2.5, abs=0.25)
    assert one["full"] == pytest.approx(4, abs=0.5)
    assert "answers little more than half as many requests per second" in text
    assert 0.5 < many["full"] <= many["normal"] < 0.6


def test_the_charts_in_the_docs_are_drawn_from_the_last_run() -> None:
    program = """
import json
from benchmarks import report
report.FOLDER = report.ROOT / "docs" / "benchmarks"
print(json.dumps(report.charts(report.read())))
"""
    charts = {path.name: path.read_text() for path in (ROOT / "docs" / "benchmarks").glob("*.svg")}

    assert charts == json.loads(run(program)), "run: make bench OPTIONS=--draw"


CHARTS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs" / "benchmarks").rglob("*.svg"))]


@pytest.mark.parametrize("name", CHARTS)
def test_no_name_and_no_figure_of_a_chart_is_cut_off(name: str) -> None:
    picture = ET.parse(ROOT / name).getroot()
    width = float(picture.attrib["viewBox"].split()[2])

    for text in picture.iter("{http://www.w3.org/2000/svg}text"):
        kind, x = text.get("class"), float(text.attrib["x"])
        long = len(text.text or "") * (9 if kind == "title" else 7)  # pixels, in a wide font
        assert long <= (x if kind == "label" else width - x), text.text
