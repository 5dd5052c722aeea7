"""Answers as data frames, questions asked wrongly, and the questions from a shell."""

from __future__ import annotations

import json
import math
import time

import pytest

from tests.fixtures.nights import measured
from tests.fixtures.samples import make_study
from trainyard.errors import ConfigurationError
from trainyard.store import records, write
from trainyard.store.__main__ import main
from trainyard.store.files import column_types


def test_a_frame_has_the_same_types_full_and_empty(filled_store):
    full = filled_store.frame("study_runs", study_id="night-1")
    empty = filled_store.frame("study_runs", study_id="no such")
    mixed = filled_store.frame("study_runs", study_id="night-2")
    assert len(full) == 8
    assert len(empty) == 0
    assert list(full.columns) == list(empty.columns)
    kinds = {"DOUBLE PRECISION": "float64", "BIGINT": "int64", "BOOLEAN": "bool", "TEXT": "object"}
    expected = {name: kinds[column_types()[name]] for name in full.columns}
    assert full.dtypes.astype(str).to_dict() == expected
    assert empty.dtypes.astype(str).to_dict() == expected
    assert mixed["cores_usable"].dtype == "float64", "one is missing"
    assert math.isnan(mixed["cores_usable"][0])
    assert mixed["git_dirty"].tolist() == [None, True, True]
    assert full["images_per_second"].isna().sum() == 2


@pytest.mark.slow
def test_ten_thousand_runs_are_one_quick_frame(store):
    """A sanity bound, far above what is needed, so that a slow machine cannot fail it by chance."""
    store.save_study(make_study())
    template = measured("run-0", 100.0)
    with store.engine.transaction():
        columns = records.run_columns(template)
        rows = [columns | {"run_id": f"run-{i}", "repeat": i} for i in range(10_000)]
        store.engine.fetch_many(write.insert("runs", columns), rows)
    began = time.monotonic()
    frame = store.frame("study_runs", study_id="study-1")
    took = time.monotonic() - began
    print(f"{store.engine.kind}: 10,000 runs in {took:.2f} s")
    assert len(frame) == 10_000
    assert took < 10


# asking wrongly, and from a shell


def test_an_unknown_question_lists_the_known_ones(store):
    with pytest.raises(ConfigurationError, match=r"'runs' is unknown; choose from .*study_runs"):
        store.query("runs")


def test_wrong_parameters_are_told(store):
    with pytest.raises(ConfigurationError, match="takes study_id; given study"):
        store.frame("study_runs", study="a")


def test_the_shell_asks_the_same_questions(filled_store, results_url, capsys):
    assert main(["query", "run_metrics", "run_id=b-flagged", "--url", results_url]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["value"] == 812.5
    assert lines[2] == {"idx": 2, "name": "train_loss", "value": "nan", "unit": "1"}
    assert main(["query", "studies_recent", "limit=1", "--url", results_url]) == 0
    assert json.loads(capsys.readouterr().out)["study_id"] == "other"
    assert main(["migrate", results_url]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert main(["queries"]) == 0
    assert "study(study_id): What is this study" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        pytest.param(["nonsense"], "query 'nonsense' is unknown", id="question"),
        pytest.param(["study", "night-1"], "write NAME=VALUE", id="no-name"),
        pytest.param(["studies_recent", "limit=ten"], "must be a whole number", id="no-number"),
    ],
)
def test_the_shell_tells_what_is_wrong(results_url, capsys, words, complaint):
    assert main(["query", *words, "--url", results_url]) == 1
    assert complaint in capsys.readouterr().err
