"""Who had a run is on record, secrets are nowhere to be read, lines say what they are about."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def secrets(stack):
    """Every secret of the stack; the access key is a name."""
    return {k: v for k, v in asdict(stack.secrets).items() if k != "s3_access_key"}


def told(text, secrets):
    return sorted(name for name, value in secrets.items() if value in text)


def ended(stack, dag_id, run_id):
    def over():
        return stack.api.run(dag_id, run_id)["state"] in {"success", "failed"}

    stack.services.wait_until(over, f"{dag_id} {run_id}", 120)
    return stack.api.run(dag_id, run_id)


@pytest.fixture(scope="module")
def leak(stack):
    """The run of a task that tells its secrets, and the lines of its log."""
    stack.services.wait_until(lambda: _is_known(stack, "leaky"), "the DAG leaky", 120)
    run_id = stack.api.trigger("leaky", {})
    assert ended(stack, "leaky", run_id)["state"] == "failed"
    (path,) = (stack.paths.airflow_home / "logs").glob("dag_id=leaky/**/*.log")
    return run_id, path.read_text()


def _is_known(stack, dag_id):
    found = stack.api.call("GET", "/api/v2/dags", params={"dag_id_pattern": dag_id})
    return found["total_entries"] == 1


def test_a_task_that_tells_its_secrets_shows_stars(leak, secrets):
    _, text = leak
    assert not told(text, secrets)
    assert "logged ***" in text
    assert "printed ***" in text
    assert "failed with ***" in text
    assert "the end" in text


def test_the_schedulers_copy_of_the_tasks_lines_shows_stars_too(stack, leak, secrets):
    text = (stack.paths.logs / "airflow-scheduler.log").read_text()
    assert not told(text, secrets)
    assert "logged ***" in text


def test_its_lines_say_what_they_are_about(leak):
    run_id, text = leak
    lines = [json.loads(line) for line in text.splitlines()]
    (said,) = [line for line in lines if line["event"] == "logged ***"]
    assert (said["dag_id"], said["dag_run_id"], said["task_id"]) == ("leaky", run_id, "leak")
    assert said["try_number"] == 1


def test_no_file_of_the_stack_but_its_own_configuration_tells_a_secret(stack, study, leak, secrets):
    kept = {stack.paths.secrets, stack.paths.settings, stack.paths.passwords,
            stack.paths.environment}  # fmt: skip
    read = 0
    for folder in (stack.paths.logs, stack.paths.airflow_home / "logs", stack.paths.runs,
                   stack.paths.reports):  # fmt: skip
        for path in folder.rglob("*"):
            if path.is_file() and path not in kept:
                read += 1
                assert not told(path.read_bytes().decode("utf-8", "replace"), secrets), path
    assert read > 50
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept), "readable by others"


def test_no_command_line_tells_a_secret(stack, secrets):
    lines = []
    for process in psutil.Process().children(recursive=True):
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    assert any("rclone" in line for line in lines)
    assert not told("\n".join(lines), secrets)


def test_neither_templates_nor_xcoms_nor_the_configuration_tell_a_secret(stack, study, secrets):
    base = f"/api/v2/dags/nightly_benchmark/dagRuns/{study.dag_run_id}/taskInstances"
    tasks = stack.api.call("GET", base, params={"limit": 100})
    xcoms = [
        stack.api.call("GET", f"{base}/{task['task_id']}/xcomEntries", params={"limit": 50})
        for task in tasks["task_instances"]
        if task["map_index"] < 0
    ]
    assert any(found["total_entries"] for found in xcoms)
    assert not told(json.dumps([tasks, xcoms]), secrets)


def test_a_study_names_who_had_it(stack, study):
    from mlflow import MlflowClient

    from trainyard.store import open_store

    with open_store(f"sqlite:///{stack.paths.results_db}") as store:
        (row,) = store.query(
            "audit_of_dag_run", dag_id="nightly_benchmark", dag_run_id=study.dag_run_id
        )
        trail = store.query("audit_trail", since="2020-01-01")
    assert (row["user_name"], row["kind"], row["triggered_by"]) == ("admin", "manual", "rest_api")
    assert (row["state"], row["clears"]) == ("success", 0)
    assert row["queued_at"] <= row["started_at"] < row["ended_at"]
    assert json.loads(row["conf"])["dataset"] == "digits"
    mine = [found for found in trail if found["dag_run_id"] == study.dag_run_id]
    assert mine[0]["stored_runs"] > 0
    assert "Triggered by admin, through the REST API" in study.report.read_text()
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{stack.ports.mlflow}")
    experiments = [item.experiment_id for item in client.search_experiments()]
    parents = client.search_runs(experiments, "tags.`trainyard.kind` = 'study'")
    assert "admin, through the REST API" in {
        run.data.tags.get("trainyard.triggered_by") for run in parents
    }


def test_the_scheduler_says_who_in_a_line(stack, study):
    text = (stack.paths.logs / "airflow-scheduler.log").read_text()
    lines = [line for line in text.splitlines() if study.dag_run_id in line and "Audit: " in line]
    assert len(lines) >= 2
    assert re.search(r"is running; manual by admin through rest_api", lines[0])
    assert re.search(r"is success", lines[-1])


def test_lines_of_a_run_name_the_run_in_task_and_trigger(stack, study):
    logs = list((stack.paths.airflow_home / "logs").glob(
        f"dag_id=nightly_benchmark/run_id={study.dag_run_id}/task_id=run_on_cpu*/**/*.log*"
    ))  # fmt: skip
    assert logs
    named = [
        line["run_id"]
        for path in logs
        for line in map(json.loads, path.read_text().splitlines())
        if "run_id" in line and (stack.paths.runs / str(line["run_id"])).is_dir()
    ]
    assert len(set(named)) > 1
    assert any("trigger" in path.name for path in logs) or len(named) > len(logs)
