"""The report as a whole: complete, equal bit for bit, safe with hostile text, honest in part."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from pypdf import PdfReader

from tests.fixtures.studies import Truth, amdahl, fail, flag, frames, gustafson, study
from trainyard.analysis import StudyData
from trainyard.report import build

BOTH = Truth(strong=amdahl(0.2, 0.06), weak=gustafson(0.15, 0.05))
HOSTILE = (
    "\x1b[31m<script>alert(1)</script> <img src=x onerror=alert(2)>\x00\u202e #set page(width: 1pt)"
    ' $x$ @ref #eval("1") \\ */ `raw` {{ 7 * 7 }} {% raw %} </pre></svg> \ud800'
)

STORED = HOSTILE.replace("\ud800", "")
"""The same as a database can hold it."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(study(BOTH), tmp_path_factory.mktemp("report") / "made")


class Page(HTMLParser):
    """What a browser would see: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub("[ \\n]+", " ", " ".join(self.words))

    def values(self, name: str) -> list[str]:
        return [value or "" for _, key, value in self.attributes if key == name]


def page_of(files) -> Page:
    return Page(files.html.read_text())


def pdf_text(files) -> str:
    pages = PdfReader(io.BytesIO(files.pdf.read_bytes())).pages
    return " ".join(" ".join(page.extract_text() for page in pages).replace("\u200b", "").split())


def rebuilt(tmp_path: Path, given: dict) -> Page:
    files = build(StudyData.of(**given), tmp_path / "made")
    assert files.pdf.read_bytes().startswith(b"%PDF")
    return page_of(files)


def test_every_figure_has_its_files_and_its_data(made):
    names = {path.stem for path in made.figures}
    assert names == {
        "strong_scaling", "weak_scaling", "efficiency", "attribution", "accuracy", "run_order"
    }  # fmt: skip
    for name in names:
        for ending in ("svg", "png", "csv", "json"):
            assert (made.folder / "figures" / f"{name}.{ending}").stat().st_size > 100
        frame = pd.read_csv(made.folder / "figures" / f"{name}.csv")
        data = json.loads((made.folder / "figures" / f"{name}.json").read_text())
        assert len(frame) == len(next(iter(data["data"].values()))) > 0
        assert list(frame.columns) == data["columns"]


def test_the_page_needs_nothing_from_elsewhere(made):
    page = page_of(made)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    for address in [*page.values("src"), *page.values("href"), *page.values("xlink:href")]:
        if not address.startswith(("#", "http://localhost:5000", "data:")):
            assert (made.folder / address).is_file(), address


def test_ids_are_unique_and_references_resolve(made):
    page = page_of(made)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for value in [*page.values("href"), *page.values("xlink:href")]
              if value.startswith("#")}  # fmt: skip
    wanted |= set(re.findall(r"url\(#([^)]+)\)", made.html.read_text()))
    assert wanted <= set(ids)


def test_it_can_be_read_without_seeing(made):
    page = page_of(made)
    named = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert len(named) == page.tags.count("figure") == 6
    assert all(len(label) > 40 for label in named)
    assert page.tags.count("caption") == page.tags.count("table")
    assert ("html", "lang", "en") in page.attributes


def test_pdf_and_page_say_the_same_numbers(made):
    page, pdf = page_of(made).text, pdf_text(made)
    points = pd.read_csv(made.folder / "tables" / "points.csv")
    for rate in points["images_per_second_value"]:
        text = f"{rate:,.0f}".replace(",", "\u202f") if rate >= 1000 else f"{rate:.1f}"
        assert text in page
        assert text.replace("\u202f", "") in pdf.replace("\u202f", "").replace(" ", "")
    assert "Strong and weak scaling of resnet18_small on digits" in pdf
    assert PdfReader(io.BytesIO(made.pdf.read_bytes())).metadata.title.startswith("Strong and weak")


def test_the_summary_is_true(made):
    comparisons = pd.read_csv(made.folder / "tables" / "comparisons.csv")
    row = comparisons[
        (comparisons["mode"] == "strong") & (comparisons["ranks"] == 2)
        & (comparisons["base"] == "one process without DDP")
    ].iloc[0]  # fmt: skip
    text = page_of(made).text
    assert f"efficiency of {100 * row['efficiency_value']:.1f}\u202f%" in text
    assert "18 runs of 6 configurations: 18 valid, 0 flagged or untimed, 0 failed" in text
    assert "No scaling law is fitted where fewer than 4 numbers of ranks" in text
    assert "read this study as a demonstration" in text


def test_same_data_same_bytes(tmp_path):
    # Different order of rows in, too: a database promises none.
    given = frames(BOTH)
    shuffled = {**given, "runs": given["runs"].sample(frac=1, random_state=1)}
    first = build(StudyData.of(**given), tmp_path / "first").folder
    second = build(StudyData.of(**shuffled), tmp_path / "second").folder
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_four_ranks_bring_fits_and_labelled_projections(tmp_path):
    truth = Truth(strong=amdahl(0.2, 0.08), ranks=(1, 2, 4, 8), repeats=5)
    files = build(study(truth), tmp_path / "made")
    text = page_of(files).text
    assert "Projected, not measured" in text
    fits = pd.read_csv(files.folder / "tables" / "fits.csv")
    serial = fits[(fits["law"] == "Amdahl") & (fits["parameter"] == "s")].iloc[0]
    assert serial["low"] < 0.08 < serial["high"]
    assert "projected" not in (files.folder / "tables" / "points.csv").read_text()
    drawn = pd.read_csv(files.folder / "figures" / "strong_scaling.csv")
    beyond = drawn[drawn["ranks"] > 8]
    assert set(beyond["kind"]) == {"projected"}


def test_hostile_texts_stay_text(tmp_path):
    given = frames(BOTH)
    runs = given["runs"]
    fail(given, runs["repeat"].eq(0), log_tail=STORED, reason=STORED, mlflow_url="javascript:1")
    for name in ("name", "cpu_model", "git_commit"):
        runs[name] = STORED
    flag(given, runs["repeat"].eq(1), "unstable", HOSTILE)
    given["study"] |= {"title": HOSTILE, "mlflow_url": "javascript:alert(1)", "note": HOSTILE}
    given["environment"] = [{"name": HOSTILE, "measured": HOSTILE, "verdict": "failed"}]
    given["dataset"] = {**given["dataset"], "source": HOSTILE, "licence": HOSTILE}
    page = rebuilt(tmp_path, given)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [url for url in page.values("href") if url.startswith("javascript")]
    assert "<script>alert(1)</script>" in page.text  # said, not run
    assert "{{ 7 * 7 }}" in page.text
    assert not {"\x1b", "\x00", "\u202e"} & set(page.text)
    text = pdf_text(build(StudyData.of(**given), tmp_path / "made"))
    assert "#set page(width: 1pt)" in text


def test_formulas_in_a_csv_are_disarmed(tmp_path):
    given = frames(BOTH)
    given["runs"]["name"] = '=HYPERLINK("http://evil")'
    folder = build(StudyData.of(**given), tmp_path / "made").folder
    assert set(pd.read_csv(folder / "tables" / "runs.csv")["name"]) == {
        '\'=HYPERLINK("http://evil")'
    }


def test_failed_runs_are_listed_with_phase_reason_and_log(tmp_path):
    given = frames(BOTH)
    runs = given["runs"]
    where = runs["name"].eq("strong-b128-n2") & runs["repeat"].eq(1)
    fail(given, where, phase="warmup", reason="rank 1 was killed (signal 9)", log_tail="last line")
    text = rebuilt(tmp_path, given).text
    assert "17 valid, 0 flagged or untimed, 1 failed or not sane" in text
    assert "rank 1 was killed (signal 9)" in text
    assert "warmup" in text
    assert "last line" in text
    assert "2 of 3" in text


def test_all_failed(tmp_path):
    given = frames(BOTH)
    fail(given, given["runs"]["ranks"] > 0)
    text = rebuilt(tmp_path, given).text
    assert "0 valid, 0 flagged or untimed, 18 failed" in text
    assert "Without a valid run, no comparison is made" in text
    assert "no run passed its sanity checks" in text


def test_all_flagged_is_shown_and_nothing_is_compared(tmp_path):
    given = frames(BOTH)
    flag(given, given["runs"]["ranks"] > 0, "foreign_load", "1.2 cores busy with other work")
    page = rebuilt(tmp_path, given)
    assert "1.2 cores busy with other work" in page.text
    assert "†" in page.text
    drawn = pd.read_csv(tmp_path / "made" / "figures" / "strong_scaling.csv")
    assert drawn["kind"].str.startswith("flagged").all()
    assert not (tmp_path / "made" / "figures" / "efficiency.svg").exists()


@pytest.mark.parametrize("case", ["nothing", "one run", "no weak", "no controls", "no base",
                                  "no scaling", "no windows", "bare columns"])  # fmt: skip
def test_partial_data_give_a_report_that_says_so(tmp_path, case):
    given = frames(BOTH)
    runs = given["runs"]
    said = {
        "nothing": "No run is recorded for this study",
        "one run": "there is no run with one rank",
        "no weak": "weak scaling",
        "no controls": "a step cannot be taken apart",
        "no base": "there is no run with one rank",
        "no scaling": "holds no strong or weak scaling runs",
        "no windows": "no timed window was recorded",
        "bare columns": "no time per step was measured",
    }[case]
    if case == "nothing":
        given = {"study": {"study_id": "empty"}, "runs": pd.DataFrame()}
    elif case == "one run":
        given["runs"] = runs[runs["ranks"] == 2].head(1)
    elif case == "no weak":
        given = frames(Truth(strong=BOTH.strong))
    elif case == "no controls":
        runs[["step_time_synthetic_s", "step_time_no_sync_s"]] = None
    elif case == "no base":
        given["runs"] = runs[runs["ranks"] == 2]
    elif case == "no scaling":
        runs["scaling"] = "none"
    elif case == "no windows":
        given |= {"windows": None, "epochs": None, "checks": None, "environment": [],
                  "dataset": None}  # fmt: skip
    else:
        given = {
            "study": {"study_id": "s", "plan": "not json", "order_seed": None},
            "runs": pd.DataFrame({"run_id": ["a"], "status": ["completed"], "sane": [1],
                                  "comparable": [1], "ranks": [None]}),
        }  # fmt: skip
    page = rebuilt(tmp_path, given)
    drawings = "".join(p.read_text() for p in (tmp_path / "made" / "figures").glob("*.svg"))
    assert said in page.text or said in drawings


def test_an_older_report_is_replaced_whole_and_survives_a_failure(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    build(study(BOTH), folder)
    (folder / "stray").write_text("from before")
    build(study(Truth(strong=BOTH.strong)), folder)
    assert not (folder / "stray").exists()
    before = (folder / "report.html").read_bytes()

    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainyard.report.assemble.render_pdf", full)
    with pytest.raises(OSError, match="No space left"):
        build(study(BOTH), folder)
    assert (folder / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_thousands_of_runs_are_capped_in_the_page_and_whole_in_the_csv(tmp_path):
    truth = Truth(strong=amdahl(0.2, 0.06), repeats=400, windows=1, epochs=1)
    files = build(study(truth), tmp_path / "made")
    assert len(pd.read_csv(files.folder / "tables" / "runs.csv")) == 1200
    assert "1140 further runs in the CSV" in page_of(files).text
    assert files.html.stat().st_size < 2_000_000
    # The scatter is one picture inside the drawing, not a thousand circles.
    assert (files.folder / "figures" / "run_order.svg").read_text().count("<use") < 400
