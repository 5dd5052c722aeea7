"""What real jobs look like from outside while the cluster itself is in trouble."""

from __future__ import annotations

import time

import pytest

from tests.fixtures.slurm_cluster import throw_away_cluster
from tests.trainyard.slurm.observe import (
    SQUEUE,
    keep,
    observe,
    submit,
    wait_accounted,
    wait_for,
)
from trainyard.local.slurm import faults

pytestmark = pytest.mark.slow
WHOLE = ("-N2", "--ntasks-per-node=1", "--cpus-per-task=4", "--mem=0")


def once(marker: str) -> str:
    """Sleep long in the first attempt and end well in later ones."""
    return f'echo "{marker} ${{SLURM_RESTART_COUNT:-0}}"; [ -n "$SLURM_RESTART_COUNT" ] || sleep 90'


def test_requeue(slurm_cluster_dbd):
    cluster = slurm_cluster_dbd
    job = submit(cluster, once("requeue"), "-n1", "--requeue", "--job-name=again")
    wait_accounted(cluster, job, "RUNNING")
    cluster.ask("scontrol", "requeue", job)
    waiting = wait_for(cluster, job, "PENDING")
    assert waiting.reason == "BeginTime"
    keep(cluster, "requeued-waiting", wait_accounted(cluster, job, "PENDING"))
    wait_for(cluster, job, "COMPLETED", seconds=90)
    seen = wait_accounted(cluster, job, "COMPLETED")
    assert seen.accounted == ["REQUEUED", "COMPLETED"]
    assert seen.field("Restarts") == "1"
    keep(cluster, "requeued-completed", seen)


def test_preemption_that_requeues(slurm_cluster_dbd):
    cluster = slurm_cluster_dbd
    job = submit(cluster, once("displaced"), *WHOLE, "--partition=requeued", "--job-name=low")
    wait_accounted(cluster, job, "RUNNING")
    urgent = submit(cluster, "sleep 8", *WHOLE, "--partition=urgent", "--job-name=high")
    wait_for(cluster, urgent, "RUNNING", seconds=60)
    wait_for(cluster, job, "PENDING")
    keep(cluster, "preempted-requeue-waiting", wait_accounted(cluster, job, "PENDING"))
    wait_for(cluster, job, "COMPLETED", seconds=120)
    seen = wait_accounted(cluster, job, "COMPLETED")
    assert seen.accounted == ["PREEMPTED", "COMPLETED"]
    keep(cluster, "preempted-requeue-completed", seen)


def test_preemption_that_cancels(slurm_cluster_dbd):
    cluster = slurm_cluster_dbd
    job = submit(cluster, "sleep 90", *WHOLE, "--partition=cancelled", "--job-name=low")
    wait_accounted(cluster, job, "RUNNING")
    urgent = submit(cluster, "sleep 3", *WHOLE, "--partition=urgent", "--job-name=high")
    wait_for(cluster, job, "PREEMPTED", seconds=60)
    seen = wait_accounted(cluster, job, "PREEMPTED")
    keep(cluster, "preempted-cancel", seen)
    wait_for(cluster, urgent, "COMPLETED", seconds=60)


@pytest.mark.parametrize("requeue", [False, True])
def test_node_lost(slurm_cluster_dbd, requeue):
    cluster = slurm_cluster_dbd
    option = "--requeue" if requeue else "--no-requeue"
    job = submit(cluster, once("lost"), "-n1", "-wn2", option, "--job-name=lost")
    wait_accounted(cluster, job, "RUNNING")
    faults.power_off(cluster, "n2")
    try:
        faults.mark_down(cluster, "n2")
        wait_for(cluster, job, "PENDING" if requeue else "NODE_FAIL", seconds=60)
        seen = wait_accounted(cluster, job, "PENDING" if requeue else "NODE_FAIL")
        keep(cluster, "node-fail-requeued" if requeue else "node-fail", seen)
    finally:
        faults.power_on(cluster, "n2")
    if requeue:
        wait_for(cluster, job, "COMPLETED", seconds=120)
        keep(cluster, "node-fail-completed", wait_accounted(cluster, job, "COMPLETED"))


