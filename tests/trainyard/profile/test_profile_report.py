"""What a reader gets: report, timeline in a real browser, Perfetto trace, command line."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.profile_generator import CASES, KERNELS, MS, Segment, timeline
from benchmarks.profile_nsys import write_nsys
from benchmarks.profile_writers import write_ncu
from tests.requirements import need
from trainyard.profile.analysis import analyse
from trainyard.profile.cli import main
from trainyard.profile.compare import compare
from trainyard.profile.readers import read_trace
from trainyard.profile.readers.ncu import read_ncu
from trainyard.profile.report import build
from trainyard.profile.report.comparison import comparison_document
from trainyard.profile.report.figures import figures_of
from trainyard.profile.report.roofline import ceilings_of
from trainyard.profile.report.timeline import timeline_data, timeline_html

TRACES = Path(__file__).parents[2] / "fixtures" / "traces"
CPU = [str(TRACES / f"nsys_cpu_r{rank}.sqlite") for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A job of two ranks with counters, analysed and written."""
    place = tmp_path_factory.mktemp("profile")
    scale = 1 + 0.1 * np.random.default_rng(5).random(12)
    paths = [
        str(write_nsys(place / f"r{rank}.sqlite", timeline(CASES["everything"], scale=scale)))
        for rank in range(2)
    ]
    ncu = write_ncu(place / "k.csv", [(name, (100.0, 70, 20, 15, 12, 60, 50)) for name in KERNELS])
    assert main(["analyse", *paths, "--ncu", str(ncu), "--out", str(place / "out")]) == 0
    return place


def test_the_report_holds_the_numbers_of_the_analysis(folder):
    out = folder / "out"
    numbers = json.loads((out / "analysis.json").read_text())
    page = (out / "report.html").read_text()
    assert numbers["verdict"]["headline"] in page
    assert numbers["counters"] is True
    parts = numbers["ranks"][0]["parts_ms"]
    assert sum(parts.values()) == pytest.approx(numbers["ranks"][0]["step_ms"]["value"])
    for path in ("report.pdf", "timeline.html", "trace.json.gz", "tables/kernels.csv"):
        assert f'href="{path}"' in page
        assert (out / path).stat().st_size > 0
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    for name in ("step_timeline", "attribution", "kernel_ranking"):
        assert f'id="figure-{name}"' in page
        assert (out / "figures" / f"{name}.svg").exists()
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_same_profile_gives_the_same_page(folder):
    found = analyse(read_trace([folder / "r0.sqlite"]))
    first = build(found, folder / "again").html.read_bytes()
    assert build(found, folder / "again").html.read_bytes() == first
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_roofline_is_drawn_where_flop_and_bytes_are_counted(tmp_path):
    metrics = {
        "gpu__time_duration.sum": "us",
        "dram__bytes.sum": "Mbyte",
        "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum": "inst",
        "smsp__sass_thread_inst_executed_op_fadd_pred_on.sum": "inst",
    }
    ncu = write_ncu(
        tmp_path / "k.csv", [(name, (100.0, 10, 4e8, 2e8)) for name in KERNELS], metrics=metrics
    )
    path = write_nsys(tmp_path / "r0.sqlite", timeline(CASES["compute bound"]))
    found = analyse(read_trace([path]), counters=read_ncu(ncu))
    [figure] = [item for item in figures_of(found) if item.name == "roofline"]
    assert figure.frame["intensity"].tolist() == pytest.approx([100.0] * 4)
    kernel = found.ranks[0].kernels.kernels[0]
    assert figure.frame["flops_per_s"].iloc[0] == pytest.approx(1e9 / (kernel.mean_ns * 1e-9))
    assert "H100 80GB HBM3" in figure.caption
    build(found, tmp_path / "out")
    assert "fp32" in (tmp_path / "out" / "figures" / "roofline.svg").read_text()


@pytest.mark.parametrize(
    ("gpu", "known"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", ""),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("", ""),
    ],
)
def test_a_roofline_has_the_ceilings_of_its_very_device(gpu, known):
    assert ceilings_of(gpu) == known


def test_a_device_that_only_copied_has_a_report_without_kernels(tmp_path):
    copies = [Segment("h2d", MS), Segment("host", MS)]
    found = analyse(read_trace([write_nsys(tmp_path / "r0.sqlite", timeline(copies))]))
    page = build(found, tmp_path / "out").html.read_text()
    assert "kernels.csv" not in page
    assert found.verdict.headline in page


def test_the_export_is_a_trace_with_every_event_of_the_steps(folder):
    with gzip.open(folder / "out" / "trace.json.gz", "rt") as file:
        trace = json.load(file)["traceEvents"]
    found = analyse(read_trace([folder / "r0.sqlite", folder / "r1.sqlite"]))
    kernels = [event for event in trace if event["ph"] == "X" and event["name"] == KERNELS[0]]
    [table] = [k for k in found.ranks[0].kernels.kernels if k.name == KERNELS[0]]
    assert len(kernels) == 2 * table.calls
    assert sum(event["dur"] for event in kernels) == pytest.approx(2 * table.total_ns / 1e3)
    assert {event["pid"] for event in trace} == {0, 1}
    named = {event["args"]["name"] for event in trace if event["ph"] == "M"}
    assert {"stream 7", "stream 20", "idle because"} <= named


