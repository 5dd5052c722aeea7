"""What is asked of Slurm, and what its complaints mean. Texts are those of Slurm 22.05.8."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path

import pytest

from tests.fakes.slurm import FakeCluster
from tests.fakes.slurm_faults import Fault
from trainyard.errors import ConfigurationError, UnavailableError
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import (
    AccountingUnreachableError,
    CommandFailedError,
    CommandMissingError,
    ControllerUnreachableError,
    GarbageOutputError,
    SubmissionRefusedError,
    SubmissionUnknownError,
    SubmissionUnsentError,
    TransportError,
)
from trainyard.slurm.profile import probe, version_of
from trainyard.slurm.transport import Completed, LocalTransport


class Says:
    """A transport on which every command ends the same way."""

    def __init__(self, rc=0, stdout="", stderr=""):
        self.done = Completed(rc=rc, stdout=stdout, stderr=stderr, elapsed=0.0)
        self.argvs = []

    def run(self, argv, stdin=None, timeout=30):
        self.argvs.append(list(argv))
        if argv[0] == "id":
            return Completed(rc=0, stdout="ty\n", stderr="", elapsed=0.0)
        return self.done


def client(*args, **kwargs) -> SlurmClient:
    return SlurmClient(Says(*args, **kwargs))


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        (
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
            ControllerUnreachableError,
        ),
        (
            "slurm_load_jobs error: Socket timed out on send/recv operation",
            ControllerUnreachableError,
        ),
        (
            "slurm_load_jobs error: Zero Bytes were transmitted or received",
            ControllerUnreachableError,
        ),
        ("squeue: fatal: Could not establish a configuration source", ControllerUnreachableError),
        ("slurm_load_jobs error: Unexpected message received", ControllerUnreachableError),
        ("squeue: error: Munge encode failed: Failed to access socket", ControllerUnreachableError),
        ("squeue: unrecognized option '--frob'", CommandFailedError),
    ],
)
def test_a_failed_squeue_is_never_an_empty_queue(stderr, error):
    with pytest.raises(error):
        client(rc=1, stderr=stderr).squeue(jobs=[1])


def test_invalid_job_id_is_an_answer():
    asked = client(rc=1, stderr="slurm_load_jobs error: Invalid job id specified")
    assert asked.squeue(jobs=[1]) == []
    assert asked.show_job(1) == []


def test_a_complaint_with_exit_status_0_and_no_output_is_no_answer():
    with pytest.raises(ControllerUnreachableError):
        client(rc=0, stderr="slurm_load_jobs error: Socket timed out on send/recv").squeue(jobs=[1])


def test_silence_of_scontrol_is_no_answer():
    with pytest.raises(GarbageOutputError):
        client(rc=0).show_job(1)
    with pytest.raises(GarbageOutputError):
        client(rc=0).show_config()


@pytest.mark.parametrize(
    "stderr",
    [
        "Slurm accounting storage is disabled",
        "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection "
        "to host:db:6819: Connection refused\nsacct: error: Problem talking to the database",
    ],
)
def test_accounting_that_is_off_or_down_is_told_apart_from_the_controller(stderr):
    with pytest.raises(AccountingUnreachableError, match="without accounting"):
        client(rc=1, stderr=stderr).sacct(jobs=[1])


@pytest.mark.parametrize(
    ("stderr", "fix"),
    [
        ("Batch job submission failed: Invalid partition name specified", "sinfo"),
        (
            "Batch job submission failed: Invalid account or account/partition combination "
            "specified",
            "account",
        ),
        ("Batch job submission failed: Invalid qos specification", "QOS"),
        ("Batch job submission failed: Invalid feature specification", "constraint"),
        ("Invalid generic resource (gres) specification", "GPU"),
        ("Batch job submission failed: Requested node configuration is not available", "fewer"),
        ("Memory specification can not be satisfied", "memory"),
        (
            "Batch job submission failed: Pathname of a file, directory or other parameter too "
            "long",
            "shorten",
        ),
        ("This does not look like a batch script.  The first", "#!"),
        ("sbatch: unrecognized option '--bogus'", "option"),
        ("Batch job submission failed: Invalid job array specification", "MaxArraySize"),
        ("Batch job submission failed: Invalid node name specified", "node"),
        ("Batch job submission failed: Requested reservation is invalid", "reservation"),
        ("Batch job submission failed: Requested time limit is invalid", "time limit"),
    ],
)
def test_a_refused_job_names_the_fix(stderr, fix):
    with pytest.raises(SubmissionRefusedError, match=fix) as caught:
        client(rc=1, stderr=f"sbatch: error: {stderr}").sbatch("#!/bin/sh", [])
    assert isinstance(caught.value, ConfigurationError), "trying again without a change is useless"


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("Unable to contact slurm controller (connect failure)", SubmissionUnsentError),
        ("Unable to contact slurm controller (receive failure)", SubmissionUnknownError),
        ("Socket timed out on send/recv operation", SubmissionUnknownError),
        ("Slurm temporarily unable to accept job, sleeping and retrying", SubmissionUnknownError),
        ("a message of the year after next", SubmissionUnknownError),
    ],
)
def test_an_unclear_submission_is_told_apart_from_none(stderr, error):
    text = f"sbatch: error: Batch job submission failed: {stderr}"
    with pytest.raises(error) as caught:
        client(rc=1, stderr=text).sbatch("#!/bin/sh", [])
    assert isinstance(caught.value, UnavailableError)


def test_garbage_of_sbatch_means_that_there_may_be_a_job():
    with pytest.raises(SubmissionUnknownError, match="job id"):
        client(stdout="Have a nice day\n").sbatch("#!/bin/sh", [])


def test_missing_commands_name_the_fix():
    with pytest.raises(CommandMissingError, match="install"):
        client(rc=127, stderr="env: 'squeue': No such file or directory").squeue(jobs=[1])
    with pytest.raises(CommandMissingError, match="login node"):
        LocalTransport().run(["/nonexistent/sbatch"])


def test_one_command_asks_about_a_thousand_jobs():
    says = Says()
    SlurmClient(says).squeue(jobs=range(1000))
    assert len([argv for argv in says.argvs if "squeue" in argv]) == 1


def test_one_unknown_job_looks_like_several():
    """squeue calls a single unknown id an error, and leaves unknown ones of several out."""
    says = Says()
    SlurmClient(says).squeue(jobs=[12])
    assert "--jobs=12,12" in says.argvs[-1]


def test_cancelling_jobs_that_have_ended_is_no_error():
    text = "scancel: error: Kill job error on job id 5: Invalid job id specified\n"
    text += "scancel: error: Kill job error on job id 6: Job/step already completing or completed"
    client(rc=1, stderr=text).scancel(["5", "6"])
    with pytest.raises(ControllerUnreachableError):
        client(rc=1, stderr="scancel: error: Unable to contact slurm controller").scancel(["5"])


def test_times_are_asked_for_as_seconds_and_without_the_users_own_formats():
    says = Says()
    SlurmClient(says, folder="/opt/slurm/bin/").squeue(name="x")
    argv = says.argvs[-1]
    assert argv[0] == "env"
    assert "SLURM_TIME_FORMAT=%s" in argv
    assert "/opt/slurm/bin/squeue" in argv
    assert "--user=ty" in argv


# -- the local transport


def test_the_local_transport_keeps_variables_away_that_change_what_commands_do(monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SBATCH_ARRAY", "1-5")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    done = LocalTransport(environment={"EXTRA": "1"}).run(["env"])
    names = {line.split("=")[0] for line in done.stdout.splitlines()}
    assert {"SLURM_CONF", "EXTRA", "PATH"} <= names
    assert not names & {"SQUEUE_FORMAT", "SBATCH_ARRAY", "SLURM_JOB_ID"}


def test_the_local_transport_passes_words_as_they_are():
    words = ["a b", "'", '"', ";", "$HOME", "`id`", "ä\n", "*"]
    code = "import sys; sys.stdout.write(repr(sys.argv[1:]) + sys.stdin.read())"
    done = LocalTransport().run([sys.executable, "-c", code, *words], stdin="#!in")
    assert done.stdout == repr(words) + "#!in"
    assert (done.rc, done.stderr) == (0, "")


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    child = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(TransportError, match="may have had its effect"):
        LocalTransport().run(["sh", "-c", child], timeout=0.5)
    pid = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child of the killed command still runs")


# -- budget and probe


def test_the_budget_is_a_hard_limit():
    now = [0.0]
    budget = CommandBudget(
        rate=0.2, burst=3, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    for _ in range(103):
        budget.acquire()
    assert now[0] == pytest.approx(500)
    assert budget.used == 103
    assert budget.wait_s() == pytest.approx(5)
    assert not budget.try_take()
    with pytest.raises(ValueError, match="rate"):
        CommandBudget(rate=0, burst=1)


def test_the_probe_chooses_the_plan_with_accounting():
    profile = probe(SlurmClient(FakeCluster(min_job_age=42)))
    assert (profile.cluster, profile.version, profile.user) == ("fake", (22, 5, 8), "ty")
    assert (profile.min_job_age_s, profile.max_array_size) == (42, 1001)
    assert (profile.plan.use_sacct, profile.accounting_answers) == (True, True)
    assert profile.qos == ("normal", "urgent")
    with pytest.raises(ConfigurationError, match="main, requeued"):
        profile.check_partition("nosuch")
    with pytest.raises(ConfigurationError, match="urgent"):
        profile.check_qos("nosuch")


def test_the_probe_does_without_accounting_and_says_so():
    profile = probe(SlurmClient(FakeCluster(accounting=False)))
    assert not profile.plan.use_sacct
    assert "exit-code file" in " ".join(profile.plan.why)
    cluster = FakeCluster()
    cluster.dbd_down = True
    profile = probe(SlurmClient(cluster))
    assert (profile.plan.use_sacct, profile.accounting_answers) == (True, False)


def test_the_probe_refuses_a_silent_or_too_old_cluster():
    cluster = FakeCluster()
    cluster.controller_down = True
    with pytest.raises(ControllerUnreachableError):
        probe(SlurmClient(cluster))
    cluster = FakeCluster()
    cluster.faults["scontrol"] = deque([Fault.GARBAGE])
    with pytest.raises(GarbageOutputError):
        probe(SlurmClient(cluster))
    old = client(stdout="SLURM_VERSION = 19.05.5\nClusterName = c\nMinJobAge = 300 sec\n")
    with pytest.raises(ConfigurationError, match=r"20\.11"):
        probe(old)


@pytest.mark.parametrize(
    ("text", "version"),
    [("22.05.8", (22, 5, 8)), ("slurm-wlm 24.11.5", (24, 11, 5)), ("25.05.0-1", (25, 5, 0))],
)
def test_versions(text, version):
    assert version_of(text) == version


def test_an_unknown_command_on_the_fake_raises():
    with pytest.raises(AssertionError, match="sdiag"):
        FakeCluster().run(["sdiag"])