@pytest.mark.parametrize("kill", [False, True])
def test_controller_restarted_mid_job(slurm_cluster_dbd, kill):
    cluster = slurm_cluster_dbd
    job = submit(cluster, "srun sleep 12; exit 3", "-N2", "--job-name=survivor")
    wait_for(cluster, job, "RUNNING")
    # A crash loses what the controller has not yet written: a job submitted seconds before it is
    # then unknown to it, as if its id were wrong, though it runs.
    written = cluster.config.state / "spool" / "ctld" / "job_state"
    began = time.time()
    deadline = time.monotonic() + 30
    while not written.exists() or written.stat().st_mtime <= began:
        assert time.monotonic() < deadline, "the controller did not save its state"
        time.sleep(0.2)
    faults.restart_controller(cluster, kill=kill)
    seen = wait_for(cluster, job, "FAILED", seconds=60)
    assert seen.field("ExitCode") == "3:0"
    assert seen.field("Restarts") == "0"


def test_controller_gone_mid_job(slurm_cluster_dbd):
    """Slurm says nothing while it is away, by an error and never by an empty answer."""
    cluster = slurm_cluster_dbd
    job = submit(cluster, "sleep 9; touch done-$SLURM_JOB_ID; exit 4", "-n1", "--job-name=alone")
    wait_accounted(cluster, job, "RUNNING")
    with faults.controller_gone(cluster):
        seen = observe(cluster, job)
        assert seen.squeue.code == 1
        assert "Unable to contact slurm controller" in seen.squeue.stderr
        assert seen.scontrol.code == 1
        assert seen.sacct.code == 0, "accounting answers without the controller"
        keep(cluster, "controller-gone", seen)
        done = cluster.config.state / "out" / f"done-{job}"
        deadline = time.monotonic() + 30
        while not done.exists():
            assert time.monotonic() < deadline, "the job died with its controller"
            time.sleep(0.2)
        refused = cluster.run("sbatch", "--wrap=true", timeout=60)
        assert refused.returncode != 0
    assert wait_for(cluster, job, "FAILED", seconds=60).field("ExitCode") == "4:0"


def test_controller_frozen(slurm_cluster_dbd):
    cluster = slurm_cluster_dbd
    job = submit(cluster, "sleep 5", "-n1", "--job-name=cold")
    wait_for(cluster, job, "RUNNING")
    with faults.controller_frozen(cluster):
        began = time.monotonic()
        done = cluster.run(*SQUEUE, timeout=60)
        waited = time.monotonic() - began
    assert done.returncode == 1
    assert "timed out" in done.stderr
    assert done.stdout == ""
    assert waited >= cluster.config.message_timeout_s - 1
    wait_for(cluster, job, "COMPLETED", seconds=60)


def test_accounting_stopped_mid_job(slurm_cluster_dbd):
    """Jobs run and end without slurmdbd; what happened reaches it when it is back."""
    cluster = slurm_cluster_dbd
    job = submit(cluster, "sleep 12; exit 6", "-n1", "--job-name=unbooked")
    wait_accounted(cluster, job, "RUNNING")
    with faults.accounting_gone(cluster):
        seen = wait_for(cluster, job, "FAILED")
        assert seen.field("ExitCode") == "6:0"
        assert seen.sacct.code == 1
        keep(cluster, "accounting-gone", seen)
        other = submit(cluster, "exit 0", "-n1", "--job-name=unbooked-too")
        wait_for(cluster, other, "COMPLETED")
    assert wait_accounted(cluster, job, "FAILED", seconds=60).attempts[0].exit_code == 6
    wait_accounted(cluster, other, "COMPLETED", seconds=60)


def test_without_accounting(slurm_cluster):
    job = submit(slurm_cluster, "exit 2", "-n1", "--job-name=plain")
    seen = wait_for(slurm_cluster, job, "FAILED")
    assert seen.field("ExitCode") == "2:0"
    assert seen.sacct.code == 1
    assert "disabled" in seen.sacct.stderr
    keep(slurm_cluster, "no-accounting", seen)


def test_aged_out():
    """After MinJobAge the controller denies the job, with the words it has for a wrong id."""
    with throw_away_cluster(nodes=1, min_job_age_s=2) as cluster:
        job = submit(cluster, "exit 0", "-n1", "--job-name=old")
        wait_for(cluster, job, "COMPLETED")
        deadline = time.monotonic() + 90
        while observe(cluster, job).scontrol.code == 0:
            assert time.monotonic() < deadline, "still remembered"
            time.sleep(1)
        seen = observe(cluster, job)
        assert "Invalid job id specified" in seen.scontrol.stderr
        assert "Invalid job id specified" in seen.squeue.stderr
        keep(cluster, "aged-out", seen)
