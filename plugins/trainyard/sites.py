"""``Site``: where runs happen. Built-in sites are functions; a site file adds or replaces some.

The site file is TOML, one table per site, named by ``TRAINYARD_SITES`` or found beside the state
folder; its keys are the fields of ``Site``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainer.cache import Limit
from trainyard.apptainer.site import ApptainerSite, check_folder, parse_apptainer
from trainyard.docker.site import DockerSite, parse_docker
from trainyard.errors import ConfigurationError
from trainyard.slurm.site import SlurmSite, Tier, parse_slurm


class Launcher(StrEnum):
    """What starts a run; each has one renderer in ``launch`` and one backend."""

    PROCESS = "process"
    SLURM = "slurm"
    DOCKER = "docker"


@dataclass(kw_only=True, slots=True, frozen=True)
class Site:
    """Where runs happen: everything about the place and nothing about the work."""

    name: str
    """Name chosen in the trigger form."""
    launcher: Launcher = Launcher.PROCESS
    """What starts a run here."""
    python: str
    """Python of the trainer's environment, as seen where the run happens."""
    runs_dir: str
    """Folder of all run folders; on a shared file system when worker and run are on two hosts."""
    data_dir: str
    """Folder of prepared data sets, one per digest."""
    cache_dir: str = ""
    """Folder of a cache of prepared data on each node's disk; empty: none (docs/storage.md)."""
    cache_limit: str = "50%"
    """Most that the cache holds: bytes, a size (200 GB), or a share of its disk."""
    cores: int
    """Logical cores a run may use on one node."""
    gpus_per_node: int = 0
    """GPUs a run may use on one node; 0 sends the run through the CPU pool."""
    cpu_model: str = ""
    """CPU model, for references; empty when unknown."""
    network_interface: str = ""
    """Interface for gloo and NCCL (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME); empty: their choice."""
    environment: tuple[tuple[str, str], ...] = ()
    """Further environment variables of the place, as (name, value) pairs."""
    largest_ranks: int = 2
    """Ranks beyond which a study on this site is refused."""
    run_timeout_s: int = 3600
    """Seconds after which one run is stopped."""
    slurm: SlurmSite | None = None
    """The Slurm cluster behind the site; exactly when the launcher is slurm."""
    docker: DockerSite | None = None
    """The containers of the site; exactly when the launcher is docker."""
    apptainer: ApptainerSite | None = None
    """The image that runs happen in, for the launchers process and slurm; None: on the host."""

    def __post_init__(self) -> None:
        """Refuse a site on which nothing could run."""
        for name in ("cores", "largest_ranks", "run_timeout_s"):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"site {self.name!r}: {name} = {getattr(self, name)!r} must be 1 or more"
                )
        if self.gpus_per_node < 0:
            raise ConfigurationError(
                f"site {self.name!r}: gpus_per_node = {self.gpus_per_node} must be 0 or more"
            )
        self._check_places()
        for kind, part in ((Launcher.SLURM, self.slurm), (Launcher.DOCKER, self.docker)):
            if (self.launcher is kind) != (part is not None):
                raise ConfigurationError(
                    f"site {self.name!r}: launcher = {self.launcher.value!r} and a table "
                    f"[{self.name}.{kind}]: launcher = '{kind}' and such a table belong together; "
                    "give both or none"
                )
        if self.apptainer is not None:
            self._check_apptainer(self.apptainer)

    def _check_places(self) -> None:
        for name in ("runs_dir", "data_dir", "cache_dir"):
            if name == "cache_dir" and not self.cache_dir:
                continue
            if not Path(getattr(self, name)).is_absolute():
                raise ConfigurationError(
                    f"site {self.name!r}: {name} = {getattr(self, name)!r} must be an absolute "
                    "path, since the run starts in another folder"
                )
        try:
            Limit.parse(self.cache_limit)
        except ValueError as error:
            raise ConfigurationError(f"site {self.name!r}: cache_limit: {error}") from error

    def _check_apptainer(self, container: ApptainerSite) -> None:
        if self.launcher not in {Launcher.PROCESS, Launcher.SLURM}:
            raise ConfigurationError(
                f"site {self.name!r}: launcher = {self.launcher.value!r} has containers of its own "
                f"and takes no table [{self.name}.apptainer]; choose the launcher process or slurm"
            )
        if container.starts_ranks and self.launcher is not Launcher.SLURM:
            raise ConfigurationError(
                f"site {self.name!r}: apptainer.mpi = {container.mpi.value!r} lets srun start the "
                "ranks, and this site has no Slurm; set mpi = 'none', or launcher = 'slurm'"
            )
        for field in ("runs_dir", "data_dir"):
            check_folder(f"site {self.name!r}: {field}", getattr(self, field))

    @property
    def pool(self) -> str:
        """Airflow pool whose slots runs on this site take: a cluster has a queue of its own."""
        if self.slurm is not None:
            return "trainyard_slurm"
        return "trainyard_gpu" if self.gpus_per_node else "trainyard_cpu"

    @property
    def longest_s(self) -> int:
        """Seconds after which a run that is not over is given up, waiting for nodes included."""
        return self.run_timeout_s + (self.slurm.queue_limit_s if self.slurm else 0)

    def tier(self, name: str) -> Tier:
        """Return the priority tier called *name*; the empty name changes nothing."""
        if self.slurm is not None:
            return self.slurm.tier(name)
        if name:
            raise ConfigurationError(
                f"tier = {name!r}: site {self.name!r} has no queue with priorities; leave the tier "
                "empty or choose a Slurm site"
            )
        return Tier(name="")


