"""A real process, killed for real, by the very command that submits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from trainyard.paths import RunPaths
from trainyard.slurm.journal import JournalFile, Step

PROCESS = """
import os, sys
from pathlib import Path
from trainyard.paths import RunPaths
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.identity import JobKey
from trainyard.slurm.profile import ClusterProfile
from trainyard.slurm.submit import SubmitPatience, Submitter, SubmitRequest
from trainyard.slurm.transport import LocalTransport

folder = Path(sys.argv[1])
profile = ClusterProfile(cluster="c", version=(22, 5, 8), user="ty", min_job_age_s=300)
client = SlurmClient(LocalTransport(), folder=str(folder / "bin"))
patience = SubmitPatience(visible_s=0.2, answers=2)
request = SubmitRequest(
    key=JobKey(namespace="n", run_id="run"), paths=RunPaths(root=folder, run_id="run"), script="#!"
)
submitter = Submitter(client, profile, patience=patience, sleep=lambda s: None)
print(submitter.submit(request).target.job_id)
"""
SBATCH = """#!/bin/sh
# A controller that accepts the job, and a submitter that is killed before it hears of it.
echo x >> {folder}/accepted
[ -e {folder}/survive ] || kill -9 $PPID
echo 41
"""
SQUEUE = """#!/bin/sh
[ -e {folder}/accepted ] || exit 0
key=$(for word in "$@"; do case "$word" in --name=*) echo "${{word#--name=}}";; esac; done)
row='41\\037PENDING\\037100\\037N/A\\037N/A\\037\\037p\\037q\\037u\\037None\\037%s\\037\\037\\036\\n'
printf "$row" "$key"
"""


@pytest.mark.slow
def test_a_real_sigkill_between_acceptance_and_answer(tmp_path):
    """A real process, really killed by the very command that submits; its successor adopts."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        path = tmp_path / "bin" / name
        path.write_text(text.format(folder=tmp_path))
        path.chmod(0o755)
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    dead = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    journal = JournalFile(RunPaths(root=tmp_path, run_id="run").journal).read()
    assert [attempt.step for attempt in journal.attempts] == [Step.INTENT]
    (tmp_path / "survive").touch()
    alive = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert alive.stdout.strip() == "41"
    assert (tmp_path / "accepted").read_text() == "x\n", "sbatch ran once"
