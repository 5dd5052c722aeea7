"""Scripts that ``launch()`` renders, submitted with plain sbatch to a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.requirements import need
from tests.trainyard.slurm.observe import wait_for
from trainer.contract import Dataset, Device, RunResult, RunSpec, dumps, loads
from trainyard.launch import Launch, launch, launch_array
from trainyard.local.slurm import faults
from trainyard.paths import RunPaths
from trainyard.sites import Launcher, Site
from trainyard.slurm import wrapper
from trainyard.slurm.options import JobOptions
from trainyard.slurm.site import Rendezvous, SlurmSite

pytestmark = pytest.mark.slow
TRAINER = Path(__file__).parents[3] / ".trainyard" / "envs" / "trainer" / "bin" / "python"


def stand_in(folder: Path, text: str) -> str:
    """Write a program that plays the trainer's Python; return its path."""
    file = folder / "python"
    file.write_text(f"#!{sys.executable}\nimport json, os, signal, sys, time\n{text}\n")
    file.chmod(0o755)
    return str(file)


def site_of(folder: Path, python: str, **slurm: object) -> Site:
    return Site(
        name="test", launcher=Launcher.SLURM, python=python, runs_dir=str(folder / "runs"),
        data_dir=str(folder / "data"), cores=4, network_interface="lo", largest_ranks=8,
        slurm=SlurmSite(partition="main", rendezvous=Rendezvous.NODEADDR, **slurm),
    )  # fmt: skip


def spec_of(**more: object) -> RunSpec:
    values = {"name": "tiny", "distributed": False, "steps": 6, "per_rank_batch": 8,
              "global_batch": 8, **more}  # fmt: skip
    return RunSpec(
        dataset=Dataset.SYNTHETIC, device=Device.CPU, warmup_steps=2, window_steps=2,
        evaluate=False, **values,
    )  # fmt: skip


def submit(cluster, made: Launch, paths: RunPaths) -> str:
    paths.run_dir.mkdir(parents=True)
    paths.script.write_text(made.script)
    return cluster.ask("sbatch", "--parsable", str(paths.script)).split(";")[0]


def attempt(paths: RunPaths, job: str, restarts: int = 0) -> dict:
    return json.loads((paths.attempts / f"{job}-{restarts}.json").read_text())


def until(ready, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.1)


@pytest.mark.parametrize("folder", ["plain", "a b", "semi;colon", "p%j", "hash#", "it's", "ümlaut"])
def test_odd_folders_reach_the_job(slurm_cluster, tmp_path, folder):
    home = tmp_path / folder
    home.mkdir()
    python = stand_in(tmp_path, "print(sys.argv[3]); sys.exit(7)")
    paths = RunPaths(root=home / "runs", run_id="odd")
    made = launch(spec_of(), site_of(home, python), paths)
    job = submit(slurm_cluster, made, paths)
    seen = wait_for(slurm_cluster, job, "FAILED")
    assert seen.field("ExitCode") == "7:0"
    assert paths.exit_code.read_text() == "7\n"
    assert paths.stdout.read_text().splitlines()[-1] == str(paths.spec)
    crumb = json.loads(paths.job.read_text())
    assert (crumb["job_id"], crumb["restarts"], crumb["nodes"]) == (int(job), 0, "n1")
    assert (crumb["name"], crumb["cluster"]) == ("odd", slurm_cluster.config.name)
    assert attempt(paths, job)["exit_code"] == 7


