"""What real jobs look like from outside as they end in each way; the answers become goldens."""

from __future__ import annotations

import os
import time

import pytest

from tests.trainyard.slurm.observe import keep, observe, submit, wait_accounted, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slow_jobs(slurm_cluster_dbd):
    """Jobs that need a minute, the shortest limit there is: submitted first, waited for last."""
    cluster = slurm_cluster_dbd
    timeout = submit(cluster, "sleep 300", "--time=1", "--job-name=too-long", "-n1")
    holder = submit(cluster, "sleep 300", "-n1", "--licenses=token", "--job-name=holder")
    wait_for(cluster, holder, "RUNNING")
    deadline = submit(cluster, "sleep 1", "-n1", "--licenses=token", "--time=1",
                      "--deadline=now+70", "--job-name=deadline")  # fmt: skip
    yield {"timeout": timeout, "deadline": deadline}
    cluster.ask("scancel", holder)


@pytest.fixture(autouse=True)
def _early(slow_jobs):
    """Submit the slow jobs before anything else."""


def test_two_nodes_complete(slurm_cluster_dbd):
    script = "srun bash -c 'echo $SLURMD_NODENAME $SLURM_PROCID'"
    job = submit(
        slurm_cluster_dbd, script, "-N2", "--ntasks-per-node=1", "--job-name=both",
        "--comment=trainyard:key 1", "--gpus-per-node=1",
    )  # fmt: skip
    seen = wait_for(slurm_cluster_dbd, job, "COMPLETED")
    seen = wait_accounted(slurm_cluster_dbd, job, "COMPLETED")
    lines = (slurm_cluster_dbd.config.state / "out" / f"{job}.log").read_text().split("\n")
    assert sorted(filter(None, lines)) == ["n1 0", "n2 1"]
    assert seen.field("ExitCode") == "0:0"
    assert seen.listed[0].comment == "trainyard:key 1"
    keep(slurm_cluster_dbd, "completed", seen)


def test_running(slurm_cluster_dbd):
    job = submit(slurm_cluster_dbd, "srun sleep 60", "-N2", "--job-name=going")
    seen = wait_for(slurm_cluster_dbd, job, "RUNNING")
    seen = wait_accounted(slurm_cluster_dbd, job, "RUNNING")
    keep(slurm_cluster_dbd, "running", seen)
    slurm_cluster_dbd.ask("scancel", job)
    wait_for(slurm_cluster_dbd, job, "CANCELLED")
    seen = wait_accounted(slurm_cluster_dbd, job, "CANCELLED")
    assert seen.attempts[0].cancelled_by == os.getuid()
    keep(slurm_cluster_dbd, "cancelled-running", seen)


@pytest.mark.parametrize(
    ("case", "script", "exit_code"),
    [
        ("failed", "exit 7", "7:0"),
        ("failed-step", "srun bash -c 'exit 3'; exit 4", "4:0"),
        # bash turns its child's signal 9 into status 137; Slurm sees an ordinary exit.
        ("failed-child-killed", "bash -c 'kill -9 $$'", "137:0"),
        ("failed-script-killed", "kill -9 $$", "0:9"),
    ],
)
def test_failures(slurm_cluster_dbd, case, script, exit_code):
    job = submit(slurm_cluster_dbd, script, f"--job-name={case}", "-n1")
    wait_for(slurm_cluster_dbd, job, "FAILED")
    seen = wait_accounted(slurm_cluster_dbd, job, "FAILED")
    assert seen.field("ExitCode") == exit_code
    keep(slurm_cluster_dbd, case, seen)


def test_output_folder_missing(slurm_cluster_dbd):
    """Slurm cannot open the output: the script never runs, and no log says why."""
    job = submit(slurm_cluster_dbd, "echo hi", "-n1", "--output=/nonexistent/folder/out")
    wait_for(slurm_cluster_dbd, job, "FAILED")
    seen = wait_accounted(slurm_cluster_dbd, job, "FAILED")
    assert seen.field("ExitCode") == "0:53"
    keep(slurm_cluster_dbd, "failed-no-output-folder", seen)


def test_cancelled_while_pending(slurm_cluster_dbd):
    job = submit(slurm_cluster_dbd, "sleep 1", "--begin=now+1hour", "--job-name=later")
    seen = wait_for(slurm_cluster_dbd, job, "PENDING")
    assert seen.reason == "BeginTime"
    keep(slurm_cluster_dbd, "pending", seen)
    slurm_cluster_dbd.ask("scancel", job)
    wait_for(slurm_cluster_dbd, job, "CANCELLED")
    keep(
        slurm_cluster_dbd,
        "cancelled-pending",
        wait_accounted(slurm_cluster_dbd, job, "CANCELLED"),
    )


