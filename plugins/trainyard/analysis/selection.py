"""From runs to points, and from points to scaling series: what may be compared with what."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainyard.analysis.facts import texts_of
from trainyard.analysis.statistics import Estimate, estimate, harmonic_mean

if TYPE_CHECKING:
    import pandas as pd

STRONG = "strong"
WEAK = "weak"


@dataclass(kw_only=True, slots=True, frozen=True)
class Point:
    """One configuration: its valid runs, and what was kept out."""

    config_id: str
    """Hash of the specification without its seed."""
    name: str
    """Human label of the configuration."""
    scaling: str
    """Study mode the runs were planned for; a twin of another mode may use them too."""
    work: tuple[str, ...]
    """Model, data set, precision, threads per rank, site, device, host: must agree to compare."""
    ranks: int
    """Training processes."""
    distributed: bool
    """DistributedDataParallel was used."""
    per_rank_batch: int
    """Samples per rank and optimizer step (accumulation included)."""
    global_batch: int
    """Samples per optimizer step over all ranks."""
    planned: int
    """Runs recorded, valid or not."""
    flagged: int
    """Sane runs with a validity flag."""
    unsound: int
    """Runs that failed, were lost or failed a sanity check."""
    step_times: tuple[float, ...]
    """Seconds per optimizer step of every valid run."""
    rates: tuple[float, ...]
    """Images per second of every valid run."""
    step_time: Estimate | None
    """Seconds per optimizer step over the valid runs; None without any."""
    throughput: Estimate | None
    """Images per second over the valid runs; None without any."""
    harmonic_rate: float | None
    """Harmonic mean of the valid runs' images per second."""
    flagged_step_time: Estimate | None
    """The same over sane but flagged runs: shown, never compared."""
    flagged_throughput: Estimate | None
    """Images per second over sane but flagged runs: shown, never compared."""
    reasons: tuple[str, ...]
    """Why runs were kept out, each once, most frequent first."""

    @property
    def valid(self) -> int:
        """Runs behind the estimates."""
        return len(self.step_times)


@dataclass(kw_only=True, slots=True, frozen=True)
class Series:
    """Points that differ in the number of ranks alone: one scaling curve."""

    mode: str
    """strong: the global batch is fixed; weak: the batch per rank is."""
    batch: int
    """The batch that is fixed."""
    work: tuple[str, ...]
    """What else its points share."""
    points: tuple[Point, ...]
    """Distributed points by rising ranks, at most one per number of ranks."""
    plain_base: Point | None
    """One process without DistributedDataParallel, same work."""
    twins: tuple[Point, ...] = ()
    """Further points with the same ranks, left out of the curve."""

    @property
    def ddp_base(self) -> Point | None:
        """One process with DistributedDataParallel, same work."""
        return next((point for point in self.points if point.ranks == 1), None)

    @property
    def title(self) -> str:
        """Mode and what is fixed, for headings."""
        fixed = "global batch" if self.mode == STRONG else "batch per rank"
        return f"{self.mode.capitalize()} scaling, {fixed} {self.batch} fixed"

    @property
    def valid_points(self) -> tuple[Point, ...]:
        """Points with at least one valid run."""
        return tuple(point for point in self.points if point.step_time is not None)


def exclusions(runs: pd.DataFrame) -> pd.Series:
    """Return why each run is kept out of comparisons, "" where it is not; index as *runs*.

    A run counts only when the store says it is sane and comparable and it has a positive time per
    step: any doubt keeps it out.
    """
    import pandas as pd

    doubtful = runs[~(runs["sane"] & runs["comparable"])]
    columns = ["status", "phase", "reason", "sane", "flags", "flag_details"]
    said = [_reason(run) for run in doubtful[columns].to_dict("records")]
    reasons = pd.Series(said, index=doubtful.index, dtype=object).reindex(runs.index, fill_value="")
    untimed = (reasons == "") & ~(runs["step_time_s"] > 0)
    reasons[untimed] = "no time per step was measured"
    return reasons


def _reason(run: dict[Hashable, Any]) -> str:
    if run["status"] != "completed":
        where = f" in {run['phase']}" if run["phase"] else ""
        why = f": {run['reason']}" if run["reason"] else ""
        return f"{run['status'] or 'unknown state'}{where}{why}"
    if not run["sane"]:
        return f"sanity check failed: {run['reason'] or 'see the checks'}"
    flags = texts_of(run["flags"])
    details = texts_of(run["flag_details"])
    if not flags:
        return "marked as not comparable, without a flag"
    named = [
        f"{flag.replace('_', ' ')} ({details[i]})" if i < len(details) and details[i] else flag
        for i, flag in enumerate(flags)
    ]
    return "flagged " + ", ".join(named)


