"""Slurm through Airflow, on a real cluster with accounting and a real stack: nothing is faked but
the training itself. All scenarios go on side by side; each test looks at its own.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest

from tests.e2e.labs import RUNS, until
from tests.e2e.slurm_lab import running_lab
from tests.fixtures.profiles import profiled_spec
from trainer.contract import Profiler

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp("slurm-stack")) as made:
        yield made


@pytest.fixture(scope="module")
def scenes(lab):
    """All runs, started together."""
    made = {
        # Airflow counts a try twice when a trigger fires before the scheduler knows of the
        # deferral: the next one finds the finished run, but the first one's log is lost.
        "good": lab.start("good", "slow"),
        "failing": lab.start("failing", "fail"),
        "surviving": lab.start("surviving", "wait"),
        "marked": lab.start("marked", "wait"),
        "praised": lab.start("praised", "wait"),
        "cleared": lab.start("cleared", "wait"),
        "run-failed": lab.start("run-failed", "wait"),
        "slow": lab.start("slow", "wait", site="brief"),
        "requeued": lab.start("requeued", "wait", site="requeued"),
        "fragile": lab.start("fragile", "wait", site="fragile"),
    }
    yield made
    for scene in made.values():
        scene.go()


def test_a_run_through_sbatch_is_stored_with_its_job(lab, scenes):
    good = scenes["good"]
    assert good.until("success", "failed") == "success"
    row = good.row()
    assert (row.status, row.launcher, row.exit_code) == ("completed", "slurm", 0)
    assert row.result.flags == ()
    (use,) = good.usage()
    job = good.job().attempt
    assert (use["job_id"], use["node_list"]) == (job.job_id, "n1")
    assert (use["source"], use["state"]) == ("sacct", "COMPLETED")
    assert use["elapsed_s"] >= 0
    assert use["cluster"] == lab.cluster.config.name
    assert len(lab.jobs(job.key)) == len(good.starts()) == 1


def test_the_tasks_page_leads_to_the_job(lab, scenes):
    good = scenes["good"]
    good.until("success")
    links = good.api.call(
        "GET", f"{RUNS}/good/taskInstances/run_on_slurm/links", params={"map_index": 0}
    )
    links = links.get("extra_links", links)
    assert links["Slurm job"].endswith("/dags/train/runs/good/tasks/run_on_slurm/mapped/0/xcom")
    assert links["MLflow run"].startswith("http")
    shown = good.api.call(
        "GET", f"{good.path.removesuffix('/0')}/xcomEntries/slurm_job", params={"map_index": 0}
    )
    value = shown["value"] if isinstance(shown["value"], dict) else json.loads(shown["value"])
    assert value["nodes"] == "n1"
    assert value["state"] == "COMPLETED"
    said = good.log()
    assert re.search(r"submitted as job \d+ on cluster", said)
    assert "phase train" in said, "what the job wrote while the task was deferred"


def test_a_failure_is_told_with_exit_code_and_log(lab, scenes):
    failing = scenes["failing"]
    assert failing.until("success", "failed") == "failed"
    row = failing.row()
    assert (row.status, row.exit_code) == ("failed", 1)
    assert "the trainer gave up" in row.log_tail
    assert len(failing.starts()) == 1, "the same run would end the same way"


def test_marking_the_task_as_failed_cancels_the_job(lab, scenes):
    marked = scenes["marked"].until_training()
    marked.api.call("PATCH", marked.path, json={"new_state": "failed"})
    until(lambda: marked.job_state() == "CANCELLED", 40, "cancelling")
    assert marked.state() == "failed"
    assert "killed in Airflow" in marked.paths.cancelled.read_text()


def test_marking_the_task_as_succeeded_cancels_the_job_too(lab, scenes):
    praised = scenes["praised"].until_training()
    praised.api.call("PATCH", praised.path, json={"new_state": "success"})
    until(lambda: praised.job_state() == "CANCELLED", 40, "cancelling")
    assert praised.state() == "success", "a person's word about the task; the run has none"
    assert praised.row() is None


def test_failing_the_dag_run_cancels_the_job(lab, scenes):
    scene = scenes["run-failed"].until_training()
    scene.api.call("PATCH", f"{RUNS}/run-failed", json={"state": "failed"})
    until(lambda: scene.job_state() == "CANCELLED", 40, "cancelling")


def test_clearing_the_task_cancels_the_job_and_submits_another(lab, scenes):
    cleared = scenes["cleared"].until_training()
    first = cleared.job().attempt
    cleared.clear()
    until(lambda: cleared.job_state() == "CANCELLED", 40, "cancelling")
    cleared.until_training(times=2)
    cleared.go()
    assert cleared.until("success", "failed") == "success"
    assert cleared.row().status == "cancelled"
    assert cleared.row(2).status == "completed"
    assert cleared.job(2).attempt.job_id != first.job_id


def test_a_run_that_takes_too_long_is_cancelled_and_fails(lab, scenes):
    slow = scenes["slow"]
    assert slow.until("success", "failed") == "failed"
    assert slow.job_state() == "CANCELLED"
    row = slow.row()
    assert row.status == "failed"
    assert "stopped after 12 s" in row.reason


def test_a_job_survives_whoever_watches_it_and_its_own_controller(lab, scenes):
    """Triggerer killed, controller killed, slurmdbd stopped: one job, no duplicate, no verdict."""
    from trainyard.local.slurm import faults

    surviving = scenes["surviving"].until_training()
    job = surviving.job().attempt
    killed = lab.stack.services.kill("airflow-triggerer")
    faults.restart_controller(lab.cluster, kill=True)
    lab.stack.services.start(killed)
    with faults.accounting_gone(lab.cluster):
        time.sleep(3)
        assert surviving.state() == "deferred"
        surviving.go()
        assert surviving.until("success", "failed", seconds=150) == "success"
    assert surviving.row().result.flags == ()
    assert len(surviving.starts()) == len(lab.jobs(job.key)) == 1
    assert not surviving.paths.cancelled.exists()


def displace(lab, seconds: int = 2) -> None:
    lab.cluster.ask(
        "sbatch", "--partition=urgent", "--cpus-per-task=8", "--output=/dev/null",
        f"--wrap=sleep {seconds}",
    )  # fmt: skip


def test_a_displaced_job_that_slurm_requeues_goes_on_and_is_tainted(lab, scenes):
    requeued = scenes["requeued"].until_training()
    displace(lab)
    requeued.until_training(times=2)
    requeued.go()
    assert requeued.until("success", "failed", seconds=150) == "success"
    row = requeued.row()
    assert [str(flag) for flag in row.result.flags] == ["preempted"]
    assert "requeued" in row.result.flag_details[0]
    job = requeued.job().attempt
    assert [line.split() for line in requeued.starts()] == [[f"{job.job_id}", n] for n in "01"]
    assert [use["attempt"] for use in requeued.usage()] == [0, 1]


def test_a_displaced_job_that_slurm_cancels_is_submitted_again_and_tainted(lab, scenes):
    scenes["requeued"].until("success", "failed", seconds=150)  # they share a node
    displaced = lab.start("displaced", "wait", site="displaced").until_training()
    first = displaced.job()
    displace(lab)
    displaced.until_training(times=2)
    again = displaced.job()
    assert (again.key.generation, again.key.run_id) == (1, first.key.run_id)
    displaced.go()
    assert displaced.until("success", "failed", seconds=150) == "success"
    row = displaced.row()
    assert row.status == "completed"
    assert [str(flag) for flag in row.result.flags] == ["preempted"]
    assert "resubmitted" in row.result.flag_details[0]
    assert [use["state"] for use in displaced.usage()] == ["PREEMPTED", "COMPLETED"]


def test_a_lost_node_costs_the_attempt_and_not_the_run(lab, scenes):
    from trainyard.local.slurm import faults

    fragile = scenes["fragile"].until_training()
    shown = lab.cluster.ask("squeue", "-h", "-j", str(fragile.job().attempt.job_id), "-o", "%N")
    faults.power_off(lab.cluster, shown)
    faults.mark_down(lab.cluster, shown)
    fragile.until_training(times=2)
    fragile.go()
    assert fragile.until("success", "failed", seconds=150) == "success"
    assert [str(flag) for flag in fragile.row().result.flags] == ["preempted"]


def test_a_whole_study_runs_unchanged_and_only_its_own_lane(lab, scenes):
    (lab.control / "900").write_text("")
    conf = {"site": "plain", "dataset": "synthetic", "ranks": [1], "steps": 20, "repeats": 1,
            "threads_per_rank": 1, "loader_workers": 0, "base_seed": 900,
            # The trainer of these sites is a stand-in that knows no probes.
            "probes": "none"}  # fmt: skip
    api = lab.stack.api
    api.trigger("scaling_study", conf, "study")
    ended = lab.end_of("scaling_study", "study", 120)
    states = {
        (task.task_id, task.map_index): task.state for task in api.tasks("scaling_study", "study")
    }
    assert ended == "success", states
    assert states["report", -1] == "success"
    assert {state for (task, _), state in states.items() if task == "run_on_slurm"} == {"success"}
    assert {state for (task, _), state in states.items() if task == "run_on_cpu"} == {"skipped"}


def test_reconciliation_reports_an_orphan_and_cancels_it_only_when_told(lab, scenes):
    for scene in scenes.values():
        scene.go()
    for scene in scenes.values():
        scene.until("success", "failed", seconds=150)
    orphan = replace(scenes["good"].job().key, run_id="nobody-waits-for-this")
    job = lab.cluster.ask(
        "sbatch", "--parsable", "--output=/dev/null", f"--job-name={orphan.name}",
        "--partition=main", "--wrap=sleep 600",
    )  # fmt: skip

    def reconcile(name: str, **conf: object) -> dict[str, int]:
        lab.stack.api.trigger("reconcile_slurm", {"site": "plain", **conf}, name)
        lab.end_of("reconcile_slurm", name)
        value = lab.stack.api.xcom("reconcile_slurm", name, "reconcile")
        return (value if isinstance(value, dict) else json.loads(value))["plain"]

    def shown() -> str:
        return lab.cluster.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").stdout.strip()

    # A controller that was killed may still show a job that ended just before.
    until(lambda: shown() == "RUNNING", 30, "the orphan's start")
    found = reconcile("report")
    assert found["jobs without a task"] >= 1
    assert (found["cancelled"], found["tasks without a job"], shown()) == (0, 0, "RUNNING")
    assert f"  {job}  RUNNING" in lab.reconciled("jobs without a task")
    assert reconcile("clean", clean_up=True)["cancelled"] >= 1
    assert f"  {job}  cancelled" in lab.reconciled("jobs without a task")
    assert reconcile("again")["jobs without a task"] == 0


def test_profile_run_names_the_stall_of_ranks_in_a_job(lab):
    """With the trainer itself, the one place where these sites' stand-in would not do."""
    profiled_spec(Profiler.NSYS)  # skips without nsys
    conf = {"site": "trained", "dataset": "synthetic", "ranks": [2], "per_rank_batch": 16,
            "steps": 40, "repeats": 1, "profile_steps": 10, "profiler": "nsys",
            "threads_per_rank": 1, "stall": "input", "stall_ms": 120}  # fmt: skip
    api = lab.stack.api
    api.trigger("profile_run", conf, "profiled")
    ended = lab.end_of("profile_run", "profiled", 240)
    assert ended == "success", [(t.key, t.state) for t in api.tasks("profile_run", "profiled")]
    (row,) = lab.ask("profiles_of_dag_run", dag_id="profile_run", dag_run_id="profiled")
    assert (row["profiler"], row["bound"], row["pairs"]) == ("nsys", "input", 1)
    assert row["suggestion_field"] == "loader_workers"
    names = {file["name"] for file in lab.ask("profile_files", run_id=row["run_id"])}
    assert {"rank0.sqlite", "rank1.sqlite", "timeline.html", "report.pdf"} <= names
