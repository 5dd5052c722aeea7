"""A Slurm cluster of three containers on a network of their own, without a single capability."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.docker_engine import DockerEngine
from tests.trainyard.containers.test_images import LOCKED, MARK, USER, shell, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the first test builds the image

NODES = ("slurm-node-1", "slurm-node-2")


@dataclass(frozen=True)
class Cluster:
    engine: DockerEngine
    image: str
    folder: Path

    def start(self, role: str, name: str, *options: str) -> None:
        self.engine.run(
            "run", "--detach", "--name", f"{MARK}-{name}", *LOCKED, "--tmpfs", "/tmp",
            "--tmpfs", f"/run/trainyard:uid={USER},gid={USER},mode=0755,exec",
            "--tmpfs", f"/srv/slurm/state:uid={USER},gid={USER}",
            "--volume", f"{self.folder}:/run/secrets:ro", "--network", MARK,
            "--hostname", name, "--network-alias", name, *options, self.image, role,
        )  # fmt: skip

    def ask(self, *command: str, check: bool = True) -> str:
        return self.engine.run("exec", f"{MARK}-slurmctld", *command, timeout=90, check=check)

    def states(self) -> list[str]:
        return self.ask("sinfo", "--noheader", "-N", "--format", "%T", check=False).split()

    def health(self, name: str) -> str:
        return self.engine.inspect(f"{MARK}-{name}")["State"]["Health"]["Status"]

    def address(self, name: str) -> str:
        networks = self.engine.inspect(f"{MARK}-{name}")["NetworkSettings"]["Networks"]
        return networks[MARK]["IPAddress"]

    def everything_said(self) -> str:
        names = ("slurmctld", *NODES)
        return "\n".join(self.engine.run("logs", f"{MARK}-{name}", check=False) for name in names)


def make_secrets(folder: Path) -> None:
    folder.mkdir()
    (folder / "slurm_munge_key").write_bytes(secrets.token_bytes(1024))
    for name in ("slurm_ssh_host_key", "user_key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    (folder / "user_key.pub").rename(folder / "slurm_ssh_authorized_keys")
    for path in folder.glob("slurm_*"):
        if os.getuid() == 0:
            os.chown(path, USER, USER)
        else:
            path.chmod(0o644)


@pytest.fixture(scope="module")
def cluster(docker_engine, images, tmp_path_factory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm") / "secrets"
    make_secrets(folder)
    made = Cluster(docker_engine, images["slurm"], folder)
    docker_engine.run("network", "create", "--internal", MARK)
    try:
        made.start("controller", "slurmctld", "--health-interval", "1s")
        for node in NODES:
            made.start("node", node, "--health-interval", "1s")
        until(lambda: made.states() == ["idle", "idle"], 90, f"two idle nodes: {made.states()}")
        yield made
    finally:
        names = [f"{MARK}-{name}" for name in ("slurmctld", *NODES)]
        docker_engine.run("rm", "--force", *names, check=False)
        docker_engine.run("network", "rm", MARK, check=False)


def test_a_job_runs_on_both_nodes_as_the_unprivileged_user(cluster):
    said = cluster.ask("srun", "-N2", "sh", "-c", "echo $(hostname) $(hostname -i) $(id -u)")
    expected = {f"{node} {cluster.address(node)} {USER}" for node in NODES}
    assert set(said.splitlines()) == expected


def test_every_part_becomes_healthy(cluster):
    for name in ("slurmctld", *NODES):
        until(lambda name=name: cluster.health(name) == "healthy", 60, f"health of {name}")


def login(cluster: Cluster, *command: str) -> str:
    address = cluster.address("slurmctld")
    known = cluster.folder / "known_hosts"
    host_key = (cluster.folder / "slurm_ssh_host_key.pub").read_text()
    known.write_text(f"[{address}]:2222 {host_key}")
    options = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    done = subprocess.run(
        ["ssh", "-F", "none", "-i", str(cluster.folder / "user_key"), "-p", "2222",
         *(word for option in options for word in ("-o", option)),
         f"trainyard@{address}", *command],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_login_node_submits_jobs_that_find_the_trainer(cluster):
    line = "python -c 'import torch, trainer; print(trainer.__file__)'"
    job = login(cluster, "sbatch", "--parsable", "-o", "/dev/null", "--wrap", f'"srun {line}"')

    def ended() -> str:
        state = cluster.ask(
            "squeue", "--noheader", "--states=all", "--format=%T", "-j", job.strip()
        )
        return state.strip() if state.strip() in {"COMPLETED", "FAILED", "CANCELLED"} else ""

    assert until(ended, 90, "the end of the job") == "COMPLETED"


def test_a_node_that_starts_again_is_found_at_its_new_address(cluster):
    node, other = f"{MARK}-{NODES[1]}", f"{MARK}-other"
    before = cluster.address(NODES[1])
    cluster.engine.run("stop", "--time", "10", node)
    cluster.engine.run(  # takes the address that became free, as another service may
        "run", "--detach", "--name", other, "--network", MARK, "--entrypoint", "sleep",
        cluster.image, "60",
    )  # fmt: skip
    cluster.engine.run("start", node)
    try:
        assert cluster.address(NODES[1]) != before
        until(lambda: cluster.states() == ["idle", "idle"], 90, "the node's return")
        said = until(
            lambda: cluster.ask("srun", "-N2", "--immediate=20", "hostname", check=False),
            60,
            "srun",
        )
        assert set(said.split()) == set(NODES)
    finally:
        cluster.engine.run("rm", "--force", other)


def test_what_is_missing_is_named(docker_engine, images):
    tmpfs = ("--tmpfs", f"/run/trainyard:uid={USER},gid={USER},exec")
    run = "/opt/trainyard/slurm/entrypoint.sh node 2>&1; echo $?"
    said = shell(docker_engine, images["slurm"], run, *tmpfs)
    assert "secret /run/secrets/slurm_munge_key is missing or not readable for uid 10001" in said
    assert said.splitlines()[-1] == "64"
    said = shell(docker_engine, images["slurm"], run, *tmpfs[:1], tmpfs[1].removesuffix(",exec"))
    assert "mount it with exec" in said
    said = shell(
        docker_engine, images["slurm"], "/opt/trainyard/slurm/entrypoint.sh '' 2>&1 || true"
    )
    assert "choose controller, node or accounting" in said


def test_a_wrong_number_or_password_is_refused_before_a_daemon_starts(
    docker_engine, images, cluster, tmp_path
):
    secret = tmp_path / "slurm_db_password"
    secret.write_text("it's")
    secret.chmod(0o644)
    options = (
        "--tmpfs", f"/run/trainyard:uid={USER},gid={USER},exec", "--env", "SLURM_NODE_CPUS=two",
        "--volume", f"{cluster.folder}/slurm_munge_key:/run/secrets/slurm_munge_key:ro",
        "--volume", f"{secret}:/run/secrets/slurm_db_password:ro",
    )  # fmt: skip
    script = "/opt/trainyard/slurm/entrypoint.sh accounting 2>&1; SLURM_NODE_CPUS=2 "
    script += "/opt/trainyard/slurm/entrypoint.sh accounting 2>&1 || true"
    said = shell(docker_engine, images["slurm"], script, *options)
    assert "SLURM_NODE_CPUS = 'two': must be a whole number" in said
    assert "slurmdbd.conf can hold letters, digits" in said
    assert "it's" not in said
