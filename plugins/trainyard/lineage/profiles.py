"""What a profile found, added to the profiled run in the tracking server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.contract import Metric
from trainyard.lineage import mapping
from trainyard.lineage.artifacts import LARGEST_BYTES
from trainyard.lineage.client import TrackingClient
from trainyard.settings import Settings

if TYPE_CHECKING:
    from trainyard.store.profiles import ProfileRow


def record_profile(
    settings: Settings, mlflow_run_id: str, row: ProfileRow, files: Sequence[Path]
) -> None:
    """Add class, shares, recoverable times and overhead of *row* to its run, with small *files*.

    Idempotent: the same keys again. Files above 8 MiB stay in the object store alone. Raises
    ``UnavailableError`` when the server does not answer.
    """
    client = TrackingClient(settings.mlflow_url)
    try:
        metrics = profile_metrics(row)
        at = mapping.moment_ms(row.analysed_at) or 0
        client.log(
            mlflow_run_id,
            params={},
            tags={**profile_tags(row), **{f"unit.{m.name}": m.unit for m in metrics}},
            metrics=mapping.summary_metrics(metrics, at),
        )
        run = client.run(mlflow_run_id)
        for path in files:
            if path.stat().st_size <= LARGEST_BYTES:
                client.put_artifact(run, f"profile/{path.name}", path)
    finally:
        client.close()


def profile_tags(row: ProfileRow) -> dict[str, str]:
    """Return what a person filters runs by."""
    known = {
        "trainyard.profile.profiler": row.profiler,
        "trainyard.profile.bound": row.bound,
        "trainyard.profile.headline": row.headline,
        "trainyard.profile.report": row.report_uri,
        "trainyard.profile.slow_rank": "" if row.slow_rank is None else str(row.slow_rank),
        "trainyard.profile.suggestion": f"{row.suggestion_field} = {row.suggestion_to}"
        if row.suggestion_field
        else "",
    }
    return {name: value for name, value in known.items() if value}


def profile_metrics(row: ProfileRow) -> list[Metric]:
    """Return the numbers of *row* with units."""
    values = [("profile/step_ms", row.step_ms.value, "ms")]
    values += [
        (f"profile/{item.name}_share", item.share.value, "1")
        for item in row.shares
        if item.kind == "class"
    ]
    values += [
        (f"profile/recoverable/{mapping.key(item.name)}", item.ms.value, "ms")
        for item in row.recoverable
    ]
    values += [
        ("profile/overhead_outside", row.outside.value, "1"),
        ("profile/overhead_inside", row.inside.value, "1"),
    ]
    return [Metric(name=name, value=v, unit=unit) for name, v, unit in values if v is not None]
