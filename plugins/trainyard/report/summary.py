"""The first lines of a report: title, key figures and a few sentences, all from the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.analysis.fits import LEAST_POINTS, Fit
from trainyard.analysis.scaling import WITH_DDP, WITHOUT_DDP
from trainyard.report.document import Cell, KeyFigure
from trainyard.report.text import (
    NOTHING,
    clean,
    count_of,
    listed,
    moment,
    percent,
    scaled,
    shares,
    with_unit,
)

if TYPE_CHECKING:
    from trainyard.analysis import Analysis, Curve, StudyData
    from trainyard.analysis.accuracy import AccuracyVerdict
    from trainyard.analysis.selection import Point

MOST_CURVES = 4


def title_of(data: StudyData, analysis: Analysis) -> str:
    """Return the study's own title, or one that names mode, model and data set."""
    if data.study.title:
        return clean(data.study.title)
    modes = [str(mode) for mode in dict.fromkeys(curve.series.mode for curve in analysis.curves)]
    what = f"{listed(modes)} scaling" if modes else "training runs"
    models = [model for model in data.runs["model"].unique() if model]
    where = data.study.dataset or next(iter(data.runs["dataset"]), "")
    on = f" on {clean(where)}" if where else ""
    of = f" of {clean(', '.join(models[:3]))}" if models else ""
    whole = f"{what}{of}{on}"
    return whole[0].upper() + whole[1:]


def subtitle_of(data: StudyData) -> str:
    """Return study, site and time in a line."""
    study = data.study
    parts = [study.study_id, f"site {study.site}" if study.site else ""]
    parts += [f"preset {study.preset}" if study.preset else "", moment(study.created_at)]
    return clean(" · ".join(part for part in parts if part and part != NOTHING))


def summary_of(data: StudyData, analysis: Analysis) -> tuple[str, ...]:
    """Return the summary, a sentence or two per entry."""
    said = [_counts(data, analysis)]
    for curve in analysis.curves[:MOST_CURVES]:
        said += _curve_sentences(curve)
    if len(analysis.curves) > MOST_CURVES:
        said.append(f"{len(analysis.curves) - MOST_CURVES} further scaling curves are below.")
    said += _fit_sentence(analysis)
    said += _attribution_sentence(analysis)
    verdict = _widest_verdict(analysis)
    if verdict is not None:
        said.append(accuracy_sentence(verdict))
    if analysis.deviations:
        said.append(analysis.deviations[0])
    return tuple(said)


def _counts(data: StudyData, analysis: Analysis) -> str:
    runs = data.runs
    if runs.empty:
        return "No run is recorded for this study, so there is nothing to report on."
    unsound = int((~runs["sane"]).sum())
    kept = int((analysis.excluded == "").sum())
    flagged = len(runs) - unsound - kept
    text = (
        f"{count_of(len(runs), 'run')} of {count_of(len(analysis.points), 'configuration')}: "
        f"{kept} valid, {flagged} flagged or untimed, {unsound} failed or not sane."
    )
    planned = data.study.planned_runs
    if planned is not None and planned != len(runs):
        text += f" {planned} runs were planned."
    if not kept:
        text += " Without a valid run, no comparison is made anywhere in this report."
    return text


def _curve_sentences(curve: Curve) -> list[str]:
    series = curve.series
    points = [point for point in series.points if point.step_time is not None]
    invalid = [point for point in series.points if point.step_time is None]
    said = []
    reached = [item for item in curve.against_base() if item.efficiency and item.ranks > 1]
    if reached:
        last = max(reached, key=lambda item: item.ranks)
        point = next(point for point in points if point.ranks == last.ranks)
        said.append(
            f"{series.title}: on {last.ranks} ranks {_rate(point)}, "
            f"{with_unit(scaled(last.speedup, digits=3), 'times')} the work per second of "
            f"{curve.base}, which is an efficiency of {_share(shares(last.efficiency))}."
        )
    elif points:
        most = max(points, key=lambda point: point.ranks)
        said.append(
            f"{series.title}: {_rate(most)} on {count_of(most.ranks, 'rank')}; "
            "no efficiency can be given."
        )
    if invalid:
        where = listed([str(point.ranks) for point in invalid])
        why = invalid[0].reasons[0] if invalid[0].reasons else "they never ran"
        said.append(
            f"{series.title}: no valid run on {where} ranks ({clean(why)[:160]}), "
            "so nothing is compared there."
        )
    return said


def _fit_sentence(analysis: Analysis) -> list[str]:
    """Say which curves have too few points for a law, in one sentence."""
    refused = [
        curve
        for curve in analysis.curves
        if curve.fits and not any(isinstance(fit, Fit) for fit in curve.fits)
    ]
    if not refused:
        return []
    named = listed(
        [
            f"{curve.series.mode}, batch {curve.series.batch}: {len(curve.series.valid_points)}"
            for curve in refused[:MOST_CURVES]
        ]
    )
    return [
        f"No scaling law is fitted where fewer than {LEAST_POINTS} numbers of ranks have valid "
        f"runs ({named})."
    ]


