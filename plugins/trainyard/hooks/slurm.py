"""``SlurmHook``: a Slurm cluster as an Airflow connection of type ``slurm``.

The connection holds no secret: a login node's key or password is in the SSH connection it names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from airflow.sdk import BaseHook

from trainyard.errors import ConfigurationError, TrainyardError
from trainyard.sites import Site
from trainyard.slurm.access import Access, local_access
from trainyard.slurm.client import SlurmClient
from trainyard.slurm.directives import slurm_of
from trainyard.slurm.profile import ClusterProfile, probe
from trainyard.slurm.site import Reach
from trainyard.slurm.transport import LocalTransport, Transport


class SlurmHook(BaseHook):
    """Reaches one Slurm cluster, on this host or through a login node.

    :param slurm_conn_id: Connection of type ``slurm``.
    """

    conn_name_attr = "slurm_conn_id"
    default_conn_name = "slurm_default"
    conn_type = "slurm"
    hook_name = "Slurm"

    def __init__(self, slurm_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        """Keep the name; the connection is read at first use."""
        super().__init__(**kwargs)
        self.slurm_conn_id = slurm_conn_id

    @functools.cached_property
    def access(self) -> Access:
        """The way to the cluster. Raises ``ConfigurationError`` naming the field that is wrong."""
        extra = self.get_connection(self.slurm_conn_id).extra_dejson
        return access_of_extra(self.slurm_conn_id, extra)

    def get_conn(self) -> SlurmClient:
        """Return a client, which asks nobody yet."""
        return self.access.client()

    def probe(self) -> ClusterProfile:
        """Ask the cluster what it is: version, accounting, PreemptMode, partitions."""
        return probe(self.get_conn())

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the cluster answers, and what it is or what to do."""
        try:
            return True, told(self.probe())
        except TrainyardError as error:
            return False, str(error)


def told(profile: ClusterProfile) -> str:
    """Return what a probe found, in a sentence."""
    version = ".".join(f"{part:02}" for part in profile.version)
    kept = "and it answers" if profile.accounting_answers else "which does not answer now"
    accounting = f"accounting by slurmdbd, {kept}" if profile.accounting else "no accounting"
    names = ", ".join(partition.name for partition in profile.partitions)
    return (
        f"Slurm {version}, cluster {profile.cluster}, user {profile.user}: {accounting}; "
        f"PreemptMode {profile.preempt_mode}; MinJobAge {profile.min_job_age_s} s; "
        f"partitions {names}"
    )


def access_of_extra(conn_id: str, extra: Mapping[str, Any]) -> Access:
    """Return the access that a connection's fields describe.

    Raises ``ConfigurationError`` naming connection, field and choices.
    """
    where = f"connection {conn_id!r}"
    given = {name: value for name, value in extra.items() if value not in (None, "")}
    environment = {"SLURM_CONF": str(given["slurm_conf"])} if "slurm_conf" in given else {}
    makers: dict[str, Callable[[], Transport]] = {
        Reach.LOCAL: lambda: LocalTransport(environment=environment),
        Reach.SSH: lambda: _ssh(where, given, environment),
    }
    chosen = str(given.get("transport", Reach.LOCAL))
    if chosen not in makers:
        raise ConfigurationError(f"{where}: transport = {chosen!r}; choose from {', '.join(Reach)}")
    if chosen == Reach.SSH and "ssh_conn_id" not in given:
        raise ConfigurationError(
            f"{where}: transport = 'ssh' needs ssh_conn_id, the SSH connection of the login node"
        )
    # Made here and not when first used: a trigger may read connections here, but not in a thread.
    transport = makers[chosen]()
    paces = {
        field: _number(where, name, given[name])
        for field, name in (("commands_per_s", "commands_per_s"), ("least_poll_s", "min_poll_s"))
        if name in given
    }
    return Access(
        name=f"{conn_id}:{chosen}:{given.get('ssh_conn_id', '')}:{given.get('slurm_conf', '')}",
        transport=lambda: transport,
        remote=chosen == Reach.SSH,
        folder=str(given.get("bin_dir", "")),
        partition=str(given.get("partition", "")),
        account=str(given.get("account", "")),
        **paces,
    )


def _number(where: str, name: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise ConfigurationError(f"{where}: {name} = {value!r} must be a number") from error


def _ssh(where: str, given: Mapping[str, Any], environment: Mapping[str, str]) -> Transport:
    try:
        from airflow.providers.ssh.hooks.ssh import SSHHook
    except ImportError as error:
        raise ConfigurationError(
            f"{where}: transport = 'ssh' needs the package apache-airflow-providers-ssh, which is "
            "not installed here"
        ) from error
    from trainyard.slurm.login import SshParameters, login_of
    from trainyard.slurm.ssh import SshTransport

    # Airflow declares what its constructor has filled in by then as optional.
    login = login_of(cast(SshParameters, SSHHook(ssh_conn_id=str(given["ssh_conn_id"]))))
    if given.get("user"):
        login = replace(login, user=str(given["user"]))
    return SshTransport.shared(login, environment=environment)


def access_of(site: Site) -> Access:
    """Return the way to the cluster of a Slurm *site*: its connection, else its site file."""
    slurm = slurm_of(site)
    if not slurm.connection:
        return local_access(slurm)
    return SlurmHook(slurm.connection).access


def transport_of(site: Site) -> Transport:
    """Return how commands run where the runs of *site* start: this host, or its login node."""
    return access_of(site).transport() if site.slurm is not None else LocalTransport()


def completed(site: Site) -> Site:
    """Return *site* with the partition and account of its connection where it names none."""
    if site.slurm is None or not site.slurm.connection:
        return site
    return replace(site, slurm=access_of(site).complete(site.slurm))
