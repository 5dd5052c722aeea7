"""The verified environment as an Airflow asset, and whether the last verification still counts.

One asset per site, ``trainyard://environment/<site>``, through one alias: sites are chosen in the
form, and a DAG file cannot know them. Whether a verification still counts is asked of the results
database: an event says that there was one, not that nothing failed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import Asset, AssetAlias

from trainyard.hooks.backends import backend_of
from trainyard.hooks.slurm import completed, transport_of
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.store import EnvironmentCheck, Verdict, open_store

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from pydantic import JsonValue

VERIFIED = AssetAlias("trainyard-environment")
"""What a verification updates; the site's own asset stands behind it."""


def asset_of(site: str) -> Asset:
    """Return the asset of the verified environment of *site*."""
    return Asset(name=f"environment of {site}", uri=f"trainyard://environment/{site}")


def publish(context: Context, site: Site, checks: Sequence[EnvironmentCheck]) -> None:
    """Say that *site* passed: an event of its asset, with what was found."""
    events = context.get("outlet_events")
    if events is None:  # outside Airflow
        return
    prints = [check.measured for check in checks if check.name == "same as before"]
    extra: dict[str, JsonValue] = {
        "checks": len(checks),
        "warnings": sum(check.verdict == Verdict.WARNING for check in checks),
        "environment": prints[0] if prints else "not probed",
    }
    events[VERIFIED].add(asset_of(site.name), extra=extra)


def still_good(settings: Settings, site: Site) -> str:
    """Return why the last verification of *site* still counts; empty when it does not."""
    with open_store(settings.results_url) as store:
        rows = store.query("environment_latest", site=site.name)
    if not rows or any(row["verdict"] == Verdict.FAILED for row in rows):
        return ""
    if not any(row["name"] == "probes" for row in rows):
        return ""
    checked = datetime.fromisoformat(rows[0]["checked_at"])
    age = datetime.now(UTC) - checked
    if age > timedelta(hours=settings.environment_hours):
        return ""
    return f"verified at {rows[0]['checked_at']}, counts for {settings.environment_hours} hours"


def probe(
    settings: Settings,
    site: Site,
    checks: Sequence[EnvironmentCheck],
    *,
    thoroughness: str,
    nodes: int,
) -> list[EnvironmentCheck]:
    """Probe *site* and return the further checks; bad nodes of a cluster are left out from now."""
    from trainyard.apptainer.identity import identified
    from trainyard.backends.slurm import SlurmBackend
    from trainyard.errors import ConfigurationError
    from trainyard.probing.examine import Thoroughness, examine

    if thoroughness not in set(Thoroughness):
        choices = ", ".join(Thoroughness)
        raise ConfigurationError(f"probes = {thoroughness!r}; choose from {choices}")
    backend = backend_of(site)
    found = examine(
        settings,
        identified(completed(site), transport_of(site)),
        backend,
        thoroughness=Thoroughness(thoroughness),
        nodes=nodes,
        dag_run_id=checks[0].dag_run_id if checks else "",
        checked_at=checks[0].checked_at if checks else "",
    )
    if found.bad_nodes and isinstance(backend, SlurmBackend):
        backend.quarantine.add(found.bad_nodes, "verify_environment found defects")
    return list(found.checks)