def test_held(slurm_cluster_dbd):
    job = submit(slurm_cluster_dbd, "sleep 1", "--hold", "--job-name=held")
    seen = wait_for(slurm_cluster_dbd, job, "PENDING")
    assert seen.reason == "JobHeldUser"
    keep(slurm_cluster_dbd, "held", seen)
    slurm_cluster_dbd.ask("scancel", job)


def test_dependency_that_can_never_be_satisfied(slurm_cluster_dbd):
    first = submit(slurm_cluster_dbd, "exit 1", "-n1")
    job = submit(slurm_cluster_dbd, "true", "-n1", f"--dependency=afterok:{first}")
    wait_for(slurm_cluster_dbd, first, "FAILED")
    seen = wait_for(slurm_cluster_dbd, job, "PENDING")
    for _ in range(100):
        seen = observe(slurm_cluster_dbd, job)
        if seen.reason == "DependencyNeverSatisfied":
            break
    assert seen.reason == "DependencyNeverSatisfied"
    keep(slurm_cluster_dbd, "dependency-never", seen)
    slurm_cluster_dbd.ask("scancel", job)


def test_array_with_one_failing_element(slurm_cluster_dbd):
    script = "[ $SLURM_ARRAY_TASK_ID -ne 2 ] || exit 5; sleep 6"
    job = submit(slurm_cluster_dbd, script, "-n1", "--array=0-9%4", "--job-name=sweep")
    wait_for(slurm_cluster_dbd, f"{job}_2", "FAILED")
    wanted, deadline = {"FAILED", "RUNNING", "PENDING"}, time.monotonic() + 15
    seen = observe(slurm_cluster_dbd, job)
    while {row.state for row in seen.listed} != wanted or set(seen.accounted) != wanted:
        assert time.monotonic() < deadline, f"not mixed: {seen}"
        seen = observe(slurm_cluster_dbd, job)
    keep(slurm_cluster_dbd, "array-mixed", seen)
    assert f"{job}_[" in seen.squeue.stdout, "pending elements share one line"
    slurm_cluster_dbd.ask("scancel", f"{job}_9")
    wait_for(slurm_cluster_dbd, f"{job}_8", "COMPLETED", seconds=60)
    seen = wait_accounted(slurm_cluster_dbd, job, "COMPLETED")
    # A pending element that was cancelled leaves no trace: not in squeue, scontrol or sacct.
    assert sorted(seen.accounted) == ["COMPLETED"] * 8 + ["FAILED"]
    assert f"{job}_9" not in seen.squeue.stdout + seen.sacct.stdout
    assert "ArrayTaskId=9 " not in seen.scontrol.stdout
    # The element that ran last carries the array's own id as its raw id.
    assert f"JobId={job} ArrayJobId={job} ArrayTaskId=8 " in seen.scontrol.stdout
    keep(slurm_cluster_dbd, "array-done", seen)


def test_heterogeneous_job(slurm_cluster_dbd):
    script = "#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n2\nsrun --het-group=0,1 sleep 1"
    job = submit(slurm_cluster_dbd, script, "--job-name=het")
    wait_for(slurm_cluster_dbd, job, "COMPLETED")
    seen = wait_accounted(slurm_cluster_dbd, job, "COMPLETED")
    assert [str(row.job_id) for row in seen.listed] == [f"{job}+0", f"{job}+1"]
    keep(slurm_cluster_dbd, "het-completed", seen)


def test_suspended(slurm_cluster_dbd):
    job = submit(slurm_cluster_dbd, "sleep 60", "-n1", "--job-name=paused")
    wait_for(slurm_cluster_dbd, job, "RUNNING")
    slurm_cluster_dbd.ask("scontrol", "suspend", job)
    keep(slurm_cluster_dbd, "suspended", wait_for(slurm_cluster_dbd, job, "SUSPENDED"))
    slurm_cluster_dbd.ask("scontrol", "resume", job)
    slurm_cluster_dbd.ask("scancel", job)


def test_unknown_job(slurm_cluster_dbd):
    seen = observe(slurm_cluster_dbd, "999999")
    assert seen.squeue.code == 1
    assert "Invalid job id specified" in seen.squeue.stderr
    assert seen.scontrol.code == 1
    assert seen.sacct.code == 0
    keep(slurm_cluster_dbd, "unknown", seen)


@pytest.mark.parametrize(("state", "exit_code"), [("TIMEOUT", "0:15"), ("DEADLINE", "0:1")])
def test_over_its_time(slurm_cluster_dbd, slow_jobs, state, exit_code):
    job = slow_jobs[state.lower()]
    wait_for(slurm_cluster_dbd, job, state, seconds=150)
    seen = wait_accounted(slurm_cluster_dbd, job, state)
    assert seen.field("ExitCode") == exit_code
    keep(slurm_cluster_dbd, state.lower(), seen)