def _share(pair: tuple[str, str]) -> str:
    return pair[0] if pair[1] == NOTHING else f"{pair[0]} {pair[1]}"


def _rate(point: Point) -> str:
    return with_unit(scaled(point.throughput), "images/s")


def _attribution_sentence(analysis: Analysis) -> list[str]:
    many = [item for item in analysis.attributions if item.point.ranks > 1]
    if not many:
        return []
    most = max(many, key=lambda item: item.point.ranks)
    parts = []
    for part in most.parts[1:]:
        named = "exposed communication" if part.name == "communication" else part.name
        if part.seconds is None:
            continue
        if not part.resolved:
            parts.append(f"{named} is below resolution")
            continue
        parts.append(f"{named} takes {percent(part.seconds.value / most.step_time.value)}")
    where = f"{most.point.scaling}, batch {most.point.global_batch}, {most.point.ranks} ranks"
    return [f"In a step of {where}, {listed(parts)}."] if parts else []


def _widest_verdict(analysis: Analysis) -> AccuracyVerdict | None:
    strong = [v for curve in analysis.curves for v in curve.accuracy if v.mode == "strong"]
    known = strong or [verdict for curve in analysis.curves for verdict in curve.accuracy]
    return min(known, key=lambda verdict: verdict.ranks) if known else None


def accuracy_sentence(verdict: AccuracyVerdict) -> str:
    """Return a verdict in a sentence that says what it could have seen."""
    points = f"{100 * verdict.difference:+.2f}".replace("-", "−")
    ends = f"[{100 * verdict.low:+.2f}, {100 * verdict.high:+.2f}]".replace("-", "−")
    judged = "is the same within its interval as" if verdict.same else "differs from"
    return (
        f"Test accuracy on {verdict.ranks} ranks ({verdict.mode}, batch {verdict.batch}) {judged} "
        f"that on one rank: difference {points} {ends} percentage points. A true difference "
        f"below {100 * verdict.detectable:.2f} points could have gone unseen."
    )


def key_figures_of(analysis: Analysis) -> tuple[KeyFigure, ...]:
    """Return at most four numbers worth seeing first."""
    found = []
    points = [point for point in analysis.points if point.throughput is not None]
    if points:
        best = max(points, key=lambda p: p.throughput.value if p.throughput else 0.0)
        value, ends = scaled(best.throughput)
        found.append(
            KeyFigure(
                value=f"{value} images/s",
                label=f"highest throughput: {best.scaling}, {count_of(best.ranks, 'rank')}, "
                f"batch {best.global_batch}",
                detail=_detail(ends, best.valid),
            )
        )
    for curve in analysis.curves:
        reached = [item for item in curve.against_base() if item.efficiency and item.ranks > 1]
        if reached and len(found) < 3:  # noqa: PLR2004 - the fourth place is accuracy's
            last = max(reached, key=lambda item: item.ranks)
            value, ends = shares(last.efficiency)
            base = {WITHOUT_DDP: "vs 1 process, no DDP", WITH_DDP: "vs 1 process with DDP"}
            found.append(
                KeyFigure(
                    value=value,
                    label=f"{curve.series.mode} efficiency on {last.ranks} ranks, "
                    f"{base[curve.base]}",
                    detail=_detail(ends, last.efficiency.n if last.efficiency else 0),
                )
            )
    found += _accuracy_figure(analysis)
    return tuple(found)


def _accuracy_figure(analysis: Analysis) -> list[KeyFigure]:
    if not analysis.accuracies:
        return []
    most = max(analysis.accuracies, key=lambda item: item.point.ranks)
    ends = NOTHING
    if most.sampling is not None:
        low, high = most.sampling
        ends = f"[{100 * low:.1f}, {100 * high:.1f}]\u202f% for the test set's size"
    return [
        KeyFigure(
            value=percent(most.mean, 2),
            label=f"test accuracy on {count_of(most.point.ranks, 'rank')}",
            detail=_detail(ends, len(most.values)),
        )
    ]


def _detail(ends: str, runs: int) -> str:
    return count_of(runs, "run") if ends == NOTHING else f"{ends}, {count_of(runs, 'run')}"


def links_of(data: StudyData) -> tuple[Cell, ...]:
    """Return the study's pages in MLflow and Airflow."""
    pages = (("MLflow", data.study.mlflow_url), ("Airflow", data.study.airflow_url))
    return tuple(Cell(text=name, href=url) for name, url in pages if url)
