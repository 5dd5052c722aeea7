"""``Cluster``: a real slurmctld, several slurmd, and slurmdbd on request, in one folder.

No root is needed: the daemons run as the user who calls; as a user that is not root they can
only run that user's own jobs, which is what a developer wants. Clients reach the cluster through
``SLURM_CONF`` alone, so a Slurm that the machine already runs is neither seen nor touched.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from trainyard.errors import UnavailableError
from trainyard.local.slurm.config import (
    ClusterConfig,
    Partition,
    Ports,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
)
from trainyard.local.slurm.daemons import Daemons, executable, wait_until
from trainyard.local.slurm.database import Database

_READY_S = 60.0


class Cluster:
    """One throw-away cluster; every method may be called from any process that knows its folder."""

    def __init__(self, config: ClusterConfig) -> None:
        """Describe a cluster; ``up`` starts it."""
        self.config = dataclasses.replace(config, user=getpass.getuser())
        self.daemons = Daemons(config.state, config.name)

    @classmethod
    def find(cls, state: Path) -> Cluster:
        """Return the cluster whose ``up`` wrote *state*; raise ``UnavailableError`` without one."""
        record = state / "cluster.json"
        try:
            data = json.loads(record.read_text())
        except FileNotFoundError as error:
            raise UnavailableError(
                f"{state} holds no cluster; next step: "
                f"python -m trainyard.local.slurm up --state {state}"
            ) from error
        data["config"]["state"] = Path(data["config"]["state"])
        data["config"]["partitions"] = tuple(
            Partition(**{**p, "nodes": tuple(p["nodes"])}) for p in data["config"]["partitions"]
        )
        data["config"]["features"] = tuple(tuple(f) for f in data["config"]["features"])
        data["config"]["extra"] = tuple(data["config"]["extra"])
        return cls(ClusterConfig(**data["config"]))

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment: SLURM_CONF alone."""
        return {"SLURM_CONF": str(self.config.conf)}

    # life

    def up(self) -> None:
        """Start everything and wait until every node is idle. Finding it up is fine."""
        self.check_installed()
        for folder in ("run", "log", "munge", "spool/ctld"):
            (self.config.state / folder).mkdir(parents=True, exist_ok=True, mode=0o755)
        (self.config.state / "spool" / "ctld").chmod(0o755)
        if not self.daemons.names():
            self._configure()
        self._start_munged()
        if self.config.accounting:
            self.start_dbd()
        self.start_controller()
        for name in self.config.node_names:
            self.start_node(name)
        self._wait_idle()

    def down(self) -> list[str]:
        """Stop every daemon and job; return the command lines that had to be killed."""
        with suppress(UnavailableError, subprocess.TimeoutExpired):
            if self.daemons.running("slurmctld"):
                self.daemons.signal("slurmctld", signal.SIGCONT)
                self.run("scancel", "--user", self.config.user, timeout=5)
        for name in reversed(self.daemons.names()):  # slurmds before slurmctld before munged
            if name not in {"munged", "mariadbd"}:
                self.daemons.stop(name)
        for name in ("mariadbd", "munged"):
            self.daemons.stop(name)
        return self.daemons.sweep()

    def destroy(self) -> None:
        """Stop the cluster and remove its folder."""
        self.down()
        shutil.rmtree(self.config.state, ignore_errors=True)

    def status(self) -> dict[str, object]:
        """Return names of running daemons and sinfo's answer, as JSON-ready data."""
        running = self.daemons.names()
        answer = ""
        if "slurmctld" in running:
            with suppress(subprocess.TimeoutExpired):
                answer = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").stdout
        nodes = dict(line.split(maxsplit=1) for line in answer.splitlines())
        return {
            "cluster": self.config.name,
            "SLURM_CONF": str(self.config.conf),
            "running": running,
            "nodes": {name: state.strip() for name, state in nodes.items()},
        }

    def check_installed(self) -> None:
        """Raise ``UnavailableError`` naming the fix when a program is missing."""
        needed = ["slurmctld", "slurmd", "munged", "squeue"]
        for name in needed + (["slurmdbd", "mariadbd"] if self.config.accounting else []):
            executable(name)

    # commands

    def run(
        self, *argv: str, timeout: float = 30, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a Slurm client command against this cluster; the exit code is the caller's affair."""
        env = {
            name: v for name, v in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))
        }
        return subprocess.run(
            [executable(argv[0]), *argv[1:]],
            env={**env, **self.env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ask(self, *argv: str, stdin: str | None = None) -> str:
        """Run a client command that must succeed; return its output, stripped."""
        done = self.run(*argv, stdin=stdin)
        if done.returncode != 0:
            raise UnavailableError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    # single daemons, also used to inject faults

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._daemon("slurmctld", ["slurmctld", "-D", "-f", str(self.config.conf)])
        wait_until(self._pings, "slurmctld answers", _READY_S, self.config.state / "log")

    def start_node(self, name: str) -> None:
        """Start one slurmd."""
        (self.config.state / "spool" / name).mkdir(parents=True, exist_ok=True)
        self._daemon(f"slurmd-{name}", ["slurmd", "-D", "-N", name, "-f", str(self.config.conf)])

    def start_dbd(self) -> None:
        """Start MariaDB and slurmdbd, and register cluster, account and user once."""
        database = Database(self.config, self._ports(), self.daemons)
        database.start()
        conf = self.config.state / "slurmdbd.conf"
        if not conf.exists():
            conf.touch(mode=0o600)
            conf.write_text(slurmdbd_conf(self.config, self._ports(), database.password()))
        self._daemon("slurmdbd", ["slurmdbd", "-D"])
        wait_until(self._dbd_answers, "slurmdbd answers", _READY_S, self.config.state / "log")
        self._register()

    def _register(self) -> None:
        existing = self.ask("sacctmgr", "-nP", "show", "cluster", "format=cluster")
        if self.config.name in existing.split():
            return
        for request in (
            ("add", "cluster", self.config.name),
            ("add", "account", "research", "Description=tests", "Organization=trainyard"),
            ("add", "user", self.config.user, "Account=research", "DefaultAccount=research"),
        ):
            self.ask("sacctmgr", "-i", *request)

    def _start_munged(self) -> None:
        folder = self.config.munge_socket.parent
        folder.chmod(0o755)
        key = folder / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))
        if not self.daemons.running("munged"):
            self.config.munge_socket.unlink(missing_ok=True)
        # --force: the state folder may lie under one that others can write, such as /tmp.
        argv = ["munged", "--foreground", "--force", f"--socket={self.config.munge_socket}"]
        argv += [f"--key-file={key}", f"--pid-file={folder}/pid", f"--seed-file={folder}/seed"]
        self._daemon("munged", argv)
        logs = self.config.state / "log"
        wait_until(self.config.munge_socket.exists, "munged makes its socket", 15, logs)

    def _daemon(self, name: str, argv: list[str]) -> None:
        self.daemons.start(name, argv, self.env)

    def _pings(self) -> bool:
        self._must_run("slurmctld")
        return self.run("scontrol", "ping").returncode == 0

    def _dbd_answers(self) -> bool:
        self._must_run("slurmdbd")
        return self.run("sacctmgr", "-n", "show", "cluster").returncode == 0

    def _must_run(self, name: str) -> None:
        if not self.daemons.running(name):
            out = (self.config.state / "log" / f"{name}.out").read_text(errors="replace")
            raise UnavailableError(f"{name} ended at once:\n{out[-2000:]}")

    def _wait_idle(self) -> None:
        wanted = set(self.config.node_names)
        logs = self.config.state / "log"
        wait_until(lambda: self.idle_nodes() == wanted, "all nodes idle", _READY_S, logs)

    def idle_nodes(self) -> set[str]:
        """Names of nodes that are up and free."""
        return set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").stdout.split())

    def resume(self, name: str) -> None:
        """Put a node that was DOWN or drained back to work; waits until it is idle."""
        wait_until(lambda: self._resumed(name), f"{name} idle", _READY_S, self.config.state / "log")

    def _resumed(self, name: str) -> bool:
        if name in self.idle_nodes():
            return True
        # Refused with "Invalid node state" while the node is not down: then nothing is to do.
        self.run("scontrol", "update", f"nodename={name}", "state=resume")
        return name in self.idle_nodes()

    # configuration

    def _configure(self) -> None:
        """Write the configuration for free ports; job history of an earlier life is kept."""
        state = self.config.state
        ports = free_ports(self.config)
        record = {"config": dataclasses.asdict(self.config), "ports": dataclasses.asdict(ports)}
        record["config"]["state"] = str(state)
        (state / "cluster.json").write_text(json.dumps(record, indent=2) + "\n")
        host = socket.gethostname().split(".")[0]
        self.config.conf.write_text(slurm_conf(self.config, ports, host))
        (state / "gres.conf").write_text(gres_conf(self.config))
        for index in range(self.config.gpus_per_node):
            (state / "gpu").mkdir(exist_ok=True)
            (state / "gpu" / f"gpu{index}").touch()
        if _slurm_version() >= (23, 11):
            # Newer slurmd insists on cgroups unless told otherwise; older ones reject the word.
            (state / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (state / "slurmdbd.conf").unlink(missing_ok=True)

    def _ports(self) -> Ports:
        data = json.loads((self.config.state / "cluster.json").read_text())["ports"]
        return Ports(**{**data, "nodes": tuple(data["nodes"])})


def free_ports(config: ClusterConfig) -> Ports:
    """Return ports that are free now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(config.nodes + 3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        numbers = [one.getsockname()[1] for one in sockets]
    return Ports(
        controller=numbers[0], dbd=numbers[1], database=numbers[2], nodes=tuple(numbers[3:])
    )


def _slurm_version() -> tuple[int, int]:
    words: Sequence[str] = subprocess.run(
        [executable("slurmd"), "-V"], capture_output=True, text=True, check=True
    ).stdout.split()
    major, minor = words[-1].split(".")[:2]
    return int(major), int(minor)
