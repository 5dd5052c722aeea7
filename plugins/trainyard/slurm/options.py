"""``JobOptions``: what one submission adds to spec, site and paths. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from trainyard.errors import ConfigurationError


class After(StrEnum):
    """Which end of another job a job waits for."""

    OK = "afterok"
    """It completed; else the job can never start, unless ``kill_unsatisfied``."""
    ANY = "afterany"
    """It ended in any way."""
    NOT_OK = "afternotok"
    """It failed."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Dependency:
    """Start only after the end of these jobs."""

    after: After
    """Which end."""
    jobs: tuple[str, ...]
    """Job ids, or ``id_index`` for one array element."""

    def __post_init__(self) -> None:
        """Refuse what is no job id."""
        for job in self.jobs:
            if not re.fullmatch(r"[0-9]+(_[0-9]+|_\*)?", job):
                raise ConfigurationError(
                    f"dependency on {job!r}: a job is named by its id, such as 123 or 123_4"
                )
        if not self.jobs:
            raise ConfigurationError(f"dependency {self.after} names no job; leave it out")

    def __str__(self) -> str:
        """Return the form ``--dependency`` takes."""
        return f"{self.after}:{':'.join(self.jobs)}"


@dataclass(kw_only=True, slots=True, frozen=True)
class JobOptions:
    """What one submission adds."""

    name: str = ""
    """Job name, the key a job is searched by; empty: the run id."""
    comment: str = ""
    """Job comment; empty: ``trainyard key=`` and the name."""
    dependencies: tuple[Dependency, ...] = ()
    """All of them must be satisfied."""
    singleton: bool = False
    """Start only when no other job of this name and user runs."""
    kill_unsatisfied: bool = True
    """End the job when a dependency can never be satisfied, instead of waiting for ever."""
    exclude_nodes: tuple[str, ...] = ()
    """Nodes to avoid this time, beside the site's."""
    tier: str = ""
    """Priority tier of the site."""
    requeue: bool | None = None
    """Whether Slurm may start it again; None: as the site says."""
    hold: bool = False
    """Submit held: ``scontrol release`` starts it."""
    throttle: int = 0
    """Array only: elements that may run at once; 0: as many as fit."""

    def __post_init__(self) -> None:
        """Refuse what a directive cannot hold."""
        if self.name and not JOB_NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"job name {self.name!r}: must be 1 to 200 of A-Z a-z 0-9 . _ - and begin with a "
                "letter or digit, so that squeue --name finds it again"
            )
        for node in self.exclude_nodes:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*", node):
                raise ConfigurationError(f"exclude_nodes: {node!r} is no node name")
        if self.throttle < 0:
            raise ConfigurationError(f"throttle = {self.throttle}: must be 0 or more")


JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
