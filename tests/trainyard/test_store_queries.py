"""Every named question, asked of the same stored rows on both engines, with its whole answer.

``ANSWERS`` has one entry per file of sql/queries: a question without one fails the suite.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from tests.fixtures.nights import NIGHT_2, STRONG_2
from tests.fixtures.samples import ODD_TEXT, make_profile
from trainer.contract import ProbeReport
from trainyard.store import AuditRow, Verdict
from trainyard.store.files import SQL_DIR, column_types, queries
from trainyard.store.probes import ProbeRow, save_probes
from trainyard.store.profiles import save_profile


def values(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def answers_study_runs(store):
    rows = store.query("study_runs", study_id="night-2")
    assert values(rows, "run_id", "ranks", "repeat", "status") == [
        ("b-lost", 1, 1, "lost"),
        ("b-good", 2, 1, "completed"),
        ("b-flagged", 2, 2, "completed"),
    ]
    lost, good, flagged = rows
    assert values([lost], "sane", "comparable", "distributed", "windows") == [
        (False, False, True, 0)
    ]
    assert values([lost], "images_per_second", "git_dirty", "cores_usable", "ended_at") == [
        (None,) * 4
    ]
    assert lost["reason"] == ODD_TEXT
    assert (good["comparable"], good["flags"], good["images_per_second"]) == (True, "[]", 250.0)
    assert (flagged["sane"], flagged["comparable"]) == (True, False)
    assert json.loads(flagged["flags"]) == ["unstable", "foreign_load"]
    assert json.loads(flagged["flag_details"]) == ["CV 7.1 % > 5 %", "0.9 cores"]
    assert math.isnan(flagged["train_loss"])
    assert math.isinf(flagged["window_cv"])
    assert values([flagged], "step_time_s", "peak_memory_bytes", "windows", "gpu_name") == [
        (0.1 + 0.2, 2.0**40, 2, "H200")
    ]
    assert values([flagged], "git_commit", "git_dirty", "backend", "hostname", "memory_bytes") == [
        ("c0ffee0", True, "gloo", "node-1", 8 * 2**30)
    ]
    assert flagged["started_at"] == "2026-11-22T02:00:00.000000+00:00"


def answers_study_windows(store):
    rows = store.query("study_windows", study_id="night-2")
    assert len(rows) == 8
    names = ("run_id", "kind", "idx", "steps", "images", "seconds", "seconds_by_rank")
    assert values(rows, *names)[:4] == [
        ("b-flagged", "no_sync", 0, 20, 1280, 0.375, "[0.25,0.375]"),
        ("b-flagged", "synthetic_input", 0, 20, 1280, 0.4, "[0.4,0.3]"),
        ("b-flagged", "train", 0, 20, 1280, 0.625, "[0.5,0.625]"),
        ("b-flagged", "train", 1, 20, 1280, math.inf, '[0.5,"inf"]'),
    ]
    assert rows[0]["foreign_load"] == 0.125


def answers_study_epochs(store):
    rows = store.query("study_epochs", study_id="night-2")
    assert values(
        rows, "run_id", "idx", "images", "seconds", "train_accuracy", "test_accuracy"
    ) == [
        ("b-flagged", 0, 1437, 1.5, 0.5, None),
        ("b-flagged", 1, 1437, 1.5, 0.5, 0.875),
        ("b-good", 0, 1437, 1.5, 0.5, None),
        ("b-good", 1, 1437, 1.5, 0.5, 0.875),
    ]
    assert rows[0]["train_loss"] == 2.25
    assert math.isnan(rows[1]["train_loss"])


def answers_study_checks(store):
    rows = store.query("study_checks", study_id="night-2")
    assert values(rows, "run_id", "idx", "name", "passed", "detail")[:2] == [
        ("b-flagged", 0, "loss_finite", True, "0.31 is finite"),
        ("b-flagged", 1, "ranks_agree", True, ODD_TEXT),
    ]
    assert len(rows) == 4


def answers_study(store):
    (row,) = store.query("study", study_id="night-2")
    assert values([row], "study_id", "title", "status", "created_at", "report_uri", "repeats") == [
        ("night-2", "Demo — 数字", "completed", NIGHT_2, "s3://r", 3)
    ]
    assert json.loads(row["plan"]) == [{"run_id": "run-1", "config": ODD_TEXT}]
    assert store.query("study", study_id="no such") == []


def answers_studies_recent(store):
    names = ("study_id", "stored_runs", "completed_runs", "comparable_runs")
    assert values(store.query("studies_recent", limit=10), *names) == [
        ("other", 0, 0, 0),
        ("later", 0, 0, 0),
        ("night-2", 3, 2, 1),
        ("night-1", 8, 8, 8),
    ]
    assert len(store.query("studies_recent", limit=1)) == 1


def answers_studies_ended(store):
    rows = store.query("studies_ended", limit=10)
    assert values(rows, "study_id", "status", "mlflow_run_id") == [
        ("later", "failed", ""),
        ("night-2", "completed", ""),
        ("night-1", "completed", ""),
    ]


def answers_environment_latest(store):
    rows = store.query("environment_latest", site="laptop")
    assert values(rows, "name", "verdict", "checked_at", "idx") == [
        ("memory", "passed", "2026-11-22T00:00:00.000000+00:00", 0),
        ("cores", "passed", "2026-11-22T00:00:00.000000+00:00", 1),
    ]
    assert store.query("environment_latest", site="nowhere") == []


def answers_run(store):
    (row,) = store.query("run", run_id="alone")
    assert values([row], "study_id", "status", "sane", "precedence", "exit_code") == [
        (None, "failed", False, 6, 0)
    ]


def answers_run_metrics(store):
    rows = store.query("run_metrics", run_id="b-flagged")
    assert values(rows[:2], "idx", "name", "value", "unit") == [
        (0, "images_per_second", 812.5, "image/s"),
        (1, "step_time_s", 0.1 + 0.2, "s"),
    ]
    assert [row["value"] for row in rows[3:5]] == [math.inf, -math.inf]


def answers_run_windows(store):
    rows = store.query("run_windows", run_id="b-flagged")
    assert values(rows, "kind", "idx") == [
        ("train", 0), ("train", 1), ("no_sync", 0), ("synthetic_input", 0)
    ]  # fmt: skip


def answers_run_epochs(store):
    rows = store.query("run_epochs", run_id="b-flagged")
    assert values(rows, "idx", "steps", "test_accuracy") == [(0, 23, None), (1, 23, 0.875)]


def answers_run_flags(store):
    assert store.query("run_flags", run_id="b-flagged") == [
        {"idx": 0, "flag": "unstable", "detail": "CV 7.1 % > 5 %"},
        {"idx": 1, "flag": "foreign_load", "detail": "0.9 cores"},
    ]


def answers_run_checks(store):
    assert store.query("run_checks", run_id="alone") == [
        {"idx": 0, "name": "loss_finite", "passed": False, "detail": "nan"}
    ]


def answers_run_jobs(store):
    first = {
        "attempt": 0, "cluster": "hpc", "job_id": 4711, "state": "PREEMPTED", "node_list": "n[1-2]",
        "source": "sacct", "elapsed_s": 12.0, "cpu_s": 48.0, "cpu_used_s": 40.5, "gpu_s": None,
        "max_rss_bytes": 2**33, "energy_j": None,
    }  # fmt: skip
    second = first | {"attempt": 1, "job_id": 4712, "state": "COMPLETED", "energy_j": 1.5e6}
    store.save_usage("alone", [second, first])
    assert store.query("run_jobs", run_id="alone") == [first, second]
    store.save_usage("alone", [second])
    assert store.query("run_jobs", run_id="alone") == [second], "replaced, not added"
    store.save_usage("alone", [])
    assert store.query("run_jobs", run_id="alone") == []


def answers_audit_of_dag_run(store):
    begun = AuditRow(
        dag_id="train", dag_run_id="manual__2026-11-22", kind="manual", triggered_by="ui",
        user_name="ada", conf={"title": ODD_TEXT}, queued_at="2026-11-22T02:00:00", state="running",
    )  # fmt: skip
    store.save_audit(begun)
    (row,) = store.query("audit_of_dag_run", dag_id="train", dag_run_id="manual__2026-11-22")
    assert (row["user_name"], row["state"], row["ended_at"]) == ("ada", "running", None)
    store.save_audit(replace(begun, state="success", ended_at="2026-11-22T03:00:00", clears=1))
    (row,) = store.query("audit_of_dag_run", dag_id="train", dag_run_id="manual__2026-11-22")
    assert values([row], "user_name", "state", "ended_at", "clears") == [
        ("ada", "success", "2026-11-22T03:00:00.000000+00:00", 1)
    ]
    assert json.loads(row["conf"]) == {"title": ODD_TEXT}
    assert store.query("audit_of_dag_run", dag_id="train", dag_run_id="none") == []


def answers_audit_trail(store):
    for day, user in ((21, ""), (22, "ada")):
        store.save_audit(
            AuditRow(
                dag_id="train", dag_run_id=f"manual__2026-11-{day}", kind="manual", user_name=user,
                queued_at=f"2026-11-{day}T02:00:00", state="success",
            )
        )  # fmt: skip
    rows = store.query("audit_trail", since="2026-11-21T02:00:00.000000+00:00")
    assert values(rows, "dag_run_id", "user_name", "stored_runs", "conf") == [
        ("manual__2026-11-21", "", 0, "{}"),
        ("manual__2026-11-22", "ada", 1, "{}"),
    ]
    assert len(store.query("audit_trail", since="2026-11-21T02:00:01")) == 1


def answers_runs_by_end(store):
    rows = store.query("runs_by_end")
    assert values(rows, "site", "status", "reason", "exit_code", "run_count") == [
        ("laptop", "completed", "", 0, 10),
        ("laptop", "failed", "", 0, 1),
        ("laptop", "lost", ODD_TEXT, None, 1),
        ("laptop", "running", "", 0, 1),
    ]
    assert rows[0]["last_ended_at"] == "2026-11-22T02:05:01.000000+00:00"
    assert rows[2]["last_ended_at"] is None


def answers_nightly_last(store):
    assert store.query("nightly_last", dag_id="nightly_benchmark") == []
    (row,) = store.query("nightly_last", dag_id="scaling_study")
    names = ("site", "study_id", "status", "stored_runs", "completed_runs", "comparable_runs")
    assert values([row], *names) == [("laptop", "night-2", "completed", 3, 2, 1)]
    assert values([row], "git_commit", "torch", "ended_at") == [("c0ffee0", "2.15.0", None)]
    assert len(json.loads(row["plan"])) == 1


def answers_benchmark_values(store):
    rows = store.query("benchmark_values", metric="images_per_second", since="")
    assert sorted(values(rows, "study_id", "run_id", "value", "unit")) == [
        ("night-1", "a-slow", 50.0, "image/s"),
        *(("night-1", f"a{n}", v, "image/s") for n, v in enumerate((300.0, 100.0, 200.0, 1e3))),
        ("night-2", "b-good", 250.0, "image/s"),
    ]
    assert [row["config_id"] for row in rows[:5]] == sorted(row["config_id"] for row in rows[:5])
    assert values(rows[-1:], "suite", "site", "ranks", "hostname", "gpu_name") == [
        ("demo", "laptop", 2, "node-1", "H200")
    ]
    later = store.query("benchmark_values", metric="images_per_second", since=NIGHT_2)
    assert values(later, "run_id") == [("b-good",)]


def answers_runs_of_dag_run(store):
    rows = store.query("runs_of_dag_run", dag_id="train", dag_run_id="manual__2026-11-22")
    assert values(rows, "run_id", "map_index", "try_number", "status", "sane", "phase") == [
        ("alone", -1, 2, "failed", False, "finished")
    ]
    rows = store.query("runs_of_dag_run", dag_id="scaling_study", dag_run_id="manual__2026-11-22")
    assert len(rows) == 11


def answers_last_completed_study(store):
    (row,) = store.query("last_completed_study", suite="demo", site="laptop")
    assert row["study_id"] == "night-2"
    assert store.query("last_completed_study", suite="other", site="laptop") == []


def answers_dataset(store):
    assert store.query("dataset", name="digits", digest="00" * 32) == []
    (row,) = store.query("dataset", name="digits", digest="cd" * 32)
    assert values([row], "digest", "size_bytes", "retrieved_at", "object_key") == [
        ("cd" * 32, 5, "2026-11-22T01:00:00.000000+00:00", f"k/{'cd' * 32}")
    ]
    assert json.loads(row["manifest"])["counts"] == [1]


def answers_dataset_versions(store):
    from trainyard.store.storage import forget_version, register_version

    assert [register_version(store, "digits", digest) for digest in ("cd", "ef", "cd")] == [1, 2, 1]
    assert register_version(store, "other", "cd") == 1
    forget_version(store, "digits", 2)
    rows = store.query("dataset_versions", name="digits")
    assert values(rows, "version", "digest") == [(1, "cd"), (2, "ef")]
    assert [row["deleted_at"] is None for row in rows] == [True, False]
    assert register_version(store, "digits", "ff") == 3, "a number is never given twice"
    assert register_version(store, "digits", "ef") == 2, "staged again, it is what it was"


def answers_dataset_references(store):
    digest = store.query("study_runs", study_id="night-2")[0]["dataset_digest"]
    rows = store.query("dataset_references", dataset_digest=digest)
    assert {row["run_id"] for row in rows if row["kind"] == "run"} >= {"b-lost", "b-good"}
    assert store.query("dataset_references", dataset_digest="no such") == []


def answers_run_artifacts(store):
    from trainyard.store.storage import save_artifacts

    for missing in (3, 0):
        save_artifacts(
            store, "b-good", stored=7 - missing, missing=missing, size_bytes=9, detail=ODD_TEXT
        )
    (row,) = store.query("run_artifacts", run_id="b-good")
    assert values([row], "stored", "missing", "size_bytes", "detail") == [(7, 0, 9, ODD_TEXT)]


def answers_runs_missing_artifacts(store):
    from trainyard.store.storage import save_artifacts

    for run_id, missing in (("b-good", 0), ("b-lost", 2)):
        save_artifacts(store, run_id, stored=1, missing=missing, size_bytes=9, detail="down")
    rows = store.query("runs_missing_artifacts")
    assert values(rows, "run_id", "missing", "study_id") == [("b-lost", 2, "night-2")]


def answers_pending_lineage(store):
    rows = store.query("pending_lineage")
    assert rows[0]["run_id"] == "b-lost", "without an end first"
    assert {row["run_id"] for row in rows} == {
        "a0", "a1", "a2", "a3", "a-slow", "a-none", "a-nan", "a-inf", "b-good", "b-lost", "alone",
    }  # fmt: skip


def answers_nightly_history(store):
    asked = {"suite": "demo", "site": "laptop", "metric": "images_per_second"}
    rows = store.query("nightly_history", since="", **asked)
    names = (
        "night",
        "study_id",
        "name",
        "ranks",
        "unit",
        "run_count",
        "least",
        "median",
        "largest",
    )
    assert values(rows, *names) == [
        ("2026-11-21", "night-1", "strong-n1", 1, "image/s", 1, 50.0, 50.0, 50.0),
        ("2026-11-21", "night-1", "strong-n2", 2, "image/s", 4, 100.0, 250.0, 1000.0),
        ("2026-11-22", "night-2", "strong-n2", 2, "image/s", 1, 250.0, 250.0, 250.0),
    ]
    assert rows[1]["config_id"] == rows[2]["config_id"] == STRONG_2.config_id
    assert len(store.query("nightly_history", since="2026-11-22", **asked)) == 1


def with_profile(store):
    """The profile of the flagged run, stored twice: the second time replaces the first."""
    row = make_profile("b-flagged", bound="host")
    save_profile(store, row)
    save_profile(store, replace(row, bound="input", shares=row.shares[1:], headline=ODD_TEXT))


def answers_profile(store):
    assert store.query("profile", run_id="b-flagged") == []
    with_profile(store)
    (row,) = store.query("profile", run_id="b-flagged")
    assert (row["bound"], row["headline"], row["slow_rank"]) == ("input", ODD_TEXT, None)
    assert (row["step_ms"], row["step_ms_low"], row["step_ms_high"]) == (12.5, 12.0, 13.0)
    assert (row["outside"], row["outside_low"], row["speedup"]) == (0.01, None, 1.5)
    assert row["analysed_at"] == "2026-11-22T03:00:00.000000+00:00"


def answers_profiles_of_dag_run(store):
    with_profile(store)
    asked = {"dag_id": "profile_run", "dag_run_id": "manual__1"}
    (row,) = store.query("profiles_of_dag_run", **asked)
    assert (row["run_id"], row["suggestion_field"]) == ("b-flagged", "loader_workers")
    assert store.query("profiles_of_dag_run", **asked | {"dag_run_id": "other"}) == []


def answers_profile_shares(store):
    with_profile(store)
    rows = store.query("profile_shares", run_id="b-flagged")
    names = ("idx", "rank", "kind", "name", "value", "low", "high")
    assert values(rows, *names) == [(0, 1, "fraction", "overlap", None, None, None)]


def answers_profile_recoverable(store):
    with_profile(store)
    rows = store.query("profile_recoverable", run_id="b-flagged")
    assert values(rows, "idx", "name", "ms", "low", "high", "how") == [
        (0, "waiting for data", 3.5, 3.0, 4.0, "have it ready")
    ]


def answers_profile_files(store):
    with_profile(store)
    rows = store.query("profile_files", run_id="b-flagged")
    assert values(rows, "idx", "name", "uri", "size_bytes", "sha256") == [
        (0, "rank0.sqlite", "s3://b/profiles/x/rank0.sqlite", 2**33, "ab" * 32)
    ]


def answers_probe_reports(store):
    with_probes(store)
    rows = store.query("probe_reports", site="laptop", limit=10)
    assert values(rows, "node", "verdict", "quick", "seconds") == [
        ("n2", "failed", True, 9.5),
        ("n1", "passed", True, 9.5),
    ]
    assert len(store.query("probe_reports", site="laptop", limit=1)) == 1


def answers_probe_report(store):
    with_probes(store)
    assert values(store.query("probe_report", site="laptop", start="aaaa%"), "node") == [("n1",)]
    newest = store.query("probe_report", site="laptop", start="2026-11-22%")
    assert values(newest, "node") == [("n2",)]
    assert store.query("probe_report", site="laptop", start="zz%") == []


def with_probes(store):
    save_probes(
        store,
        [
            ProbeRow(
                site="laptop",
                report=ProbeReport(
                    node=node, started_at=f"2026-11-22T0{hour}:00:00", seconds=9.5, quick=True
                ),
                fingerprint=mark * 16,
                verdict=verdict,
            )
            for node, hour, mark, verdict in (
                ("n1", 2, "a", Verdict.PASSED),
                ("n2", 3, "b", Verdict.FAILED),
            )
        ],
    )


ANSWERS = {
    name.removeprefix("answers_"): check
    for name, check in globals().items()
    if name.startswith("answers_")
}


def test_every_question_is_tested():
    assert set(ANSWERS) == set(queries())


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_answer(filled_store, name):
    ANSWERS[name](filled_store)


def test_every_question_says_what_it_answers():
    for name, query in queries().items():
        assert query.question[0].isupper(), name
        assert "?" in query.question, name


def test_the_documentation_lists_every_question_and_column_as_they_are():
    page = (SQL_DIR.parent / "docs" / "results.md").read_text()
    for name, query in queries().items():
        parameters = ", ".join(f"`{parameter}`" for parameter in query.parameters)
        row = f"| [`{name}`](../sql/queries/{name}.sql) | {parameters} | {query.question} |"
        assert row in page, f"docs/results.md lacks the row\n{row}"
    diagram = page.split("```mermaid")[1].split("```")[0]
    drawn = re.findall(r"^        (TEXT|BIGINT|DOUBLE|BOOLEAN) (\w+)", diagram, re.MULTILINE)
    assert len(drawn) > 40
    for kind, column in drawn:
        assert column_types()[column].startswith(kind), column
