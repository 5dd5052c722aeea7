"""The main job, on real parts: what a person finds after ``make demo``."""

from __future__ import annotations

import itertools
import json
import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def rows(stack, study):
    from trainyard.store import open_store

    with open_store(f"sqlite:///{stack.paths.results_db}") as store:
        recent = store.query("studies_recent", limit=20)
        found = [row for row in recent if row["dag_run_id"] == study.dag_run_id]
        assert len(found) == 1
        return store.query("study_runs", study_id=found[0]["study_id"])


def test_the_study_succeeds_with_a_report_a_person_can_open(study):
    from pypdf import PdfReader

    assert study.state == "success"
    html = study.report.read_text()
    assert "<html" in html
    assert "digits" in html
    assert not re.search(r"<(link|script|iframe)\b|src=.(?!data:)", html), "loads from elsewhere"
    pdf = PdfReader(study.report.with_suffix(".pdf"))
    assert len(pdf.pages) >= 2
    assert "strong scaling" in "".join(page.extract_text() for page in pdf.pages).lower()


def test_every_planned_run_is_a_row_with_a_valid_result(rows):
    by_ranks = {}
    for row in rows:
        assert row["status"] == "completed", row["reason"]
        assert row["sane"], row["run_id"]
        by_ranks.setdefault((row["ranks"], bool(row["distributed"])), []).append(row)
    assert set(by_ranks) == {(1, False), (1, True), (2, True)}
    assert all(len(found) >= 3 for found in by_ranks.values())


def test_training_really_learns_the_digits_on_one_and_two_ranks(rows):
    for ranks in (1, 2):
        accuracies = [row["test_accuracy"] for row in rows if row["ranks"] == ranks]
        assert min(accuracies) >= 0.97, (ranks, accuracies)


def test_the_same_seed_gives_the_same_loss_whoever_ran_first(rows):
    groups = {}
    for row in rows:
        groups.setdefault((row["spec_id"]), []).append(row["parameter_hash"])
    assert all(len(set(hashes)) == 1 for hashes in groups.values())


def test_mlflow_holds_one_nested_run_per_training_run(stack, rows):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{stack.ports.mlflow}")
    experiments = [item.experiment_id for item in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=200)
    by_tag = {run.data.tags.get("trainyard.run_id"): run for run in runs}
    for row in rows:
        run = by_tag[row["run_id"]]
        assert run.data.tags["mlflow.parentRunId"]
        assert run.data.metrics["images_per_second"] == pytest.approx(row["images_per_second"])
        assert run.info.run_id in row["mlflow_url"]


def test_runs_are_measured_one_at_a_time(stack, rows):
    spans = []
    for row in rows:
        folder = stack.paths.runs / row["run_id"]
        result = json.loads((folder / "result.json").read_text())
        provenance = result["provenance"]
        spans.append((provenance["started_at"], provenance["ended_at"]))
    spans.sort()
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert end <= start


def test_a_second_fetch_transfers_nothing(stack, study):
    before = sorted((p, p.stat().st_mtime_ns) for p in stack.paths.s3_data.rglob("*sha256/*"))
    run_id = stack.api.trigger("fetch_dataset", {"dataset": "digits"})
    stack.services.wait_until(
        lambda: stack.api.run("fetch_dataset", run_id)["state"] in {"success", "failed"},
        "fetch_dataset", 120,
    )  # fmt: skip
    assert stack.api.run("fetch_dataset", run_id)["state"] == "success"
    assert before
    after = sorted((p, p.stat().st_mtime_ns) for p in stack.paths.s3_data.rglob("*sha256/*"))
    assert after == before