def test_the_submitters_environment_stays_at_home(slurm_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    python = stand_in(tmp_path, "print(json.dumps(dict(os.environ)))")
    paths = RunPaths(root=tmp_path / "runs", run_id="env")
    job = submit(slurm_cluster, launch(spec_of(), site_of(tmp_path, python), paths), paths)
    wait_for(slurm_cluster, job, "COMPLETED")
    env = json.loads(paths.stdout.read_text().splitlines()[-1])
    assert "SECRET_TOKEN" not in env
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["GLOO_SOCKET_IFNAME"] == "lo"


SLEEPER = """
signal.signal(signal.SIGTERM, lambda *_: (print("told", flush=True), sys.exit(9)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["scancel", "signal"])
def test_exit_code_is_left_when_slurm_ends_the_job(slurm_cluster, tmp_path, how):
    paths = RunPaths(root=tmp_path / "runs", run_id="told")
    made = launch(spec_of(), site_of(tmp_path, stand_in(tmp_path, SLEEPER)), paths)
    job = submit(slurm_cluster, made, paths)
    until(lambda: paths.stdout.is_file() and "ready" in paths.stdout.read_text())
    if how == "scancel":
        slurm_cluster.ask("scancel", job)
        wait_for(slurm_cluster, job, "CANCELLED")
    else:  # what --signal=B:TERM@60 does a minute before the limit
        slurm_cluster.ask("scancel", "--batch", "--signal=TERM", job)
        wait_for(slurm_cluster, job, "FAILED")
    assert paths.exit_code.read_text() == "9\n"
    ended = attempt(paths, job)
    assert (ended["exit_code"], ended["signal"]) == (9, 15)
    assert "told" in paths.stdout.read_text()


DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_run_that_ignores_its_end_leaves_no_exit_code_of_success(slurm_cluster, tmp_path):
    """Srun gives up on such a step and exits with 0: nothing of it may look like a success.

    It does so when Slurm kills the job's shell; a shell that is killed first leaves no exit code.
    """
    paths = RunPaths(root=tmp_path / "runs", run_id="deaf")
    made = launch(spec_of(), site_of(tmp_path, stand_in(tmp_path, DEAF)), paths)
    job = submit(slurm_cluster, made, paths)
    until(lambda: paths.stdout.is_file() and "ready" in paths.stdout.read_text())
    slurm_cluster.ask("scancel", job)
    wait_for(slurm_cluster, job, "CANCELLED")
    until(lambda: not slurm_cluster.ask("squeue", "-h", "-j", f"{job},{job}", "-t", "CG,R"))
    until(lambda: slurm_cluster.run("pgrep", "-f", str(paths.run_dir)).stdout == "")
    assert not paths.exit_code.is_file() or paths.exit_code.read_text() == "143\n"


def test_a_command_that_exits_with_0_because_it_was_told_to_end_is_no_success(tmp_path):
    """What srun does when it gives up, at a moment of our choosing."""
    paths = RunPaths(root=tmp_path, run_id="told")
    paths.run_dir.mkdir()
    command = "bash -c 'trap \"exit 0\" TERM; touch ready; while :; do sleep 0.1; done'"
    text = f"run_dir={paths.run_dir}\n{wrapper.FUNCTIONS}\nbegin\nrun {command}\n"
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "told",
           "SLURM_JOB_NODELIST": "n1"}  # fmt: skip
    with subprocess.Popen(["bash", "-c", text], env=env) as shell:
        until((paths.run_dir / "ready").exists)
        shell.terminate()
        assert shell.wait(timeout=20) == 143
    assert paths.exit_code.read_text() == "143\n"
    assert attempt(paths, "7")["signal"] == 15


def test_a_requeue_starts_afresh_and_is_counted(slurm_cluster, tmp_path):
    """The first attempt's result and exit code must not pass for the second's."""
    text = """
count = os.environ.get("SLURM_RESTART_COUNT", "0")
run_dir = sys.argv[4]
print("attempt", count, os.path.exists(run_dir + "/exit_code"),
      os.path.exists(run_dir + "/result.json"), flush=True)
if count == "0":
    open(run_dir + "/result.json", "w").write("{}")
    time.sleep(60)
"""
    paths = RunPaths(root=tmp_path / "runs", run_id="again")
    made = launch(spec_of(), site_of(tmp_path, stand_in(tmp_path, text)), paths)
    job = submit(slurm_cluster, made, paths)
    until(paths.result.is_file)
    slurm_cluster.ask("scontrol", "requeue", job)
    wait_for(slurm_cluster, job, "COMPLETED", seconds=60)
    assert paths.stdout.read_text().splitlines() == [
        "attempt 0 False False",
        "attempt 1 False False",
    ]
    assert paths.exit_code.read_text() == "0\n"
    assert attempt(paths, job, 0)["signal"] == 15
    assert attempt(paths, job, 1)["exit_code"] == 0
    assert json.loads(paths.job.read_text())["restarts"] == 1
    assert (paths.attempts / f"{job}-1.result-before.json").is_file()


def test_set_up_that_fails_is_a_failed_run(slurm_cluster, tmp_path):
    site = site_of(tmp_path, "/bin/true", setup=("cd /nonexistent",))
    paths = RunPaths(root=tmp_path / "runs", run_id="unready")
    job = submit(slurm_cluster, launch(spec_of(), site, paths), paths)
    wait_for(slurm_cluster, job, "FAILED")
    assert paths.exit_code.read_text() == "73\n"
    assert "set-up failed" in paths.stderr.read_text()


def test_array_elements_have_folders_of_their_own(slurm_cluster, tmp_path):
    python = stand_in(tmp_path, "sys.exit(5 if sys.argv[4].endswith('sweep.1') else 0)")
    runs = [(spec_of(), RunPaths(root=tmp_path / "runs", run_id=f"sweep.{i}")) for i in range(3)]
    whole = RunPaths(root=tmp_path / "runs", run_id="sweep")
    made = launch_array(runs, site_of(tmp_path, python), whole, JobOptions(throttle=2))
    job = submit(slurm_cluster, made, whole)
    for index, state in enumerate(("COMPLETED", "FAILED", "COMPLETED")):
        wait_for(slurm_cluster, f"{job}_{index}", state)
        assert runs[index][1].exit_code.read_text() == ("5\n" if index == 1 else "0\n")
        crumb = json.loads(runs[index][1].job.read_text())
        assert (crumb["array_job_id"], crumb["array_task_id"]) == (int(job), index)


def two_ranks(nodes: int) -> RunSpec:
    return spec_of(name=f"ddp-{nodes}", distributed=True, ranks=2, nodes=nodes, global_batch=16)


def test_two_nodes_train_to_the_loss_of_one(slurm_cluster, tmp_path):
    """DDP over two nodes by Slurm and two processes on one: the same parameters, bit for bit."""
    need(TRAINER.exists(), "trainer environment (make setup-test)")
    results = {}
    for nodes in (1, 2):
        paths = RunPaths(root=tmp_path / "runs", run_id=f"ddp-{nodes}")
        paths.run_dir.mkdir(parents=True)
        paths.spec.write_text(dumps(two_ranks(nodes)))
        if nodes == 1:
            plain = Site(
                name="here", python=str(TRAINER), runs_dir=str(tmp_path / "runs"),
                data_dir=str(tmp_path / "data"), cores=2, network_interface="lo",
            )  # fmt: skip
            paths.script.write_text(launch(two_ranks(1), plain, paths).script)
            subprocess.run(["bash", str(paths.script)], check=False)
        else:
            site = site_of(tmp_path, str(TRAINER))
            paths.script.write_text(launch(two_ranks(2), site, paths).script)
            job = slurm_cluster.ask("sbatch", "--parsable", str(paths.script))
            wait_for(slurm_cluster, job, "COMPLETED", "FAILED", "TIMEOUT", seconds=240)
        assert paths.exit_code.read_text() == "0\n", paths.stderr.read_text()[-3000:]
        results[nodes] = loads(RunResult, paths.result.read_text())
    assert results[1].sane
    assert results[2].sane
    assert results[2].metric("train_loss") == results[1].metric("train_loss")
    assert results[2].parameter_hash == results[1].parameter_hash
    assert len(results[2].machines) == 2


HALF_LOST = """
if "SLURM_RESTART_COUNT" in os.environ:
    sys.exit(0)
here = os.environ["SLURM_NODEID"]
open(f"{run_dir}/began-{here}", "w").close()
while here == "1" or not os.path.exists(f"{run_dir}/lost"):
    time.sleep(0.1)
sys.exit(3)
"""


@pytest.mark.parametrize(("requeue", "state"), [(True, "COMPLETED"), (False, "FAILED")])
def test_a_node_that_comes_back_without_its_ranks_is_found_out(
    slurm_cluster, tmp_path, requeue, state
):
    """Slurm misses nothing: the node answers again before anybody asked it in vain."""
    paths = RunPaths(root=tmp_path / "runs", run_id="half")
    python = stand_in(tmp_path, f"run_dir = {str(paths.run_dir)!r}\n{HALF_LOST}")
    site = site_of(tmp_path, python, wait_time_s=3, requeue=requeue)
    job = submit(slurm_cluster, launch(two_ranks(2), site, paths), paths)
    until(lambda: all((paths.run_dir / f"began-{node}").exists() for node in (0, 1)))
    faults.power_off(slurm_cluster, "n2")
    time.sleep(1)  # so that its clock of whole seconds says "after"
    slurm_cluster.start_node("n2")
    (paths.run_dir / "lost").touch()
    seen = wait_for(slurm_cluster, job, state, seconds=120)
    assert seen.field("Restarts") == str(int(requeue))
    assert paths.exit_code.read_text() == ("0\n" if requeue else "3\n")
    assert attempt(paths, job)["exit_code"] == 3
    told = paths.stderr.read_text()
    assert "First task exited 3s ago" in told
    assert told.count("node n2: its slurmd began at ") == 1
    assert "node n1" not in told
    until(lambda: not slurm_cluster.ask("squeue", "-h", "-j", f"{job},{job}", "-t", "CG,R"))