def parse_sites(text: str, source: str) -> dict[str, Site]:
    """Return the sites a TOML text describes; *source* names it in errors."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source}: not a TOML file: {error}") from error
    return {name: _site(name, table, source) for name, table in tables.items()}


def _site(name: str, table: Mapping[str, Any], source: str) -> Site:
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{source}: {name} = {table!r} must be a table [{name}]")
    known = {field.name for field in fields(Site)} - {"name"}
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"{source}: [{name}] {key} is no field of a site; choose from "
                f"{', '.join(sorted(known))}"
            )
    values = dict(table)
    if "launcher" in values:
        values["launcher"] = _launcher(values["launcher"], name, source)
    if "environment" in values:
        values["environment"] = tuple(
            sorted((str(k), str(v)) for k, v in values["environment"].items())
        )
    if "slurm" in values:
        values["slurm"] = parse_slurm(values["slurm"], f"{source}: {name}.slurm")
    if "docker" in values:
        values["docker"] = parse_docker(values["docker"], f"{source}: {name}.docker")
    if "apptainer" in values:
        values["apptainer"] = parse_apptainer(values["apptainer"], f"{source}: {name}.apptainer")
    try:
        return Site(name=name, **values)
    except TypeError as error:
        raise ConfigurationError(f"{source}: [{name}] {error}") from error


def _launcher(value: object, name: str, source: str) -> Launcher:
    try:
        return Launcher(str(value))
    except ValueError as error:
        raise ConfigurationError(
            f"{source}: [{name}] launcher = {value!r}; choose from {', '.join(Launcher)}"
        ) from error


def load_sites(path: Path | None = None) -> dict[str, Site]:
    """Return every site by name from *path* or the file ``TRAINYARD_SITES`` names.

    Raises ``ConfigurationError`` when no file is named, it cannot be read, or it holds no site.
    """
    named = path or (
        Path(os.environ["TRAINYARD_SITES"]) if "TRAINYARD_SITES" in os.environ else None
    )
    if named is None:
        raise ConfigurationError(
            "no site file: set TRAINYARD_SITES to a TOML file with one table per site; "
            "`make demo` writes one under .trainyard/"
        )
    try:
        text = named.read_text()
    except OSError as error:
        raise ConfigurationError(f"site file {named}: {error.strerror}") from error
    sites = parse_sites(text, str(named))
    if not sites:
        raise ConfigurationError(f"site file {named}: holds no site; add a table such as [laptop]")
    return sites


def get_site(name: str, sites: Mapping[str, Site] | None = None) -> Site:
    """Return the site called *name*, or raise naming the choices."""
    known = load_sites() if sites is None else sites
    if name not in known:
        raise ConfigurationError(
            f"site = {name!r} is unknown; choose from {', '.join(sorted(known))}"
        )
    return known[name]
