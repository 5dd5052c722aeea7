"""Facts of programs around training: container engines, user namespaces, Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trainer.probes.found import Found, Place, read

_ASK_S = 5.0


def ask(argv: Sequence[str]) -> str | None:
    """Return the output of a program, None where it is missing or fails."""
    if shutil.which(argv[0]) is None:
        return None
    try:
        done = subprocess.run(
            list(argv), capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def containers(place: Place) -> Found:
    """Return which containers this process is in and could start."""
    found, root = Found(), place.root
    found.fact("container.inside", _inside(root), source="/.dockerenv, environment")
    docker = ask(["docker", "version", "--format", "{{.Server.Version}}"])
    if docker is None:
        docker = "no answer" if shutil.which("docker") else "absent"
    found.fact("docker.engine", docker, source="docker version")
    if docker not in {"absent", "no answer"}:
        runtimes = ask(
            ["docker", "info", "--format", "{{range $n, $_ := .Runtimes}}{{$n}} {{end}}"]
        )
        found.fact("docker.runtimes", runtimes, source="docker info")
        passes = "nvidia" in (runtimes or "") or (root / "etc/cdi").is_dir()
        found.fact("docker.gpu_passthrough", "yes" if passes else "no", source="runtimes, /etc/cdi")
    apptainer = ask(["apptainer", "--version"]) or ask(["singularity", "--version"])
    found.fact("apptainer.version", apptainer or "absent", source="apptainer --version")
    source = "/proc/sys/user/max_user_namespaces"
    found.fact("namespaces.user", read(root / source[1:]) or "hidden", source=source)
    user = os.environ.get("USER", str(os.getuid()))
    for name in ("subuid", "subgid"):
        lines = read(root / "etc" / name).splitlines()
        has = any(line.startswith((f"{user}:", f"{os.getuid()}:")) for line in lines)
        found.fact(f"namespaces.{name}", "yes" if has else "no", source=f"/etc/{name}")
    return found


def _inside(root: Path) -> str:
    if os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        return "apptainer"
    if (root / ".dockerenv").exists():
        return "docker"
    return "podman" if (root / "run/.containerenv").exists() else "none"


_SETTINGS = (
    "SLURM_VERSION", "ClusterName", "SelectType", "SelectTypeParameters", "TaskPlugin",
    "ProctrackType", "GresTypes", "MpiDefault", "AccountingStorageType", "PriorityType",
)  # fmt: skip


def slurm(_place: Place) -> Found:
    """Return the cluster's configuration, partitions and QOS, as far as this node may ask."""
    found = Found()
    for name in ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_QOS"):
        short = name.removeprefix("SLURM_").lower()
        found.fact(f"slurm.{short}", os.environ.get(name), source="environment", stable=False)
    if shutil.which("scontrol") is None:
        found.fact("slurm.version", "absent", source="PATH")
        return found
    told = ask(["scontrol", "show", "config"])
    if told is None:
        found.fact("slurm.version", "no answer", source="scontrol show config")
        if os.environ.get("SLURM_JOB_ID"):
            found.problem("slurm", "scontrol gets no answer inside a job", "see slurm.conf here")
        return found
    pairs = dict(
        (name.strip(), value.strip())
        for name, mark, value in (line.partition("=") for line in told.splitlines())
        if mark
    )
    for name in _SETTINGS:
        found.fact(f"slurm.{_plain(name)}", pairs.get(name), source="scontrol show config")
    _tables(found)
    return found


def _plain(name: str) -> str:
    return name.lower().removeprefix("slurm_")


def _tables(found: Found) -> None:
    for line in (ask(["sinfo", "-h", "-o", "%R|%a|%l|%D|%c|%m|%G"]) or "").splitlines():
        name, up, limit, nodes, cpus, memory, gres = line.split("|")
        text = f"{up}, {nodes} nodes of {cpus} CPUs, {memory} MB, GRES {gres}, limit {limit}"
        found.fact(f"slurm.partition.{name}", text, source="sinfo")
    rows = ask(["sacctmgr", "-nP", "show", "qos", "format=Name,Priority,MaxWall,GraceTime"])
    for line in (rows or "").splitlines():
        name, priority, wall, grace = line.split("|")
        text = f"priority {priority}, longest {wall or 'any'}, grace {grace}"
        found.fact(f"slurm.qos.{name}", text, source="sacctmgr show qos")