def points_of(runs: pd.DataFrame, excluded: pd.Series) -> tuple[Point, ...]:
    """Return one point per configuration, sorted by mode, batch and ranks."""
    kept = excluded == ""
    points = []
    keys = ["scaling", "config_id", "ranks", "site", "device", "hostname"]
    for _, rows in runs[runs["ranks"] >= 1].groupby(_compared_on(runs, keys), sort=False):
        points.append(_point(rows, kept[rows.index], excluded[rows.index]))
    return tuple(
        sorted(points, key=lambda p: (p.scaling, p.global_batch, p.ranks, p.distributed, p.name))
    )


def _compared_on(runs: pd.DataFrame, keys: list[str]) -> list[pd.Series]:
    """Group by *keys*; a run that died before it knew its device and host joins its siblings."""
    made = []
    for key in keys:
        column = runs.loc[runs["ranks"] >= 1, key]
        if key in {"device", "hostname"}:
            known = column.where(column != "")
            column = known.groupby(runs["config_id"]).transform("first").where(column == "", column)
            column = column.fillna("")
        made.append(column)
    return made


def _point(rows: pd.DataFrame, kept: pd.Series, excluded: pd.Series) -> Point:
    first = rows.iloc[0]
    known = rows[rows["device"] != ""]
    place = first if known.empty else known.iloc[0]
    valid = rows[kept]
    flagged = rows[~kept & rows["sane"] & (rows["step_time_s"] > 0)]
    accumulation = int(first["accumulation"]) if first["accumulation"] >= 1 else 1
    return Point(
        config_id=first["config_id"],
        name=first["name"],
        scaling=first["scaling"],
        work=(
            *(str(first[key]) for key in ("model", "dataset", "precision")),
            f"{first['threads_per_rank']:.0f}",
            *(str(place[key]) for key in ("site", "device", "hostname")),
        ),
        ranks=int(first["ranks"]),
        distributed=bool(first["distributed"]),
        per_rank_batch=_whole(first["per_rank_batch"]) * accumulation,
        global_batch=_whole(first["global_batch"]),
        planned=len(rows),
        flagged=len(flagged),
        unsound=int((~rows["sane"]).sum()),
        step_times=tuple(valid["step_time_s"]),
        rates=tuple(valid["images_per_second"].dropna()),
        step_time=estimate(valid["step_time_s"].to_numpy()),
        throughput=estimate(valid["images_per_second"].to_numpy()),
        harmonic_rate=harmonic_mean(valid["images_per_second"].to_numpy()),
        flagged_step_time=estimate(flagged["step_time_s"].to_numpy()),
        flagged_throughput=estimate(flagged["images_per_second"].to_numpy()),
        reasons=tuple(excluded[excluded != ""].value_counts().index),
    )


def _whole(value: float) -> int:
    return int(value) if value >= 0 else 0  # NaN is not >= 0


def series_of(points: tuple[Point, ...]) -> tuple[Series, ...]:
    """Return every scaling curve, strong before weak, by rising batch.

    A mode and a batch make a curve as soon as one point was planned for them; it then takes every
    point that did the same work, whatever mode it was planned for: suites run a configuration that
    both modes share once.
    """
    found: dict[tuple[str, int, tuple[str, ...]], None] = {}
    for point in points:
        if point.scaling in {STRONG, WEAK} and point.distributed:
            found.setdefault((point.scaling, _fixed(point, point.scaling), point.work))
    made = [_series(mode, batch, work, points) for mode, batch, work in found]
    return tuple(sorted(made, key=lambda series: (series.mode, series.batch, series.work)))


def _fixed(point: Point, mode: str) -> int:
    return point.global_batch if mode == STRONG else point.per_rank_batch


def _series(mode: str, batch: int, work: tuple[str, ...], points: tuple[Point, ...]) -> Series:
    same = [point for point in points if point.work == work and _fixed(point, mode) == batch]
    # Planned for this mode first, then by valid runs: a twin never hides the planned point.
    same.sort(key=lambda point: (point.ranks, point.scaling != mode, -point.valid))
    chosen: dict[int, Point] = {}
    twins = []
    plain = None
    for point in same:
        if not point.distributed:
            plain = plain or point
        elif chosen.setdefault(point.ranks, point) is not point:
            twins.append(point)
    return Series(
        mode=mode,
        batch=batch,
        work=work,
        points=tuple(chosen.values()),
        plain_base=plain,
        twins=tuple(twins),
    )