def test_a_long_profile_exports_its_first_steps_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard.profile.report.export.MOST_EVENTS", 500)
    found = analyse(read_trace([write_nsys(tmp_path / "r0.sqlite", timeline(CASES["everything"]))]))
    files = build(found, tmp_path / "out")
    with gzip.open(files.trace, "rt") as file:
        trace = json.load(file)["traceEvents"]
    names = {event["name"] for event in trace}
    held = sum(f"step {number}" in names for number in range(12))
    assert 1 < held < 12
    assert f"holds the first {held} of 12 steps" in files.html.read_text()


def test_a_long_profile_keeps_its_timeline_small():
    found = analyse(read_trace([Path(path) for path in CPU]))
    data = timeline_data(found, budget=100)
    assert not data["complete"]
    assert len(json.dumps(data)) < len(json.dumps(timeline_data(found)))
    whole = found.ranks[0].windows
    assert data["span"] == pytest.approx((whole.end[-1] - whole.start[0]) / 1e6, rel=0.01)


def test_a_name_cannot_become_markup(tmp_path):
    made = timeline(CASES["compute bound"], steps=3)
    made.names[0] = "</script><script>document.title='owned'</script>"
    found = analyse(read_trace([write_nsys(tmp_path / "r0.sqlite", made)]))
    page = timeline_html(found, "<b>title</b>")
    assert "<script>document.title" not in page
    assert "<b>title" not in page
    files = build(found, tmp_path / "out", title="<b>title</b>")
    assert "<script>" not in files.html.read_text()


def until(page, expression):
    """Wait without ``wait_for_function``, whose polling the page's own policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {expression}")


def test_the_timeline_works_in_a_browser(folder):
    browser = shutil.which("chromium")
    need(browser, "chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--headless"]
        )
        page = chromium.new_page(viewport={"width": 1200, "height": 700})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto((folder / "out" / "timeline.html").as_uri())
        until(page, "document.getElementById('state').textContent.includes('shown')")
        step = page.text_content("#state")
        page.click("#all")
        until(page, f"document.getElementById('state').textContent !== {step!r}")
        page.mouse.move(600, 260)
        page.mouse.wheel(0, -600)
        page.wait_for_timeout(200)
        page.click("#step")
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 400, box["y"] + 31)
        until(page, "document.getElementById('tip').style.display === 'block'")
        said = page.text_content("#tip")
        legend = page.text_content("#legend")
        chromium.close()
    assert not errors
    assert any(name[:20] in said for name in KERNELS), said
    assert "waiting for data" in legend


def test_the_command_line_prints_the_verdict(capsys):
    assert main(["analyse", *CPU]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Rank 1 is slow")
    assert "ms per step recoverable: waiting for the last rank" in said


def test_numbers_as_json(capsys):
    assert main(["analyse", *CPU, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["slow_rank"] == 1


@pytest.mark.parametrize("turned", [False, True])
def test_the_comparison_explains_a_change_by_parts_that_go_its_way(tmp_path, turned):
    """The largest part of all changes by more, in the other direction."""
    lengths = [{"compute": 6, "comm": 4, "data": 1}, {"compute": 3, "comm": 2, "data": 5}]
    made = []
    for place, parts in enumerate(lengths):
        segments = [Segment(part, length * MS, 4) for part, length in parts.items()]
        path = write_nsys(tmp_path / f"{place}.sqlite", timeline(segments))
        made.append(analyse(read_trace([path])))
    before, after = reversed(made) if turned else made
    summary = comparison_document(compare(before, after), before, after, "t").summary
    words = ("slower", "gains") if turned else ("faster", "loses")
    assert summary[0].startswith(f"A step is {words[0]} by 1.00")
    assert "Most of it: compute kernels" in summary[1]
    assert f"the step {words[1]} 3.00" in summary[1]


def test_compare_and_export_from_the_command_line(tmp_path, folder, capsys):
    one = str(folder / "r0.sqlite")
    out = tmp_path / "compared"
    assert main(["compare", "--before", one, "--after", one, "--out", str(out)]) == 0
    assert "cannot be told from no change" in capsys.readouterr().out
    assert json.loads((out / "comparison.json").read_text())["step"]["lost"]["value"] == 0
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    assert main(["export", one, "--out", str(tmp_path / "t.json.gz"), "--steps", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] > 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyse", "nowhere.sqlite"], ["nowhere.sqlite", "No such file"]),
        (["analyse", CPU[0], "--result", __file__], ["no result.json"]),
        (["analyse", CPU[0], "--spec", __file__], ["no spec.json"]),
        (["analyse", CPU[0], "--ncu", __file__], ["no CSV of Nsight Compute"]),
        (["export", CPU[0], "--out", "t.json"], [".json.gz"]),
    ],
)
def test_errors_are_one_line_and_no_traceback(capsys, arguments, words):
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    for word in words:
        assert word in said
