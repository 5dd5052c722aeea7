"""``python -m trainyard.local.slurm up|down|status|install --state DIR``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from trainyard.errors import TrainyardError
from trainyard.local.slurm.cluster import Cluster
from trainyard.local.slurm.config import ClusterConfig

PACKAGES = ("slurm-wlm", "munge")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(argv)
    try:
        return int(options.command(options))
    except TrainyardError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainyard.local.slurm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="up|down|status|install")
    up = commands.add_parser("up", help="start a cluster and wait until its nodes are idle")
    up.add_argument("--nodes", type=int, default=2, help="number of slurmd (default 2)")
    up.add_argument("--cpus", type=int, default=4, help="CPUs each node claims (default 4)")
    up.add_argument("--gpus", type=int, default=0, help="GPUs each node claims, counted only")
    up.add_argument("--min-job-age", type=int, default=300, help="MinJobAge, seconds")
    up.add_argument("--dbd", action="store_true", help="with slurmdbd and its own MariaDB")
    up.set_defaults(command=_up)
    down = commands.add_parser("down", help="stop the cluster and its jobs")
    down.add_argument("--remove", action="store_true", help="remove the folder, too")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", help="print what runs, as JSON")
    status.set_defaults(command=_status)
    for command in (up, down, status):
        command.add_argument("--state", type=Path, required=True, help="the cluster's own folder")
    install = commands.add_parser("install", help="install missing Debian packages (root)")
    install.add_argument("--dbd", action="store_true", help="slurmdbd and MariaDB, too")
    install.set_defaults(command=_install)
    return parser


def _up(options: argparse.Namespace) -> int:
    config = ClusterConfig(
        state=options.state.resolve(),
        nodes=options.nodes,
        cpus_per_node=options.cpus,
        gpus_per_node=options.gpus,
        min_job_age_s=options.min_job_age,
        accounting=options.dbd,
    )
    cluster = Cluster(config)
    cluster.up()
    print(f"export SLURM_CONF={config.conf}")
    return 0


def _down(options: argparse.Namespace) -> int:
    cluster = Cluster.find(options.state.resolve())
    for line in cluster.down():
        sys.stderr.write(f"killed: {line}\n")
    if options.remove:
        cluster.destroy()
    return 0


def _status(options: argparse.Namespace) -> int:
    status = Cluster.find(options.state.resolve()).status()
    print(json.dumps(status, indent=2))
    return 0 if status["nodes"] else 1


def _install(options: argparse.Namespace) -> int:
    """Install what is missing; without root, say which command does it."""
    config = ClusterConfig(state=Path("/nowhere"), accounting=options.dbd)
    try:
        Cluster(config).check_installed()
    except TrainyardError:
        packages = [*PACKAGES, *(ACCOUNTING_PACKAGES if options.dbd else ())]
        return _apt(packages)
    return 0


def _apt(packages: list[str]) -> int:
    if os.geteuid() != 0:
        sys.stderr.write(f"run as root: apt-get install {' '.join(packages)}\n")
        return 1
    # Other installations may hold apt's lock for minutes.
    wait = ["-o", "DPkg::Lock::Timeout=600"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *packages]):
        code = subprocess.run(["apt-get", *wait, *step], env=env, check=False).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
