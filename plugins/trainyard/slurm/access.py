"""``Access``: how one installation reaches one cluster, and what it knows of it already."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.contract import ContractError, dumps, loads
from trainyard.errors import ConfigurationError
from trainyard.files import write_atomically
from trainyard.slurm.budget import CommandBudget
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.errors import ControllerUnreachableError
from trainyard.slurm.poller import PollOptions
from trainyard.slurm.profile import ClusterProfile, probe
from trainyard.slurm.shared import check_shared
from trainyard.slurm.site import Reach, SlurmSite
from trainyard.slurm.transport import LocalTransport, Transport

LOG = logging.getLogger(__name__)
PROFILE_AGE_S = 600.0
"""Seconds for which a probe counts; partitions and PreemptMode rarely change."""
_TASK_RATE, _TASK_BURST = 5.0, 20


@dataclass(kw_only=True, slots=True, frozen=True)
class Access:
    """One way to one cluster: from an Airflow connection, or from the site file alone."""

    name: str
    """Tells clusters and ways apart within a process."""
    transport: Callable[[], Transport]
    """Makes what runs commands."""
    remote: bool = False
    """Whether commands run on another host, whose view of the run folders must be checked."""
    folder: str = ""
    """Folder of Slurm's commands; empty: PATH."""
    commands_per_s: float = 0.2
    """Most commands a second that watching sends over time, whatever the number of jobs."""
    least_poll_s: float = 6.5
    """Seconds between two looks while any job runs."""
    partition: str = ""
    """Partition where the site names none."""
    account: str = ""
    """Account where the site names none."""

    def __post_init__(self) -> None:
        """Refuse a pace at which nothing could be watched."""
        if self.commands_per_s <= 0:
            raise ConfigurationError(
                f"commands_per_s = {self.commands_per_s}: must be above 0; 0.2 suits any cluster"
            )
        if self.least_poll_s <= 0:
            raise ConfigurationError(
                f"min_poll_s = {self.least_poll_s}: must be above 0; 6.5 suits any cluster"
            )

    def client(self) -> SlurmClient:
        """Return a client for one task: a few commands, at once."""
        budget = CommandBudget(rate=_TASK_RATE, burst=_TASK_BURST)
        return SlurmClient(self.transport(), budget=budget, folder=self.folder)

    def watching_client(self) -> SlurmClient:
        """Return a client for a poller, whose budget is the hard limit on watching."""
        budget = CommandBudget(rate=self.commands_per_s, burst=5)
        return SlurmClient(self.transport(), budget=budget, folder=self.folder)

    def options(self) -> PollOptions:
        """Return how often a poller asks; ``commands_per_s`` goes before ``least_poll_s``."""
        fast_s = max(self.least_poll_s, 1.0 / self.commands_per_s)
        return PollOptions(fast_s=fast_s, slow_s=max(30.0, fast_s))

    def complete(self, slurm: SlurmSite) -> SlurmSite:
        """Return *slurm* with the connection's partition and account where it names none."""
        return replace(
            slurm,
            partition=slurm.partition or self.partition,
            account=slurm.account or self.account,
        )


def local_access(slurm: SlurmSite) -> Access:
    """Return the way to the cluster of a site that needs no connection: commands of this host.

    Raises ``ConfigurationError`` for a site that is reached over SSH or names a connection.
    """
    if slurm.reach is Reach.SSH or slurm.connection:
        raise ConfigurationError(
            f"slurm.reach = {slurm.reach.value!r}, slurm.connection = {slurm.connection!r}: this "
            "way in needs an Airflow connection of type slurm; set slurm.connection to its id, or "
            "slurm.reach = 'local' without a connection"
        )
    environment = {"SLURM_CONF": slurm.slurm_conf} if slurm.slurm_conf else {}
    return Access(
        name=f"local:{slurm.slurm_conf}", transport=lambda: LocalTransport(environment=environment)
    )


@dataclass(kw_only=True, slots=True, frozen=True)
class KnownProfile:
    """What a probe found, on disk."""

    probed_at: float
    """Seconds since 1970, our clock."""
    profile: ClusterProfile
    """What it found."""


def known_profile(
    access: Access,
    client: SlurmClient,
    folder: Path,
    *,
    max_age_s: float = PROFILE_AGE_S,
    clock: Callable[[], float] = time.time,
) -> ClusterProfile:
    """Return what kind of cluster *client* speaks to, from *folder* or by a probe.

    A thousand tasks must not send six commands each. While the controller does not answer, an
    older finding does. Raises what ``probe`` raises, and ``ConfigurationError`` when the
    run folders are others where commands run.
    """
    path = folder / f"{hashlib.sha256(access.name.encode()).hexdigest()[:12]}.profile.json"
    known = _read(path)
    if known is not None and 0 <= clock() - known.probed_at <= max_age_s:
        return known.profile
    try:
        profile = probe(client)
    except ControllerUnreachableError as error:
        if known is None:
            raise
        LOG.warning("%s; going on with what was found earlier", error)
        return known.profile
    for line in profile.plan.why:
        LOG.info("%s: %s", profile.cluster, line)
    if access.remote:
        check_shared(client.transport, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dumps(KnownProfile(probed_at=clock(), profile=profile)) + "\n")
    return profile


def _read(path: Path) -> KnownProfile | None:
    try:
        return loads(KnownProfile, path.read_text(), str(path))
    except (OSError, ContractError):
        return None
